"""The proof of a run: checks with verdicts and evidence, written to `proof.json`.

The checks on a single stage are in `zoo.training.stage_watch`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zoo.data.dataset import Dataset, ImageFile, natural_key
from zoo.data.decode import decode
from zoo.data.transform import transform
from zoo.errors import with_step
from zoo.evaluation.probabilities import have_probabilities
from zoo.planning.versions import versions
from zoo.planning.warnings import copied_from_train, without_copies
from zoo.specs.data import FOLDER
from zoo.specs.plan import Plan, Precision
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.run_result import JUDGED_IN_WORDS, Check
from zoo.text import composed, counted

if TYPE_CHECKING:
    from PIL.Image import Image

_LOSS_MUST_FALL = 1e-3
"""Share of the first epoch's loss by which the loss must fall. Another order of images alone may change it by less."""
_COMPARED = 8
"""Images on which zoo's preprocessing is compared with upstream's."""
_NAMED = 10
"""Files that the evidence names."""
MERGED: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
"""How much merging adapters may change a logit, as a share of the largest logit: what rounding explains."""


def overall_verdict(checks: Sequence[Check]) -> Literal["passed", "failed"]:
    """Return `failed` if any check failed; warnings do not count."""
    return "failed" if any(check.verdict == "failed" for check in checks) else "passed"


def failure_message(checks: Sequence[Check], run: Path, *, stop: str = "") -> str:
    """Return the message of a run whose checks failed.

    Args:
        checks: All checks of the proof.
        run: The run folder.
        stop: Why training was stopped early, if it was.
    """
    failed = [check for check in checks if check.verdict == "failed"]
    lines = [f"  {check.name}{f' (stage {check.stage})' if check.stage else ''}: {check.summary}" for check in failed]
    count = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
    told = [f"{count} of the proof failed:", *lines] if failed else []
    lines = [*told, f"All checks: {run}/proof.json", *([stop] if stop else [])]
    return with_step("\n".join(lines), "look up the evidence of what failed there.")


def check_preprocessing(
    files: Sequence[ImageFile],
    preprocessing: Preprocessing,
    reference: Callable[[Image], Tensor] | None,
    *,
    weights: str,
    native: Preprocessing | None = None,
) -> Check:
    """Compare zoo's preprocessing with upstream's own on a few images: every bit must be equal.

    Upstream's transform is for the input size of its weights. A run of another size cannot be compared with it bit by
    bit. Then the weights' preprocessing is compared on the images, and the run's must differ from it in size alone.

    Args:
        files: Images to choose from.
        preprocessing: The run's.
        reference: Upstream's transform: image -> tensor[3, H, W]; None where the provider has none, which is a warning.
        weights: The weights as the summary names them.
        native: The preprocessing of the weights, where it may differ from the run's.
    """
    if reference is None:
        return Check(
            name="preprocessing",
            verdict="warning",
            summary="the backbone's provider has no reference transform to compare with",
            evidence={"preprocessing": preprocessing.to_dict()},
        )
    _, height, width = preprocessing.input_size
    compared_with, note = preprocessing, ""
    if preprocessing.decode == "fast":
        # Upstream's transform begins with a picture, so how a file becomes one is beside the comparison.
        note = "; large JPEG files are decoded at a part of their size (--decode fast), which upstream does not do"
    if native is not None and native.input_size != preprocessing.input_size:
        compared_with = native
        note = f"; the run's is enlarged or reduced to {height}x{width}, nothing else differs{note}"
        if replace(preprocessing, decode=native.decode) != native.at(height, width):
            return Check(
                name="preprocessing",
                verdict="failed",
                summary=f"at {height}x{width} it differs from that of {weights} in more than size",
                evidence={"preprocessing": preprocessing.to_dict(), "expected": native.at(height, width).to_dict()},
            )
    # From all over the split, as images come sorted by class.
    step = max(1, len(files) // _COMPARED)
    compared = list(files[::step][:_COMPARED])
    differing: dict[str, float | str] = {}
    for file in compared:
        image = decode(file.content(), name=file.relative)
        ours, theirs = transform(image, compared_with), reference(image)
        if ours.shape != theirs.shape:
            differing[file.relative] = f"shape {list(ours.shape)} instead of {list(theirs.shape)}"
        elif not torch.equal(ours, theirs):
            differing[file.relative] = float((ours - theirs).abs().max())
    first = next(iter(differing.items()), None)
    return Check(
        name="preprocessing",
        verdict="failed" if differing else "passed",
        summary=f"{first[0]} comes out differently than with the transform of {weights}: {first[1]}"
        if first
        else f"{len(compared)} images are bit for bit the same as with upstream's transform of {weights}{note}",
        evidence={"images": len(compared), "differing": differing, "preprocessing": preprocessing.to_dict()},
    )


def check_classes(dataset: Dataset, model_classes: Sequence[str]) -> Check:
    """Check that class names are in natural order and the same in the model, and that every file's label is right.

    Right is what the file's folder says, or its data source. Natural order puts `c2` before `c10`.
    """
    from_folders = dataset.reader == FOLDER
    ordered = sorted(dataset.classes, key=natural_key) == list(dataset.classes) == list(model_classes)
    wrong = [
        file.relative
        for files in dataset.splits.values()
        for file in files
        if not _is_labelled(file, dataset.classes[file.label], from_folders=from_folders)
    ]
    total = sum(len(files) for files in dataset.splits.values())
    if wrong:
        owner = "its folder's" if from_folders else "its source's"
        summary = f"{wrong[0]} is labelled with another class than {owner}"
    elif not ordered:
        summary = f"the class order differs: {_first_difference(model_classes, dataset.classes)}"
    else:
        by = "by their folder's name" if from_folders else "as their source says"
        summary = f"{len(dataset.classes)} names in natural order; {total} files labelled {by}"
    return Check(
        name="class_names",
        verdict="passed" if ordered and not wrong else "failed",
        summary=summary,
        evidence={"classes": list(dataset.classes), "mislabelled": wrong[:10], "files": total},
    )


def _first_difference(model_classes: Sequence[str], classes: Sequence[str]) -> str:
    """Say where the classes of the model and of the data first differ from each other, or from natural order."""
    columns = zip_longest(model_classes, classes, sorted(classes, key=natural_key))
    for number, (of_model, of_data, natural) in enumerate(columns, start=1):
        if not of_model == of_data == natural:
            return f"class {number} is {of_model!r} in the model, {of_data!r} in the data, {natural!r} in natural order"
    return "nowhere"


def _is_labelled(file: ImageFile, name: str, *, from_folders: bool) -> bool:
    """Whether the data gave the file this label; for class folders also whether a folder on its path has the name."""
    # macOS writes accents as characters of their own; names of classes never have them so.
    return file.named == name and (not from_folders or name in map(composed, PurePosixPath(file.relative).parts[:-1]))


def check_copies(dataset: Dataset, contents: Mapping[str, str]) -> list[Check]:
    """Warn of images to be judged that are copies of training images, byte for byte; no check where there are none.

    `contents` holds the digests of all files by relative path.
    """
    found = copied_from_train(dataset, contents)
    if not found:
        return []
    of_splits = [
        f"{number:,} of {counted(len(dataset.splits[split]), f'{split} image')}" for split, number in found.items()
    ]
    return [
        Check(
            name="copies",
            verdict="warning",
            summary=f"{' and '.join(of_splits)} {'is a copy' if list(found.values()) == [1] else 'are copies'} of "
            f"training images, so accuracy there is too good. Next: {without_copies(dataset)}.",
            evidence={
                split: {"copies": found.get(split, 0), "images": len(files)}
                for split, files in dataset.splits.items()
                if split != "train"
            },
        )
    ]


def check_environment(plan: Plan) -> Check:
    """Check that the run has the versions and the number of threads that its plan was made with."""
    # Of Python it always has the version; it is no distribution that could be looked up.
    here = {"threads": torch.get_num_threads(), **versions(name for name in plan.versions if name != "python")}
    planned = {"threads": plan.threads, **plan.versions}
    wrong = [
        f"{name} is {here.get(name)}, but the plan says {planned.get(name)}"
        for name in {**planned, **here}
        if here.get(name) != planned.get(name)
    ]
    return Check(
        name="environment",
        verdict="failed" if wrong else "passed",
        summary="; ".join(wrong[:3])
        if wrong
        else f"seed {plan.seed}, {plan.threads} threads, {plan.device}; {len(plan.versions)} versions are the plan's",
        evidence={"seed": plan.seed, "device": plan.device, "compute": str(plan.compute), **here},
    )


def check_merged(before: Tensor, after: Tensor, *, stage: str, precision: Precision) -> Check:
    """Compare logits[N, classes] of validation images before and after adapters are merged into the weights.

    In exact arithmetic they would be equal. They may differ by a share of the largest logit: `MERGED[precision]`.
    """
    scale = float(before.abs().max())
    difference = float((before - after).abs().max())
    allowed = MERGED[precision] * scale
    # Not a number is no small difference.
    same = difference <= allowed
    return Check(
        name="adapters_merged",
        stage=stage,
        verdict="passed" if same else "failed",
        summary=f"merging the adapters into the weights changed the logits of {len(before)} images by up to "
        f"{difference:.3g}; the largest logit is {scale:.3g}"
        + ("" if same else f", and rounding explains {allowed:.3g}"),
        evidence={
            "images": len(before),
            "largest_difference": difference if math.isfinite(difference) else None,
            "largest_logit": scale if math.isfinite(scale) else None,
            "tolerance": MERGED[precision],
        },
    )


def check_loss_movement(losses: Sequence[float], *, stage: str) -> Check:
    """Check that the mean training loss of a stage's last epoch is below that of its first, else warn."""
    first, last = (losses[0], losses[-1]) if losses else (math.nan, math.nan)
    if len(losses) < 2:
        falls, summary = True, f"one epoch with a train loss of {first:.4g}: nothing to compare"
    else:
        falls = last < first * (1 - _LOSS_MUST_FALL)
        summary = f"train loss was {first:.4g} in the first epoch and {last:.4g} in the last"
    return Check(
        name="loss_movement",
        stage=stage,
        verdict="passed" if falls else "warning",
        summary=summary,
        evidence={"first": first, "last": last} if losses else {},
    )


def check_better_than_guessing(
    accuracy: float, targets: Tensor, classes: Sequence[str], *, judged_on: str = "val"
) -> Check:
    """Check that validation accuracy is above that of always predicting the most frequent class, else warn.

    Args:
        accuracy: Top-1 accuracy on the validation split, or out of fold, 0 to 1.
        targets: Class indices of the same images, int64[N].
        classes: Class names.
        judged_on: `val`, or `out_of_fold`.
    """
    # Of these very images: the most frequent class among those that were trained on may be another.
    label, count = Counter(targets.tolist()).most_common(1)[0]
    share = count / len(targets)
    better = accuracy > share
    return Check(
        name="better_than_guessing",
        verdict="passed" if better else "warning",
        summary=f"{JUDGED_IN_WORDS[judged_on]} accuracy is {accuracy:.3f}; always predicting {classes[label]!r} would "
        f"give {share:.3f}",
        evidence={"accuracy": accuracy, "largest_class_share": share, "largest_class": classes[label]},
    )


def check_test(logits: Tensor, files: Sequence[str]) -> list[Check]:
    """Check that all images of the test split get a class -> a failed check, or nothing.

    Training and validation images have shown by then that the model is finite, and these may still be unlike them.

    Args:
        logits: logits[N, classes] of the kept stage.
        files: The names of the N images.
    """
    without = have_probabilities(logits).logical_not().nonzero()[:, 0].tolist()
    if not without:
        return []
    return [
        Check(
            name="finite_test",
            verdict="failed",
            summary=f"logits are not finite for {len(without)} of {len(files)} test images, such as "
            f"{files[without[0]]}: these have no class, so the test scores mean nothing",
            evidence={"images": len(without), "files": [files[number] for number in without[:_NAMED]]},
        )
    ]


def check_saved(
    kept: Tensor,
    loaded: Tensor,
    *,
    described: bool = True,
    digest: str = "",
    same_batch_size: bool = True,
    of: str = "the kept stage",
) -> Check:
    """Compare the logits by which the kept stage was chosen with those of the artefact read back from disk.

    A wrong state, class order or preprocessing in the saved file shows here.

    Args:
        kept: logits[N, classes] of the kept stage.
        loaded: logits[N, classes] of the artefact, on the same images.
        described: Whether the artefact has the plan's classes and preprocessing.
        digest: SHA-256 of the saved file. It is kept, so that another file in its place is found later.
        same_batch_size: Whether both were computed with as many images at a time. Memory may have run out in between,
            and another batch size changes the last bits: then close logits are a warning.
    """
    equal = torch.equal(kept, loaded)
    close = equal or (not same_batch_size and torch.allclose(kept, loaded, atol=1e-4, rtol=1e-4))
    difference = 0.0 if equal else float((kept - loaded).abs().max())
    if not described:
        summary = "the saved file has other classes or another preprocessing than the plan"
    elif equal:
        summary = f"the saved file gives {of}'s logits bit for bit on {len(kept)} images"
    else:
        summary = f"the saved file gives other logits than {of}, by up to {difference:.3g}"
    return Check(
        name="saved_file",
        verdict="failed" if not (described and close) else "passed" if equal else "warning",
        summary=summary,
        evidence={"images": len(kept), "largest_difference": difference, "described": described, "digest": digest},
    )
