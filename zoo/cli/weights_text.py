"""Pretrained weights on this machine, for people."""

from __future__ import annotations

from collections.abc import Sequence

from zoo import amounts
from zoo.cli import console
from zoo.weights.inventory import CheckedWeights, HeldWeights

_PLACES = {"torch": "torchvision's folder", "hub": "the hub's cache", "zoo": "zoo's store"}
_DIGITS = 16


def print_held(held: Sequence[HeldWeights], pattern: str) -> None:
    """A row for each file, and where they lie."""
    screen = console.out()
    if not held:
        like = f" like {pattern!r}" if pattern else ""
        screen.print(f"There are no pretrained weights{like} on this machine.\nNext: zoo weights fetch NAME")
        return
    rows = [[each.name, amounts.size(each.size), _PLACES[each.place], _digest(each), each.path.name] for each in held]
    columns = ["weights", "size", "where", "SHA-256", "file"]
    console.show(screen, console.table(None, columns, rows, right=("size",)))
    folders = dict.fromkeys((each.place, _folder(each)) for each in held)
    total = amounts.size(sum({each.path: each.size for each in held}.values()))
    screen.print(f"\n{total} in all")
    for place, folder in folders:
        screen.print(f"{_PLACES[place]}: {folder}")


def print_checked(checked: Sequence[CheckedWeights]) -> None:
    """A row for each file; below, what to do about the damaged ones."""
    screen = console.out()
    if not checked:
        screen.print("There are no pretrained weights on this machine.\nNext: zoo weights fetch NAME")
        return
    rows = [[each.weights.name, each.verdict, _PLACES[each.weights.place], each.found] for each in checked]
    console.show(screen, console.table(None, ["weights", "verdict", "where", "found"], rows))
    for each in checked:
        if each.verdict == "damaged":
            screen.print(
                f"\n{each.weights.path} is damaged: expected {each.weights.digest}, found {each.found}.\n"
                f"Next: {each.next_step}"
            )
    if any(each.verdict == "unchecked" for each in checked):
        screen.print("\nunchecked: nobody published a digest, so there is nothing to compare with")


def _digest(each: HeldWeights) -> str:
    return (each.digest or "-")[:_DIGITS]


def _folder(each: HeldWeights) -> str:
    # The hub's files lie deep below: models--OWNER--NAME/snapshots/COMMIT/FILE.
    return str(each.path.parents[3] if each.place == "hub" else each.path.parent)
