"""The proof: checks with verdicts and evidence, written beside the result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.compute import Precision
from zoo.data.dataset import FOLDER, Dataset, ImageFile, natural_key
from zoo.data.decode import decode
from zoo.data.transform import transform
from zoo.planning.plan import Plan
from zoo.planning.versions import versions
from zoo.preprocessing import Preprocessing
from zoo.source_listing import SPLIT_NAMES

if TYPE_CHECKING:
    from PIL.Image import Image

Verdict = Literal["passed", "warning", "failed"]
_COMPARED = 8
MERGED: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
"""Share of the largest logit by which merging adapters may change one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    verdict: Verdict
    summary: str
    """What was found, for people."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    stage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "stage": self.stage,
            "verdict": self.verdict,
            "summary": self.summary,
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Check:
        """The inverse of `to_dict`."""
        return cls(**stored)


def overall(checks: Sequence[Check]) -> Literal["passed", "failed"]:
    """`failed` as soon as one check failed; warnings do not count."""
    return "failed" if any(check.verdict == "failed" for check in checks) else "passed"


def complaint(checks: Sequence[Check], run: Path, *, stop: str = "") -> str:
    """What a run says at its end where checks failed; `stop`: what ended it before its time."""
    failed = [check for check in checks if check.verdict == "failed"]
    where = [f"  {check.name}{f' (stage {check.stage})' if check.stage else ''}: {check.summary}" for check in failed]
    count = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
    return "\n".join(
        [f"{count} of the proof failed:", *where, *([stop] if stop else []), f"All of it: {run}/proof.json"]
    )


def check_preprocessing(
    files: Sequence[ImageFile],
    preprocessing: Preprocessing,
    reference: Callable[[Image], Tensor] | None,
    *,
    weights: str,
    native: Preprocessing | None = None,
) -> Check:
    """Real images through zoo's preprocessing and through upstream's own: every bit must be equal.

    Upstream's is for the input size of its weights. Where the run has another, `native`, that of the weights, is
    compared on the images, and `preprocessing` must be what it becomes at the run's size, in every field.
    """
    if reference is None:
        return Check(
            name="preprocessing",
            verdict="warning",
            summary="the backbone's provider offers no reference transform to compare with",
            evidence={"preprocessing": preprocessing.to_dict()},
        )
    _, height, width = preprocessing.input_size
    compared_with, note = preprocessing, ""
    if native is not None and native.input_size != preprocessing.input_size:
        compared_with, note = native, f"; enlarged or reduced to {height}x{width}, nothing else changed"
        if preprocessing != native.at(height, width):
            return Check(
                name="preprocessing",
                verdict="failed",
                summary=f"at {height}x{width} it is not that of {weights} in another size",
                evidence={"preprocessing": preprocessing.to_dict(), "expected": native.at(height, width).to_dict()},
            )
    step = max(1, len(files) // _COMPARED)
    compared = list(files[::step][:_COMPARED])
    differing: dict[str, float | str] = {}
    for file in compared:
        image = decode(file.content(), name=file.relative)
        ours, theirs = transform(image, compared_with), reference(image)
        if ours.shape != theirs.shape:
            differing[file.relative] = f"{list(ours.shape)} against {list(theirs.shape)}"
        elif not torch.equal(ours, theirs):
            differing[file.relative] = float((ours - theirs).abs().max())
    first = next(iter(differing.items()), None)
    return Check(
        name="preprocessing",
        verdict="failed" if differing else "passed",
        summary=f"{first[0]} comes out differently than with the transform of {weights}: {first[1]}"
        if first
        else f"{len(compared)} images come out bit for bit as with upstream's transform of {weights}{note}",
        evidence={"images": len(compared), "differing": differing, "preprocessing": preprocessing.to_dict()},
    )


def check_classes(dataset: Dataset, model_classes: Sequence[str]) -> Check:
    """Names in natural order, the same in the model, and every file's label what its folder, or its source, says."""
    ordered = sorted(dataset.classes, key=natural_key) == list(dataset.classes) == list(model_classes)
    wrong = [
        file.relative
        for files in dataset.splits.values()
        for file in files
        if dataset.classes[file.label] != (file.named or _class_folder(file))
    ]
    total = sum(len(files) for files in dataset.splits.values())
    by = "its folder's" if dataset.reader == FOLDER else "its source's"
    if wrong:
        summary = f"{wrong[0]} is labelled with another class than {by}"
    elif not ordered:
        summary = f"the class order differs: {list(model_classes)} in the model, {list(dataset.classes)} in the data"
    else:
        by = "by their folder's name" if dataset.reader == FOLDER else "as their source says"
        summary = f"{len(dataset.classes)} names in natural order; {total} files labelled {by}"
    return Check(
        name="class_names",
        verdict="passed" if ordered and not wrong else "failed",
        summary=summary,
        evidence={"classes": list(dataset.classes), "mislabelled": wrong[:10], "files": total},
    )


def _class_folder(file: ImageFile) -> str:
    """The folder right below the data folder, or right below its split folder."""
    first, *rest = PurePosixPath(file.relative).parts[:-1]
    return rest[0] if rest and first.lower() in SPLIT_NAMES else first


def check_environment(plan: Plan) -> Check:
    """Whether the run has what its plan was made with: versions, threads, device."""
    here = {"threads": torch.get_num_threads(), **versions(name for name in plan.versions if name != "python")}
    planned = {"threads": plan.threads, **plan.versions}
    wrong = [
        f"{name} is {here.get(name)}, planned was {planned.get(name)}"
        for name in {**planned, **here}
        if here.get(name) != planned.get(name)
    ]
    return Check(
        name="environment",
        verdict="failed" if wrong else "passed",
        summary="; ".join(wrong[:3])
        if wrong
        else f"seed {plan.seed}, {plan.threads} threads, {plan.device}, {len(plan.versions)} versions as planned",
        evidence={"seed": plan.seed, "device": plan.device, "compute": str(plan.compute), **here},
    )


def check_merged(before: Tensor, after: Tensor, *, stage: str, precision: Precision) -> Check:
    """Logits[N, classes] of validation images with adapters beside the weights, and merged into them.

    In exact numbers they would be equal. Allowed is a share of the largest logit: `MERGED` of the precision.
    """
    scale = float(before.abs().max())
    difference = float((before - after).abs().max())
    allowed = MERGED[precision] * scale
    same = difference <= allowed
    said = f"by up to {difference:.3g}, logits go up to {scale:.3g}"
    return Check(
        name="adapters_merged",
        stage=stage,
        verdict="passed" if same else "failed",
        summary=f"merging the adapters into the weights changed the logits of {len(before)} images {said}"
        + ("" if same else f"; {allowed:.3g} is rounding"),
        evidence={
            "images": len(before),
            "largest_difference": difference if math.isfinite(difference) else None,
            "largest_logit": scale if math.isfinite(scale) else None,
            "tolerance": MERGED[precision],
        },
    )


def check_better_than_guessing(accuracy: float, targets: Tensor, classes: Sequence[str]) -> Check:
    """Validation accuracy against always naming the largest class."""
    label, count = Counter(targets.tolist()).most_common(1)[0]
    share = count / len(targets)
    better = accuracy > share
    return Check(
        name="better_than_guessing",
        verdict="passed" if better else "warning",
        summary=f"validation accuracy {accuracy:.3f}, always {classes[label]!r} would give {share:.3f}",
        evidence={"accuracy": accuracy, "largest_class_share": share, "largest_class": classes[label]},
    )


def check_saved(kept: Tensor, loaded: Tensor, *, described: bool = True, same_pieces: bool = True) -> Check:
    """Logits of the kept stage and of the artefact just written, on the same images.

    Args:
        kept, loaded: logits[N, classes].
        described: Whether the artefact names the plan's classes and preprocessing.
        same_pieces: Whether both went through with as many images at a time; memory may have run out in between,
            and then float32 allows no equality of bits.
    """
    equal = torch.equal(kept, loaded)
    close = equal or (not same_pieces and torch.allclose(kept, loaded, atol=1e-4, rtol=1e-4))
    difference = 0.0 if equal else float((kept - loaded).abs().max())
    if not described:
        summary = "the saved file names other classes or another preprocessing than the plan"
    elif equal:
        summary = f"the saved file gives the kept stage's logits bit for bit on {len(kept)} images"
    else:
        summary = f"the saved file gives other logits than the kept stage, by up to {difference:.3g}"
    return Check(
        name="saved_file",
        verdict="failed" if not (described and close) else "passed" if equal else "warning",
        summary=summary,
        evidence={"images": len(kept), "largest_difference": difference, "described": described},
    )
