"""Selectors: which groups and tensors a stage's `train` names. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from zoo.errors import either, nearest

TensorKind = Literal["norm", "bias", "adapters"]
"""Kinds of tensors, in any group: scales and shifts of normalisation layers, biases, low-rank adapters."""
_SELECTORS = ("head", "all", "last", "first", "middle", "group", "norm", "bias", "adapters")


def parse_selector(selector: str) -> tuple[str, str | int | None]:
    """`last:2` -> ("last", 2). Raises ValueError for anything that is not a valid selector."""
    parsed = _parsed(selector)
    if parsed is not None:
        return parsed
    close = _nearest_selectors(selector)
    hint = f"; did you mean {either(close)}?" if close else ""
    # As ValueError, which pydantic makes a fault of the recipe with its key path.
    raise ValueError(
        f"{selector!r} is not a valid selector: head, last:N, first:N, middle:N, group:NAME, norm, bias, adapters, "
        f"all (N from 1){hint}"
    )


def _parsed(selector: str) -> tuple[str, str | int | None] | None:
    kind, colon, argument = selector.partition(":")
    if kind in ("head", "all", *get_args(TensorKind)) and not colon:
        return kind, None
    if kind in ("last", "first", "middle") and argument.isdecimal() and int(argument) > 0:
        return kind, int(argument)
    if kind == "group" and argument:
        return kind, argument
    return None


def _nearest_selectors(selector: str) -> tuple[str, ...]:
    """Valid selectors: the kinds most like the one that was written, with its number or name where they take one."""
    kind, colon, argument = (part.strip() for part in selector.partition(":"))
    if not colon:  # `last2`, `last-2`
        kind, argument = re.fullmatch(r"(.*?)[\W_]*(\d*)", kind, re.DOTALL).groups()  # type: ignore[union-attr]
    number = re.search(r"[1-9]\d*", argument, re.ASCII)
    forms: dict[str, str] = {}
    for each in _SELECTORS:
        with_argument = f"{each}:{argument}" if each == "group" else f"{each}:{number[0] if number else 1}"
        form = each if _parsed(each) else with_argument
        if _parsed(form):
            forms[each] = form
    exact = (forms[kind],) if kind in forms else ()
    return exact or tuple(forms[each] for each in nearest(kind, forms))


@dataclass(frozen=True, slots=True)
class Selection:
    """What a stage trains."""

    groups: tuple[str, ...]
    """Groups that train as a whole, in the backbone's order."""
    head: bool
    """Whether the head trains."""
    tensors: tuple[TensorKind, ...] = ()
    """Kinds of tensors that train in every group of the backbone."""
    adapters: tuple[str, ...] = ()
    """Full names of the layers that get adapters. They are found on the model."""

    @property
    def backbone(self) -> bool:
        """Whether anything of the backbone trains."""
        return bool(self.groups or self.tensors)


def select(train: Sequence[str], groups: Sequence[str], *, path: str) -> tuple[Selection, list[str]]:
    """Resolve a stage's selectors against a backbone's groups, given from input to output -> (selection, faults)."""
    chosen: set[str] = set()
    tensors: list[TensorKind] = []
    head = False
    faults = []
    for index, selector in enumerate(train):
        kind, argument = parse_selector(selector)
        where = f"{path}.train[{index}]"
        has = ", ".join(groups)
        if kind == "head":
            head = True
        elif kind == "all":
            head = True
            chosen.update(groups)
        elif kind in get_args(TensorKind):
            tensors.append(cast("TensorKind", kind))
        elif isinstance(argument, int) and argument > len(groups):
            faults.append(f"{where}: {selector!r} asks for {argument} groups, this backbone has {len(groups)}: {has}")
        elif isinstance(argument, int):
            chosen.update(_run_of(groups, kind, argument))
        elif argument in groups:
            chosen.add(str(argument))
        else:
            close = [f"group:{each}" for each in nearest(str(argument), groups)]
            hint = f" Did you mean {either(close)}?" if close else ""
            faults.append(f"{where}: {selector!r} matches no group.{hint} The groups are: {has}")
    return Selection(tuple(name for name in groups if name in chosen), head, tuple(dict.fromkeys(tensors))), faults


def _run_of(groups: Sequence[str], kind: str, count: int) -> Sequence[str]:
    """`count` groups at one end, or around the middle. Of two middles, the one nearer to the input is taken."""
    start = {"first": 0, "middle": (len(groups) - count) // 2, "last": len(groups) - count}[kind]
    return groups[start : start + count]
