"""The proof of a soup: it is the average that it claims to be, of runs that are what they recorded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.evaluation.metrics import Scores
from zoo.specs.run_result import Check, Verdict
from zoo.storage.tensors import same_bits
from zoo.training.soup.average import not_worse

_CLOSE_ACCURACY, _CLOSE_LOSS = 0.01, 0.05
"""How far scores on another machine, of other versions or in bfloat16, may be from those that a run recorded: images as
a share of all, and loss as a share of the recorded one (or in nats, where that is below 1)."""
_NAMED = 3
"""Tensors or runs that a summary names."""


def check_ingredients(scored: Sequence[tuple[str, Scores, Scores]]) -> Check:
    """Compare the validation scores that runs recorded with those that their saved weights have here.

    `scored`: name, recorded scores and scores here, of each run.
    """
    verdicts = [_as_recorded(recorded, here) for _, recorded, here in scored]
    verdict: Verdict = "failed" if "failed" in verdicts else "warning" if "warning" in verdicts else "passed"
    differing = [
        f"{name}: accuracy {recorded.accuracy:.4f} then, {here.accuracy:.4f} now; loss {recorded.loss:.6g} then, "
        f"{here.loss:.6g} now"
        for (name, recorded, here), each in zip(scored, verdicts, strict=True)
        if each != "passed"
    ]
    return Check(
        name="ingredients",
        verdict=verdict,
        summary="; ".join(differing[:_NAMED])
        if differing
        else f"the weights of {len(scored)} runs have the validation accuracy and loss that the runs recorded",
        evidence={name: {"recorded": recorded.to_dict(), "here": here.to_dict()} for name, recorded, here in scored},
    )


def _as_recorded(recorded: Scores, here: Scores) -> Verdict:
    # Files hold null for every loss that is not finite, so it is not known which kind it was.
    same_loss = recorded.loss == here.loss or (math.isnan(recorded.loss) and not math.isfinite(here.loss))
    if recorded.accuracy == here.accuracy and same_loss:
        return "passed"
    close = abs(recorded.accuracy - here.accuracy) <= _CLOSE_ACCURACY
    close = close and abs(recorded.loss - here.loss) <= _CLOSE_LOSS * max(1.0, abs(recorded.loss))
    return "warning" if close else "failed"


def check_average(saved: Path, files: Sequence[Path]) -> Check:
    """Compute every tensor of a saved soup once more from the files of what was averaged, and compare the bits.

    It does not ask the code that made the average: sums are made here, with the same roundings.
    """
    differing: list[str] = []
    averaged = integers = 0
    with _opened([saved, *files]) as (soup, *ingredients):
        names = sorted(soup.keys())
        missing = _other_names(names, ingredients)
        # Where names differ, that is the fault, and some tensors could not be read.
        for name in names if not missing else ():
            found, parts = soup.get_tensor(name), [each.get_tensor(name) for each in ingredients]
            if found.is_floating_point() or found.is_complex():
                averaged += 1
                expected = _rounded_mean(parts)
            else:
                integers += 1
                expected = parts[0]
            if not same_bits(found, expected):
                differing.append(name)
    wrong = missing or differing
    return Check(
        name="soup_average",
        verdict="failed" if wrong else "passed",
        summary=f"{len(wrong)} tensors are not the average of the ingredients', first {wrong[0]}"
        if wrong
        else f"{averaged} saved tensors are the average of {len(files)} ingredients', rounded once, and {integers} "
        "integer ones are the best ingredient's, bit for bit",
        evidence={"averaged": averaged, "integers": integers, "ingredients": len(files), "differing": wrong[:10]},
    )


def check_unchanged(saved: Path, files: Sequence[Path]) -> Check:
    """Check that tensors which are equal in all that was averaged, such as frozen ones, are so in the soup."""
    same, changed = 0, []
    with _opened([saved, *files]) as (soup, *ingredients):
        # All tensors, not those that a plan calls frozen: which are equal in all, the files say themselves.
        for name in sorted(soup.keys()):
            first, *others = (each.get_tensor(name) for each in ingredients)
            if all(same_bits(first, other) for other in others):
                same += 1
                if not same_bits(first, soup.get_tensor(name)):
                    changed.append(name)
    return Check(
        name="unchanged_tensors",
        verdict="failed" if changed else "passed",
        summary=f"{len(changed)} of {same} tensors that all ingredients have in common were changed, first {changed[0]}"
        if changed
        else f"{same} tensors that all ingredients have in common are unchanged, bit for bit",
        evidence={"in_common": same, "changed": changed[:10]},
    )


def check_not_worse(soup: Scores, best: Scores) -> Check:
    """Check that the soup is not worse than its best ingredient on the validation images."""
    good = not_worse(soup, best) or soup == best
    kind = "balanced accuracy" if soup.balanced_accuracy is not None else "accuracy"
    (accuracy, loss), (of_best, loss_of_best) = soup.compared, best.compared
    return Check(
        name="not_worse",
        verdict="passed" if good else "failed",
        summary=f"validation {kind} {accuracy:.4f} and loss {loss:.4f}; the best ingredient alone has "
        f"{of_best:.4f} and {loss_of_best:.4f}",
        evidence={"soup": soup.to_dict(), "best": best.to_dict()},
    )


@contextlib.contextmanager
def _opened(files: Sequence[Path]) -> Iterator[list[Any]]:
    """Inside, the files are open: opening one reads the names of all its tensors, so it is done once a file."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(safe_open(file, framework="pt")) for file in files]


def _other_names(names: Sequence[str], ingredients: Sequence[Any]) -> list[str]:
    """Names that the soup or one of the ingredients lacks."""
    return sorted(set().union(*(set(names) ^ set(each.keys()) for each in ingredients)))


def _rounded_mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape[...], added up in double precision in their order and rounded once."""
    if all(same_bits(parts[0], part) for part in parts):
        return parts[0]
    double = torch.complex128 if parts[0].is_complex() else torch.float64
    total = parts[0].to(double)  # not zero, which would make 0 of -0
    for part in parts[1:]:
        total = total.add(part.to(double))
    return total.div(len(parts)).to(parts[0].dtype)
