"""Example images of the report: what the classifier received, what it predicted, and where it looked (Grad-CAM).

Pictures become `data:` addresses, so that the report needs no files beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from zoo.artefact.read import check_versions, read_model
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.sources import read_again
from zoo.data.transform import as_seen, transform
from zoo.errors import DataError, ZooError
from zoo.evaluation.predictions import ImagePrediction
from zoo.events import silent
from zoo.model.gradcam import Relevance, grad_cam, with_heat
from zoo.model.model import ZooModel
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.record import RunRecord
from zoo.specs.plan import Precision
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.run_result import OUT_OF_FOLD

MISTAKES, HITS, SEEN = 12, 12, 8
"""Most images in each section of the report."""
SIDE = 176
"""The longer side of a picture in pixels."""
_SAME: dict[Precision, float] = {"float32": 0.01, "bfloat16": 0.1}
"""How far a probability may be from the stored one, as batches and perhaps the device differ. Beyond it, the file is
taken to have changed since the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A prediction with its pictures, which are `data:` addresses."""

    prediction: ImagePrediction
    picture: str
    """The image as the model received it."""
    overlay: str | None
    """The same image under its Grad-CAM heat map; None if there is none."""
    changed: bool
    """Whether the file has changed since the run: the classifier now gives it another probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An image before and after preprocessing, as `data:` addresses."""

    file: str
    label: str
    before: str
    after: str
    changed: bool
    """Whether the file has changed since the run, as of an example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """The example images of a report, and reasons for what is missing."""

    mistakes: tuple[Example, ...] = ()
    """The most confident mistakes."""
    hits: tuple[Example, ...] = ()
    """The least confident correct predictions."""
    seen: tuple[Seen, ...] = ()
    mistakes_in_all: int = 0
    """Wrong predictions in the split, shown or not."""
    missing: tuple[str, ...] = ()
    """Files that should be shown but can no longer be read."""
    no_pictures: str = ""
    """Why there are no pictures at all."""
    layer: str = ""
    """The layer whose output Grad-CAM used."""
    no_overlay: str = ""
    """Why there are no overlays, as the end of a sentence."""

    @property
    def files(self) -> dict[str, bool]:
        """Every file that is shown -> whether it has changed since the run."""
        predicted = {each.prediction.file: each.changed for each in (*self.mistakes, *self.hits)}
        return {**predicted, **{each.file: each.changed for each in self.seen}}


def most_confident_mistakes(predictions: Iterable[ImagePrediction]) -> list[ImagePrediction]:
    """At most `MISTAKES` wrong predictions, the highest probability first."""
    wrong = [prediction for prediction in predictions if not prediction.right]
    # By the name where probabilities are equal: the same run gives the same page.
    return sorted(wrong, key=lambda prediction: (-prediction.probability, prediction.file))[:MISTAKES]


def least_certain_hits(predictions: Iterable[ImagePrediction]) -> list[ImagePrediction]:
    """At most `HITS` correct predictions, the lowest probability first."""
    right = [prediction for prediction in predictions if prediction.right]
    return sorted(right, key=lambda prediction: (prediction.probability, prediction.file))[:HITS]


def gather(record: RunRecord, registry: Registry) -> Examples:
    """Choose the example images, read them again, and compute where the classifier looked.

    Images that can no longer be read are listed in `missing`; they are no error.
    """
    predictions = [prediction for prediction in record.predictions if prediction.split == record.split]
    if not predictions:
        return Examples(no_pictures="the run stored no predictions")
    mistakes, hits = most_confident_mistakes(predictions), least_certain_hits(predictions)
    mistakes_in_all = sum(not prediction.right for prediction in predictions)
    sampled = _spread(predictions, SEEN)
    # An image may be in more than one section, and is read and computed once.
    wanted = list(dict.fromkeys([*mistakes, *hits, *sampled]))
    data = record.plan.data
    preprocessing = Preprocessing.from_dict(record.plan.preprocessing)
    files = read_again(data.reader, Path(data.path), [prediction.file for prediction in wanted], registry)
    pictures = {one: picture for one in wanted if (picture := _read(files.get(one.file), preprocessing)) is not None}
    missing = tuple(prediction.file for prediction in wanted if prediction not in pictures)
    if not pictures:
        reason = f"the images are no longer in {data.path}"
        if of_session(data.reader):
            reason = f"the images were an object in Python ({data.path}); zoo.report(run, data=...) shows them"
        return Examples(mistakes_in_all=mistakes_in_all, missing=missing, no_pictures=reason)
    inputs = {prediction: transform(picture, preprocessing) for prediction, picture in pictures.items()}
    shown = [prediction for prediction in [*mistakes, *hits] if prediction in inputs]
    others = [prediction for prediction in sampled if prediction in inputs and prediction not in shown]
    stacks = [[inputs[prediction] for prediction in several] for several in (shown, others)]
    relevance = _relevance(record, registry, *stacks)
    changed = _changed(record, [*shown, *others], relevance.logits)
    examples = _examples(shown, inputs, relevance, preprocessing, changed)
    return Examples(
        mistakes=tuple(examples[prediction] for prediction in mistakes if prediction in examples),
        hits=tuple(examples[prediction] for prediction in hits if prediction in examples),
        seen=tuple(
            Seen(
                file=prediction.file,
                label=prediction.label,
                before=data_uri(pictures[prediction]),
                after=data_uri(as_seen(inputs[prediction], preprocessing)),
                changed=prediction in changed,
            )
            for prediction in sampled
            if prediction in pictures
        ),
        mistakes_in_all=mistakes_in_all,
        missing=missing,
        layer=relevance.layer,
        no_overlay=relevance.reason,
    )


def _spread(predictions: Sequence[ImagePrediction], count: int) -> list[ImagePrediction]:
    """At most `count` predictions at even distances, so that several classes are among them."""
    step = max(1, len(predictions) // count)
    return list(predictions[::step][:count])


def _read(file: ImageFile | None, preprocessing: Preprocessing) -> Image.Image | None:
    if file is None:
        return None
    try:
        return decode(file.content(), name=file.relative, preprocessing=preprocessing)
    except DataError:
        return None


def _relevance(record: RunRecord, registry: Registry, images: Sequence[Tensor], others: Sequence[Tensor]) -> Relevance:
    """Grad-CAM of preprocessed images, each image[3, H, W], with the run's own classifier.

    Its logits are those of the images, then those of `others`, which need no heat.
    """
    no_logits = torch.empty(0)
    if not images and not others:
        return Relevance(logits=no_logits, heat=None)
    if record.split == OUT_OF_FOLD:
        # The saved classifier was fitted to these images: what it says of them is not what was predicted.
        reason = "these are predictions of the fits without an image's fold, which are not kept"
        return Relevance(logits=no_logits, heat=None, reason=reason)
    model: ZooModel
    try:
        folder = record.path / str(record.result["artefact"])
        model, config = read_model(folder, registry)
        check_versions(model, folder, config, registry, silent)  # another plugin or object may look elsewhere
    except ZooError as error:
        first = str(error).splitlines()[0]
        return Relevance(logits=no_logits, heat=None, reason=f"the classifier cannot be opened: {first.rstrip('.')}")
    found = grad_cam(model, torch.stack(list(images))) if images else Relevance(logits=no_logits, heat=None)
    if not others:
        return found
    with torch.inference_mode():
        logits = model.eval()(torch.stack(list(others)))
    return replace(found, logits=torch.cat([found.logits, logits]) if images else logits)


def _changed(record: RunRecord, predictions: Sequence[ImagePrediction], logits: Tensor) -> set[ImagePrediction]:
    """The predictions whose files the classifier now gives another probability, by their logits[N, classes]."""
    # Without logits, the classifier could not be opened, so nothing is known about the files.
    return {
        prediction
        for prediction, probabilities in zip(predictions, logits.double().softmax(-1), strict=False)
        if abs(float(probabilities[record.plan.classes.index(prediction.predicted)]) - prediction.probability)
        > _SAME[record.plan.precision]
    }


def _examples(
    shown: Sequence[ImagePrediction],
    inputs: dict[ImagePrediction, Tensor],
    relevance: Relevance,
    preprocessing: Preprocessing,
    changed: Container[ImagePrediction],
) -> dict[ImagePrediction, Example]:
    """Prediction -> its example; `inputs` has each prediction's preprocessed image[3, H, W]."""
    examples = {}
    for index, prediction in enumerate(shown):
        picture = as_seen(inputs[prediction], preprocessing)
        overlay = data_uri(with_heat(picture, relevance.heat[index])) if relevance.heat is not None else None
        examples[prediction] = Example(
            prediction=prediction, picture=data_uri(picture), overlay=overlay, changed=prediction in changed
        )
    return examples


def data_uri(picture: Image.Image) -> str:
    """An RGB picture as a `data:` address (JPEG), at most `SIDE` pixels wide and high."""
    # thumbnail works in place, and the caller goes on with the picture.
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
