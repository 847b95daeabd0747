"""Which tensors of a checkpoint are the model: the entry and the prefix under which an architecture's own names fit.

Names decide, not a list of known programs: `module.`, `_orig_mod.`, `model.` and whatever a program puts around a model
end where the architecture's own names begin. A published file may also have the names of another library, which only
the provider can convert. So where names do not decide, the provider is asked whether it takes the tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError, WeightsMismatch
from zoo.weights.entries import Entry, architecture_of, find_entries, is_average, keys_of, preference

_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Wrappers of torch that may stand anywhere in a name, and that no architecture has."""
_AROUND = ("module.", "model.", "timm_model.", "backbone.", "net.", "network.", "encoder.")
"""Tried around names of another library, where the architecture's own names do not tell."""
_TRIES = 8
"""Most prefixes of an entry that are looked at, and most views that a provider is asked about: it builds for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What weights are fitted to."""

    label: str
    """`provider/architecture`, for messages."""
    own: Callable[[], Mapping[str, tuple[int, ...]]]
    """Name -> shape of every tensor of the module without classifier; it is built for that, so only when needed."""
    refusal: Callable[[Mapping[str, Tensor], bool], WeightsError | None]
    """(tensors of any shape by name, with values) -> why the provider does not take them; None: it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The tensors that were taken from a checkpoint."""

    state: Mapping[str, Tensor]
    """Tensors of any shape, by the names that the provider knows."""
    taken: str | None
    """Entry and prefix, such as `state_dict_ema, without the prefix 'module.'`; None: the whole file as it is."""
    others: tuple[str, ...]
    """Entries and prefixes that fit too and were not taken."""
    left_out: tuple[str, ...]
    """Names of tensors in the entry that are not under the prefix."""

    def note(self, path: Path) -> str:
        """What was taken, for people; empty where there is nothing to tell."""
        if self.taken is None and not self.others:
            return ""
        lines = [f"Weights taken from {path.name}: {self.taken or 'the tensors at the top'}."]
        if self.others:
            why = "a moving average comes first, as in timm" if is_average(self.taken or "") else "the first that fits"
            lines.append(
                f"Others in it fit too and were not taken ({why}): {'; '.join(self.others)}.\n"
                "To train from one of them, save it alone as a file of its own, and pass that."
            )
        if self.left_out:
            more = ", ..." if len(self.left_out) > 3 else ""
            lines.append(f"Left out, for they are not the backbone's: {', '.join(self.left_out[:3])}{more}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _View:
    """An entry with a prefix taken off."""

    entry: Entry
    prefix: str
    state: Mapping[str, Tensor]
    missing: int
    other_shapes: int
    left_out: tuple[str, ...]

    @property
    def taken(self) -> str:
        without = f"without the prefix {self.prefix!r}" if self.prefix else ""
        return ", ".join(filter(None, (self.entry.name, without)))

    def rank(self, *, averages_first: bool) -> tuple[Any, ...]:
        return preference([*self.entry.path, *filter(None, [self.prefix])], averages_first=averages_first)


def fit(
    content: object, path: Path, architecture: Architecture, *, averages_first: bool = True, values: bool = True
) -> Fit:
    """Find the tensors of an architecture in a checkpoint.

    Args:
        content: What was read: tensors by name, in any nesting.
        path: The file, for messages.
        architecture: What they are to fit.
        averages_first: Whether a moving average is taken where it fits as well as the weights that it averages.
        values: Whether the tensors hold values. Without them the provider may refuse what it would take with them.

    Raises:
        WeightsError: The file holds no tensors by name.
        WeightsMismatch: None of them are for this architecture.
    """
    entries = find_entries(content)
    if not entries:
        raise WeightsError(
            f"{path} holds no tensors by name. It holds:\n{keys_of(content, entries)}\n"
            "Next: save the model's tensors where it was trained, torch.save(model.state_dict(), FILE), and pass that."
        )
    own = architecture.own()
    views = [view for entry in entries for view in _views(entry, own)]
    whole = [view for view in views if not view.missing]
    # Entries of the right names and other shapes fit another architecture of the same family.
    same = [view for view in whole if not view.other_shapes] or whole
    same.sort(key=lambda view: view.rank(averages_first=averages_first))
    if same:
        return _fit(same[0], [view for view in same[1:] if not _same_values(same[0], view)])
    views.sort(key=lambda view: (view.missing, *view.rank(averages_first=averages_first)))
    return _fit(_first_accepted(views[:_TRIES], content, entries, path, architecture, values), [])


def _first_accepted(
    views: Sequence[_View],
    content: object,
    entries: Sequence[Entry],
    path: Path,
    architecture: Architecture,
    values: bool,
) -> _View:
    """The first view that the provider takes. The best are tried with values, for some conversions look at them."""
    refusals = []
    for with_values, tried in ((True, views[:2]), (False, views)) if values else ((False, views),):
        for view in tried:
            refusal = architecture.refusal(view.state, with_values)
            if refusal is None:
                return view
            refusals.append(refusal)
    refusal = refusals[0]  # of the best view, with values where there are any: it is what building with it would say
    if not isinstance(refusal, WeightsMismatch):
        raise refusal
    stated = architecture_of(content)
    says = f"\nIt says that it is of {stated!r}." if stated else ""
    raise WeightsMismatch(
        refusal.architecture,
        missing=refusal.missing,
        unexpected=refusal.unexpected,
        shapes=refusal.shapes,
        holds=f"{path.name} holds:\n{keys_of(content, entries)}{says}",
    )


def _same_values(one: _View, other: _View) -> bool:
    """Whether two views hold the same model twice. Without values nobody knows, and they count as different."""
    if one.state.keys() != other.state.keys():
        return False
    pairs = [(tensor, other.state[name]) for name, tensor in one.state.items()]
    return all(
        # In this order: on the meta device, where there are no values, `torch.equal` raises.
        mine.device.type != "meta" and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        for mine, theirs in pairs
    )


def _fit(view: _View, others: Sequence[_View]) -> Fit:
    return Fit(
        state=view.state,
        taken=view.taken or None,
        others=tuple(other.taken or "the tensors at the top" for other in others),
        left_out=view.left_out,
    )


def _views(entry: Entry, own: Mapping[str, tuple[int, ...]]) -> Iterator[_View]:
    """The entry with every prefix taken off under which own names are, and as it is."""
    clean = {_without_wrappers(name): tensor for name, tensor in entry.tensors.items()}
    prefixes = _prefixes(clean, own)
    for prefix in prefixes:
        state = {name.removeprefix(prefix): tensor for name, tensor in clean.items() if name.startswith(prefix)}
        # But for the counters of batch norms, which files of old versions of torch lack and inference does not use.
        missing = sum(name not in state and not name.endswith("num_batches_tracked") for name in own)
        shapes = sum(name in state and tuple(state[name].shape) != shape for name, shape in own.items())
        left_out = tuple(name for name in clean if not name.startswith(prefix))
        yield _View(entry, _as_written(entry.tensors, prefix), state, missing, shapes, left_out)


def _as_written(names: Mapping[str, Tensor], prefix: str) -> str:
    """The prefix as it is in the file, with torch's wrappers."""
    longest = ""
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            written = "".join(f"{part}." for part in parts[:depth])
            if _without_wrappers(written) == prefix and len(written) > len(longest):
                longest = written
        if longest:
            break
    return longest


def _prefixes(names: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Prefixes under which own names are found, most of them first, and those that programs often use."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in own:
                found["".join(f"{part}." for part in parts[:depth])] += 1
    most = [prefix for prefix, _ in found.most_common(_TRIES)]
    return list(dict.fromkeys([*most, "", *_usual(names)]))


def _usual(names: Mapping[str, Tensor]) -> list[str]:
    """The usual prefixes that names have, the longest nesting first: `module.model.`, `module.`."""
    longest = ""
    nested: list[str] = []
    while True:
        inner = [name.removeprefix(longest) for name in names if name.startswith(longest)]
        step = next((each for each in _AROUND if any(name.startswith(each) for name in inner)), None)
        if step is None:
            return nested[::-1]
        longest += step
        nested.append(longest)


def _without_wrappers(name: str) -> str:
    for wrapper in _INSIDE:
        name = name.replace(wrapper, "")
    return name
