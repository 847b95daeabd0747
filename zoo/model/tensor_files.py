"""Writing tensors to safetensors files."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, header: tuple[str, str] = ("format", "pt")) -> None:
    """Write tensors, made contiguous on the CPU, and flush them to the disk. Raises OSError.

    One header entry only: several are written in random order, and the bytes would differ from run to run.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata=dict([header]))
    except SafetensorError as error:
        # The library wraps what the system said; its number is all that is left of it.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number.group(1)) if number else errno.EIO, str(error)) from None
    with path.open("rb") as file:
        os.fsync(file.fileno())
