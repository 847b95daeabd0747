"""A weights file as safetensors, without running code of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from zoo.model.tensor_files import save_tensors
from zoo.model.weights import read_state
from zoo.weights.store import ENDING


def write_safetensors(path: Path, to: Path) -> bool:
    """Copy a safetensors file as it is, or write what a pickled one holds, read with `weights_only` -> whether the
    bytes are upstream's own. Raises WeightsError, OSError."""
    if path.suffix == ENDING:
        shutil.copyfile(path, to)
        return True
    # Cloned: tensors that share memory in the pickle are written one by one.
    save_tensors(to, {name: tensor.clone() for name, tensor in read_state(path).items()})
    return False
