"""Images that say most about a classifier, as pictures with what it saw and where it looked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from zoo.artefact.read import read_model
from zoo.compute import Precision
from zoo.data.decode import read_image
from zoo.data.transform import transform
from zoo.errors import DataError, ZooError
from zoo.evaluation.predictions import ImagePrediction
from zoo.model.model import ZooModel
from zoo.preprocessing import Preprocessing
from zoo.printable import file_named
from zoo.registry import Registry
from zoo.reporting.pictures import as_seen, data_uri, with_heat
from zoo.reporting.record import RunRecord
from zoo.reporting.relevance import Relevance, grad_cam

MISTAKES, HITS, SEEN = 12, 12, 8
_SAME: dict[Precision, float] = {"float32": 0.01, "bfloat16": 0.1}
"""By how much a probability may differ from the one that the run noted, in other batches and perhaps on another
device; more, and the file is another than then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image of the report; pictures are addresses that hold them."""

    prediction: ImagePrediction
    picture: str
    """As the model sees it."""
    overlay: str | None
    changed: bool
    """Whether the classifier says something else about the file than it did in the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An image before and after preprocessing."""

    file: str
    label: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """What could be shown."""

    mistakes: tuple[Example, ...] = ()
    hits: tuple[Example, ...] = ()
    seen: tuple[Seen, ...] = ()
    mistakes_in_all: int = 0
    missing: tuple[str, ...] = ()
    """Files that were wanted and cannot be read any more."""
    no_pictures: str = ""
    """Why there are none at all."""
    layer: str = ""
    """Where Grad-CAM was taken."""
    no_overlay: str = ""
    """Why there are no overlays, as the end of a sentence."""


def most_confident_mistakes(predictions: Iterable[ImagePrediction]) -> list[ImagePrediction]:
    """The surest first."""
    wrong = [each for each in predictions if not each.right]
    return sorted(wrong, key=lambda each: (-each.probability, each.file))[:MISTAKES]


def least_certain_hits(predictions: Iterable[ImagePrediction]) -> list[ImagePrediction]:
    """The least sure first."""
    right = [each for each in predictions if each.right]
    return sorted(right, key=lambda each: (each.probability, each.file))[:HITS]


def gather(record: RunRecord, registry: Registry) -> Examples:
    """Look the images up again, and where the classifier looked; what is gone is named, not an error."""
    of_split = [each for each in record.predictions if each.split == record.split]
    mistakes, hits = most_confident_mistakes(of_split), least_certain_hits(of_split)
    count = sum(not each.right for each in of_split)
    if not of_split:
        return Examples(no_pictures="the run noted no predictions")
    folder = Path(record.plan.data.path)
    preprocessing = Preprocessing.from_dict(record.plan.preprocessing)
    some = _spread(of_split, SEEN)
    wanted = list(dict.fromkeys([*mistakes, *hits, *some]))
    pictures = {each: picture for each in wanted if (picture := _read(file_named(folder, each.file))) is not None}
    missing = tuple(each.file for each in wanted if each not in pictures)
    if not pictures:
        return Examples(mistakes_in_all=count, missing=missing, no_pictures=f"the images are no longer in {folder}")
    inputs = {each: transform(picture, preprocessing) for each, picture in pictures.items()}
    shown = [each for each in [*mistakes, *hits] if each in inputs]
    relevance = _relevance(record, registry, [inputs[each] for each in shown])
    examples = _examples(record, shown, inputs, relevance, preprocessing)
    return Examples(
        mistakes=tuple(examples[each] for each in mistakes if each in examples),
        hits=tuple(examples[each] for each in hits if each in examples),
        seen=tuple(
            Seen(
                file=each.file,
                label=each.label,
                before=data_uri(pictures[each]),
                after=data_uri(as_seen(inputs[each], preprocessing)),
            )
            for each in some
            if each in pictures
        ),
        mistakes_in_all=count,
        missing=missing,
        layer=relevance.layer,
        no_overlay=relevance.reason,
    )


def _examples(
    record: RunRecord,
    shown: Sequence[ImagePrediction],
    inputs: dict[ImagePrediction, Tensor],
    relevance: Relevance,
    preprocessing: Preprocessing,
) -> dict[ImagePrediction, Example]:
    made = {}
    for index, each in enumerate(shown):
        picture = as_seen(inputs[each], preprocessing)
        overlay = data_uri(with_heat(picture, relevance.heat[index])) if relevance.heat is not None else None
        changed = False
        if len(relevance.logits):
            label = record.plan.classes.index(each.predicted)
            chance = float(relevance.logits[index].double().softmax(0)[label])
            changed = abs(chance - each.probability) > _SAME[record.plan.precision]
        made[each] = Example(prediction=each, picture=data_uri(picture), overlay=overlay, changed=changed)
    return made


def _relevance(record: RunRecord, registry: Registry, images: Sequence[Tensor]) -> Relevance:
    nothing = torch.empty(0)
    if not images:
        return Relevance(logits=nothing, heat=None)
    model: ZooModel
    try:
        model, _ = read_model(record.path / str(record.result["artefact"]), registry)
    except ZooError as error:
        first = str(error).splitlines()[0]
        return Relevance(logits=nothing, heat=None, reason=f"the classifier cannot be opened: {first}")
    return grad_cam(model, torch.stack(list(images)))


def _spread(predictions: Sequence[ImagePrediction], count: int) -> list[ImagePrediction]:
    """So many, evenly from the beginning to the end."""
    step = max(1, len(predictions) // count)
    return list(predictions[::step][:count])


def _read(path: Path) -> Image | None:
    try:
        return read_image(path)
    except DataError:
        return None
