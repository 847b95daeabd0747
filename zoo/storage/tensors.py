"""Tensors in safetensors files, their digests, and equality bit by bit."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, header: tuple[str, str] = ("format", "pt")) -> None:
    """Write tensors of any shape, by name, to a safetensors file, contiguous and on the CPU, and flush it to the disk.

    There is exactly one header entry. Several are written in random order, and the bytes would differ from run to run.
    A tensor that has several names is written under each. Raises OSError.
    """
    plain: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, as those of a module that stands in several places do.
        plain[name] = own.clone() if own.untyped_storage().data_ptr() in written else own
        written.add(own.untyped_storage().data_ptr())
    try:
        save_file(plain, path, metadata=dict([header]))
    except SafetensorError as error:
        # The library wraps the system's error. Only its number is left.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number.group(1)) if number else errno.EIO, str(error)) from None
    with path.open("rb") as file:
        # safetensors closes its file without flushing it to the disk.
        os.fsync(file.fileno())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over the dtype, shape and bytes of a tensor of any shape, on any device and in any layout."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    # As bytes, because numpy has no bfloat16. Flat first: `view` cannot change the type of a single number.
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def combined_digest(digests: Mapping[str, str]) -> str:
    """SHA-256 over digests by name, in the order of the names."""
    return hashlib.sha256(
        "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items())).encode()
    ).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors of any shape, by name."""
    return combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of any shape have the same type, shape and bits; NaN equals itself, 0 is not -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)
