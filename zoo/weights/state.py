"""Weights files read without running code in them, checked against a module, and written as safetensors.

A state is torch's word for tensors by name (`state_dict`). How a pickled file is read is in `zoo.weights.pickled`;
which tensors of a checkpoint are the model, in `zoo.weights.fitting`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.errors import WeightsError, WeightsMismatch, meant_beside
from zoo.storage.tensors import save_tensors
from zoo.weights.locations import SUFFIX
from zoo.weights.pickled import read_pickled

_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".th", ".pyth")
_POINTER = b"version https://git-lfs"
_WRAPPERS = ("state_dict", "model", "model_state", "encoder")
"""Keys under which training checkpoints keep the model's tensors; `encoder` is I-JEPA's."""


def check_weights_file(path: Path) -> None:
    """Raise WeightsError for a file that does not exist or is of an unknown kind, without opening it."""
    if not os.path.isfile(path):
        raise WeightsError(
            f"There is no weights file {str(path)!r}.{meant_beside(path, _weights_beside(path))}\n"
            "Next: check the path given to --weights."
        )
    if path.suffix.lower() not in (SUFFIX, *_PICKLED):
        kinds = ", ".join((SUFFIX, *_PICKLED))
        raise WeightsError(
            f"{path} is of an unknown kind; weights files end in {kinds}.\n"
            "Next: pass such a file; one of torch.save under another name can be renamed to end in .pth."
        )


def _weights_beside(path: Path) -> list[str]:
    try:
        return [each.name for each in path.parent.iterdir() if each.suffix.lower() in (SUFFIX, *_PICKLED)]
    except OSError:
        return []


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors, of any shape and by name, of a published file: `.safetensors`, or a pickle read without code.

    A training checkpoint's `state_dict`, `model` or `encoder` entry is unwrapped, and the prefix `module.` and zoo's
    own `backbone.` are removed. Of a user's file, `zoo.weights.fitting` finds what fits an architecture.

    Raises:
        WeightsError: The file is missing, damaged, of an unknown kind, or would run code.
    """
    return _unwrap(read_content(path))


def read_content(path: Path, *, values: bool = True) -> object:
    """Everything that a weights file holds, tensors and what is around them.

    `values` False: tensors[...] of any shape may be on the meta device or still on the disk. It takes no time, and
    names and shapes are all that can be relied on.

    Raises:
        WeightsError: The file is missing, damaged, of an unknown kind, or would run code.
    """
    check_weights_file(path)
    _refuse_pointer(path)
    if path.suffix.lower() != SUFFIX:
        return read_pickled(path, values=values)
    try:
        return load_file(path) if values else _outlines(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a readable safetensors file: {error}\nNext: copy it again; it may not be complete."
        ) from None


def _refuse_pointer(path: Path) -> None:
    """A repository that was cloned without Git LFS has a few lines of text in place of each large file."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise WeightsError(
                f"{path} is a Git LFS pointer, a text that stands for the file.\n"
                "Next: git lfs pull where it was cloned, or download the file itself."
            )


def _outlines(path: Path) -> dict[str, Tensor]:
    """Tensors without values, by name: all that the header of a safetensors file tells."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def write_safetensors(path: Path, to: Path) -> bool:
    """Copy a safetensors file, or write the tensors of a pickled one -> whether the bytes are unchanged.

    Raises WeightsError, OSError.
    """
    if path.suffix.lower() == SUFFIX:
        shutil.copyfile(path, to)
        return True
    # Cloned, because safetensors refuses tensors that share memory, as some do in a pickle.
    save_tensors(to, {name: tensor.clone() for name, tensor in read_state(path).items()})
    return False


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, architecture: str, ignore: tuple[str, ...] = ()
) -> None:
    """Copy all of `state` into `module`, or nothing.

    Tensors are cast to the module's dtype, so float16 files are fine. Batch-norm counters may be missing.

    Args:
        module: A module on a real device; on the meta device, which holds no values, names and shapes are compared.
        state: Tensors under the module's own names, each of the shape that it has in the module.
        architecture: Name of the architecture, for the message.
        ignore: Prefixes of names in `state` that the module does not use, such as the removed classifier.

    Raises:
        WeightsMismatch: Names or shapes differ; the module is unchanged.
    """
    own = module.state_dict()
    offered = {name: tensor for name, tensor in state.items() if name in own or not _has_prefix(name, ignore)}
    missing = [name for name in own if name not in offered and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in offered if name not in own]
    shapes = [
        (name, tuple(tensor.shape), tuple(own[name].shape))
        for name, tensor in offered.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        raise WeightsMismatch(architecture, missing=missing, unexpected=unexpected, shapes=shapes)
    # Not load_state_dict: some modules need version metadata in it, which safetensors does not keep.
    with torch.no_grad():
        for name, tensor in offered.items():
            own[name].copy_(tensor)


def _has_prefix(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


_STATE = "\nNext: give a file that holds the state dict of a model: torch.save(model.state_dict(), FILE)"


def _unwrap(content: object) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"The weights file holds no tensors by name, but a {type(content).__name__}.{_STATE}")
    state = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not state:
        raise WeightsError(f"The weights file holds no tensors.{_STATE}")
    if all(name.startswith("module.") for name in state):  # As DataParallel saves them.
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    # One of zoo's own classifiers: the head was trained for other classes, so the backbone alone is taken.
    backbone = {
        name.removeprefix("backbone."): tensor for name, tensor in state.items() if name.startswith("backbone.")
    }
    if backbone and all(name.startswith(("backbone.", "head.")) for name in state):
        return backbone
    return state
