"""Pooled features of a data set under one frozen backbone: what every probe is fitted to.

They are computed exactly as a run computes them, and kept in the same cache: a run on the same images in the same order
finds them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.data.check.similar import similar_images
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.splits import SPLITS
from zoo.evaluation.inference import targets_of
from zoo.events import Progress, Report
from zoo.frozen.outputs import FrozenOutputs
from zoo.model.model import ZooModel
from zoo.planning.request import CLOSED_FORM_RECIPE, Request
from zoo.registry.registry import Registry
from zoo.specs.data import Split
from zoo.specs.plan import Plan
from zoo.training.prepare import prepare

PROBE = "linear"
"""The head of a probe: one linear layer on pooled features. It is fitted by `zoo.probes`, not by a stage."""
ALL_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFeatures:
    """The images of some splits in their order, each with its features and label."""

    files: tuple[ImageFile, ...]
    """N images, without those that cannot be read."""
    splits: tuple[Split, ...]
    """The split of each image."""
    classes: tuple[str, ...]
    features: Tensor
    """features[N, F], float32, on the CPU."""
    targets: Tensor
    """Class indices targets[N]."""
    plan: Plan
    """The plan of a run that trains nothing but a linear head on this backbone: its names, weights and precision."""
    unreadable: tuple[str, ...]
    """Files that were left out."""
    seconds: dict[str, float]
    """What took how long: `data`, `features`, `total`."""

    @property
    def backbone(self) -> str:
        """The backbone with the weights that were used: `provider/architecture.tag`, `=FILE` or `=random`."""
        weights, name = self.plan.weights, self.plan.backbone.name
        tag = self.plan.backbone.tag
        bare = name.removesuffix(f".{tag}") if tag else name
        return name if weights.kind in ("tag", "own") else f"{bare}={weights.label.removeprefix('file:')}"


def probe_features(
    request: Request,
    registry: Registry,
    report: Report,
    *,
    splits: Sequence[Split] = ALL_SPLITS,
    dataset: Dataset | None = None,
    accept: Callable[[ZooModel, Plan], None] = lambda model, plan: None,
) -> ProbeFeatures:
    """Compute the features of the images of some splits, or read them from the cache.

    Args:
        request: Names the backbone, weights and data; what it says of head and recipe is not used.
        registry: Where names are looked up.
        report: Called with every event.
        splits: Of which images. Those that the data do not have are passed over.
        dataset: Images that were found already, in place of those that the request names.
        accept: Called with the model and its plan before any features are computed; what it raises goes through.

    Raises:
        ZooError: As `zoo.finetune` with the same request, before it trains.
    """
    # What a user sets for heads and stages does not touch features, and could be refused beside another recipe. This
    # recipe has one stage, of the head alone: its images are not augmented, so each has one row.
    asked = replace(request, head=PROBE, head_options={}, recipe=CLOSED_FORM_RECIPE, set=(), epochs=None)
    asked = replace(asked, folds=None, every_stage=False)  # a probe has folds of its own
    with prepare(asked, registry, report, dataset=dataset) as prepared:
        found = prepared.examined.dataset
        # In the order of a run, whatever the caller's: the cache holds blocks of images, not single ones.
        wanted = {split: found.splits[split] for split in SPLITS if split in splits and found.splits.get(split)}
        assert prepared.model is not None
        accept(prepared.model, prepared.plan)
        computed = FrozenOutputs(prepared.context()).features(wanted)
        files = tuple(file for each in wanted.values() for file in each)
        return ProbeFeatures(
            files=files,
            splits=tuple(split for split, each in wanted.items() for _ in each),
            classes=found.classes,
            features=torch.cat([computed[split] for split in wanted]).float(),
            targets=targets_of(files),
            plan=prepared.plan,
            unreadable=tuple(each.relative for each in found.skipped if each.reason == "unreadable"),
            seconds=prepared.clock.seconds(),
        )


def similar_groups(files: Sequence[ImageFile], report: Report, *, workers: int | None = None) -> tuple[int, ...]:
    """Return a number for each file, the same for copies and near-duplicates; folds never divide these.

    Every file is opened, whatever the backbone, so it is done once for all backbones.
    """

    def progress(done: int, total: int) -> None:
        report(Progress(task="compare images", done=done, total=total))

    def compared(done: int, total: int) -> None:
        report(compared_hashes(done, total))

    return similar_images(files, workers=workers, progress=progress, compared=compared)


def compared_hashes(done: int, total: int) -> Progress:
    """How many of the hashes that tell near-duplicates were compared with all others."""
    return Progress(task="compare hashes", done=done, total=total, unit="hashes")
