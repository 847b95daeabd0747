"""The entries of a checkpoint: every set of tensors by name that it holds, wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.weights.pickled import NumpyArray, Values

_KNOWN = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "encoder")
"""Names of entries in the order in which they are preferred: timm's, then those of others. `encoder` is I-JEPA's."""
_AVERAGES = frozenset({"ema", "averaged", "teacher"})
"""Words in the name of a moving average of the weights; `teacher` is DINO's."""
_DEPTH = 6
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """Tensors by name, of any shape, at one place of a checkpoint."""

    path: tuple[str, ...]
    """Keys that lead to them; empty where the file holds nothing around them."""
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The keys with dots between them."""
        return ".".join(self.path)


def find_entries(content: object) -> list[Entry]:
    """Every entry of a checkpoint, in its order. The state of an optimizer is by number, not by name, and is none."""
    return list(_entries(content, ()))


def is_average(name: str) -> bool:
    """Whether a name, of entries or tensors, says that the weights are a moving average."""
    return not _AVERAGES.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def preference(path: Sequence[str], *, averages_first: bool) -> tuple[Any, ...]:
    """What entries that serve equally well are sorted by."""
    # The end of a path comes after known keys and before all others: `state_dict.model`, `state_dict`, `state_dict.x`.
    known = [_KNOWN.index(key) if key in _KNOWN else len(_KNOWN) + 1 for key in path]
    return (is_average(".".join(path)) != averages_first, *known, len(_KNOWN))


def keys_of(content: object, entries: Sequence[Entry]) -> str:
    """What a checkpoint holds, for people: its entries with a few names, or its keys where none has tensors."""
    if entries:
        shown = [f"{each.name or 'at the top'}: {_names(list(each.tensors))}" for each in entries[:_SHOWN]]
        return "\n".join(f"    {line}" for line in shown)
    if isinstance(content, Mapping) and content:
        return "    " + ", ".join(f"{key} ({_kind(value)})" for key, value in list(content.items())[:20])
    return f"    no keys: it is {'empty' if isinstance(content, Mapping) else f'a {type(content).__name__}'}"


def architecture_of(content: object) -> str:
    """The architecture that a checkpoint says it is of, as timm and others store it; empty where it does not."""
    if not isinstance(content, Mapping):
        return ""
    options = content.get("args")
    inside = vars(options) if isinstance(options, Values) else options if isinstance(options, Mapping) else {}
    stated = (content.get("arch"), inside.get("arch"), inside.get("model"))
    return next((each for each in stated if isinstance(each, str) and each), "")


def _entries(content: object, path: tuple[str, ...]) -> Iterator[Entry]:
    # Files come from anywhere, and may be nested as deep as they like.
    if len(path) > _DEPTH:
        return
    if isinstance(content, (list, tuple)):
        content = {f"[{number}]": item for number, item in enumerate(content) if isinstance(item, Mapping)}
    if not isinstance(content, Mapping):
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: tensor for name, value in named.items() if (tensor := _tensor(value)) is not None}
    if tensors:
        yield Entry(path, tensors)
    for name, value in named.items():
        yield from _entries(value, (*path, name))


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, NumpyArray):
        return None if value.array is None else torch.from_numpy(value.array)
    if isinstance(value, np.ndarray):  # where a program has told torch that numpy's own are safe
        return torch.from_numpy(value) if value.dtype.kind in "biuf" else None
    return value if isinstance(value, Tensor) else None


def _kind(value: object) -> str:
    return "object" if isinstance(value, Values) else type(value).__name__


def _names(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} tensors)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
