"""How accuracy grows with the number of images, and what more of them would bring: for the training images of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.advice.features import ProbeFeatures, probe_features, similar_groups
from zoo.advice.frozen_backbone import clean_backbone
from zoo.data.dataset import Dataset, ImageFile
from zoo.display.blocks import Block, Line, TextTable, blocks_html
from zoo.errors import DataError
from zoo.events import Progress, Report
from zoo.planning.request import Request
from zoo.planning.resolve import dataset_of
from zoo.probes.curve_record import CurveRecord, Range, record_of
from zoo.probes.folds import MOST_FOLDS
from zoo.probes.learning_curve import LearningCurve, learning_curve
from zoo.registry.registry import Registry
from zoo.reporting.curve import IN_WORDS, curve_sentences, is_judged, lowest_recalls, shown_curve
from zoo.reporting.page import environment, styles
from zoo.storage.atomic import new_path
from zoo.text import counted, escaping_errors, in_points, some


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveReport:
    """The learning curve of a linear probe on one backbone's features of the training images."""

    data: str
    """The folder or file that holds the images."""
    backbone: str
    weights: str
    classes: tuple[str, ...]
    record: CurveRecord
    notes: tuple[str, ...]
    """What limits the curve: small classes, near-duplicates, files that cannot be read."""
    seconds: dict[str, float]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the curve says, and what it cannot say."""
        return curve_sentences(self.record.to_dict())

    def blocks(self, *, with_tables: bool = True, all_classes: bool = False) -> Iterator[Block]:
        """What the curve says, then its points, forecasts and classes unless only the sentences are wanted.

        `all_classes`: whether every class has a row; else, of many, those with the lowest recall.
        """
        # The first sentence is about the images that there are, and alone is measured; the others are forecasts.
        for number, sentence in enumerate(self.sentences):
            yield Line(sentence, None if number else "bold")
        if not with_tables:
            return
        yield Line()
        rows = [
            [f"{100 * each.share:.3g} %", f"{each.images:,}", *_percent(each.accuracy), "", ""]
            for each in self.record.points
        ]
        rows += [
            [f"{100 * each.times} %", f"{each.images:,}", *_percent(each.accuracy), *_points(each.gain)]
            for each in self.record.forecasts
        ]
        columns = ["share", "images", "accuracy %", "interval", "gain", "80 % interval"]
        yield TextTable(columns=columns, rows=rows, right=columns)
        yield Line()
        every = self.record.to_dict()["classes"]
        shown = every if all_classes else lowest_recalls(every)
        columns = ["class", "images", "recall %", "gain with twice as many", "80 % interval"]
        yield TextTable(columns=columns, rows=[_class_row(each) for each in shown], right=columns[1:])
        if len(shown) < len(every):
            lowest = f"the {len(shown)} of {len(every):,} classes with the lowest recall"
            yield Line(f"{lowest}; zoo -v and --json have all")
        yield Line()
        yield Line("Up to 100 %: measured, with 95 % intervals. Above: extrapolated, 80 %. A probe is not fine-tuning.")
        yield from map(Line, self.notes)

    def _repr_html_(self) -> str:
        return blocks_html(self.blocks())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. Without times, so that the same images give the same bytes."""
        return {
            "data": self.data,
            "backbone": self.backbone,
            "weights": self.weights,
            "notes": list(self.notes),
            "conclusion": list(self.sentences),
            **self.record.to_dict(),
        }


def probe_curve(request: Request, registry: Registry, report: Report, *, dataset: Dataset | None = None) -> CurveReport:
    """Make the learning curve of a linear probe on the training images of a request's data.

    Args:
        request: Names the backbone (or the path of a run), weights, data, seed; what it says of head and recipe is not
            used.
        registry: Where names are looked up.
        report: Called with every event.
        dataset: Images that were found already, in place of those that the request names.

    Raises:
        Refused: The backbone, or its file of weights, was trained on these images by a run.
        DataError: No class has two different training images.
        ZooError: As `zoo.finetune` with the same request, before it trains.
    """
    images: list[Dataset] = [] if dataset is None else [dataset]

    def trained_on() -> Sequence[ImageFile]:
        # Found once: they may be downloaded, or drawn.
        images[:] = images or [dataset_of(asked, registry, report, val_needed=False)]
        return images[0].splits["train"]

    asked = request
    request, notes = clean_backbone(request, trained_on, registry, report)
    trained_on()
    found = probe_features(request, registry, report, splits=("train",), dataset=images[0])
    groups = similar_groups(found.files, report, workers=request.workers)

    def progress(done: int, total: int) -> None:
        report(Progress(task="learning curve", done=done, total=total, unit="images"))

    curve = learning_curve(
        found.features, found.targets, len(found.classes), groups=groups, seed=request.seed, progress=progress
    )
    # Copies alone make no second image: this is only known once all were compared.
    if not bool(curve.judged.any()):
        raise DataError(
            f"No class has two different training images, so there are none to judge a fit by "
            f"({counted(len(found.files), 'image')}, {counted(len(found.classes), 'class', 'classes')}).\n"
            "Next: add images; a curve begins to say something at about 20 of each class."
        )
    return CurveReport(
        data=found.plan.data.source,
        backbone=found.backbone,
        weights=found.plan.weights.label,
        classes=found.classes,
        record=record_of(curve, found.classes),
        notes=(*notes, *_notes(found, curve)),
        seconds=found.seconds,
    )


def _notes(found: ProbeFeatures, curve: LearningCurve) -> tuple[str, ...]:
    notes = []
    images = Counter(found.targets.tolist())
    small = [f"{name} ({images[label]})" for label, name in enumerate(found.classes) if images[label] < MOST_FOLDS]
    if small:
        notes.append(f"Classes with fewer images than the {MOST_FOLDS} folds, of which little is known: {some(small)}.")
    # An image that no other of its class stands beside is in every training part, so no fit can be asked about it.
    unjudged = len(curve.targets) - curve.images
    if unjudged:
        notes.append(f"{counted(unjudged, 'image')} alone in a class: fitted to, but judged by none.")
    copies = len(curve.groups) - len(set(curve.groups))
    if copies:
        alike = counted(copies, "copy or near-duplicate", "copies and near-duplicates")
        notes.append(f"{alike}: never in another fold than the original.")
    if found.unreadable:
        notes.append(f"Left out, because they cannot be read: {some(found.unreadable)}.")
    return tuple(notes)


def write_curve_page(report: CurveReport, path: Path) -> None:
    """Write the page. Raises Refused if `path` exists, RunError if it cannot be written."""
    templates = environment("zoo.advice")
    text = templates.get_template("curve.html").render(
        css=styles(templates),
        report=report,
        curve=shown_curve(report.record.to_dict()),
        title=_title(report),
        data=report.data,
    )
    with new_path(path) as draft:
        draft.write_text(text, "utf-8", errors=escaping_errors())


def _title(report: CurveReport) -> str:
    # Forecasts come in the order of TIMES, and the nearest of them is the surest.
    twice = report.record.forecasts[0]
    if twice.gain is None:
        return f"What {IN_WORDS[2].lower()} as many images would bring cannot be said"
    return f"{IN_WORDS[2]} as many images would bring {100 * twice.gain.value:.1f} points"


def _class_row(each: Mapping[str, Any]) -> list[str]:
    recall = f"{100 * each['recalls'][-1]:.0f}" if is_judged(each) else "-"
    gain = each["gain"]
    return [each["name"], f"{each['images']:,}", recall, *_points(None if gain is None else Range(**gain))]


def _percent(found: Range | None) -> list[str]:
    return (
        ["-", "-"]
        if found is None
        else [f"{100 * found.value:.1f}", f"{100 * found.low:.1f} to {100 * found.high:.1f}"]
    )


def _points(found: Range | None) -> list[str]:
    if found is None:
        return ["-", "cannot be said"]
    return [in_points(found.value), f"{in_points(found.low)} to {in_points(found.high)}"]
