"""Pictures through an export that prepares them itself, beside the same pictures prepared by Pillow."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import CheckFailed, DataError
from zoo.events import Progress, Report
from zoo.exporting.comparisons import PictureComparison
from zoo.exporting.onnx_preprocessing import PICTURES
from zoo.specs.preprocessing import Preprocessing

MOST_REAL = 1_000
"""Images of the run that are compared, evenly through all classes."""
_BESIDE, _ALONE = 24, 200
"""Generated pictures of odd sizes: beside images of the run, and where there are none."""
_CLASSES = 10
_CHUNK = 32
_Compared = tuple[Image.Image, Image.Image, bool]
"""(picture in RGB, the same as the classifier decodes it, whether it is an image of the run)."""


def compare_pictures(
    session: Any,
    reference: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    files: Sequence[ImageFile],
    split: str,
    report: Report,
    *,
    precision: Literal["float32", "int8"],
    least: float,
) -> PictureComparison:
    """Compare an export that takes pictures with the same classifier on pictures that Pillow prepared.

    Args:
        session: onnxruntime's session of the export.
        reference: images[N, 3, H, W] -> logits[N, classes], by the classifier without preprocessing.
        preprocessing: What Pillow does.
        files: Images of the run; generated pictures of odd sizes come in addition.
        split: Their split.
        report: Called with Progress.
        precision: Of both.
        least: Share of the pictures, 0 to 1, that must get the same class.

    Raises CheckFailed where fewer of the pictures get the same class.
    """
    odd = _BESIDE if files else _ALONE
    total = len(files) + odd
    real = equal = compared = 0
    largest = 0.0
    for chunk in _in_chunks(_pictures(files, odd, preprocessing)):
        # One by one: pictures of one batch must be of one size, and these are of many.
        theirs = torch.cat([_probabilities(session, picture) for picture, _, _ in chunk])
        images = torch.stack([transform(decoded, preprocessing) for _, decoded, _ in chunk])
        ours = reference(images).softmax(1)
        equal += int((ours.argmax(1) == theirs.argmax(1)).sum())
        difference = float((ours - theirs).abs().max())
        # NaN compares as smaller than anything.
        largest = max(largest, difference) if math.isfinite(difference) else math.inf
        real += sum(of_run for _, _, of_run in chunk)
        compared += len(chunk)
        report(Progress(task="compare pictures", done=compared, total=total))
    # Files that cannot be read were counted in, and what shows progress waits for the end.
    if compared < total:
        report(Progress(task="compare pictures", done=total, total=total))
    found = PictureComparison(
        precision=precision,
        pictures=compared,
        real=real,
        split=split if real else "",
        equal=equal,
        largest_difference=largest,
        least_equal=least,
    )
    if found.share < least or not math.isfinite(largest):
        raise CheckFailed(
            f"The export prepares pictures in another way than zoo: {found}; {least:.1%} is the least. It was "
            "not kept.\nNext: --to onnx without --input image, and prepare pictures as the file's metadata say."
        )
    return found


def _pictures(files: Sequence[ImageFile], odd: int, preprocessing: Preprocessing) -> Iterator[_Compared]:
    """Pictures one by one.

    Files that cannot be read are left out.
    """
    for file in files:
        try:
            picture = decoded = decode(file.content(), name=file.relative)
            if preprocessing.decode != "exact":
                decoded = decode(file.content(), name=file.relative, preprocessing=preprocessing)
        except DataError:
            continue  # as the run left it out
        yield picture, decoded, True
    for number in range(odd):
        generated = odd_picture(number)
        yield generated, generated, False


def odd_picture(number: int) -> Image.Image:
    """A picture of the sample set, the same on every machine: of an odd size, some rotated, some grey."""
    # Even in the logarithm of a side, so that pictures smaller than the input, which are enlarged, are not rare.
    generator = random.Random(f"odd/{number}")
    picture = sample_image(number % _CLASSES, _CLASSES, "odd", number)
    width, height = (round(math.exp(generator.uniform(math.log(40), math.log(700)))) for _ in range(2))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if number % 4 == 1:
        picture = picture.rotate(generator.uniform(5, 85), expand=True)
    return picture.convert("L").convert("RGB") if number % 4 == 2 else picture


def _probabilities(session: Any, picture: Image.Image) -> Tensor:
    """Probabilities[1, classes] of a picture by the export."""
    (probabilities,) = session.run(["probabilities"], {PICTURES: np.asarray(picture)[None]})
    return torch.from_numpy(probabilities)


def _in_chunks(pictures: Iterator[_Compared]) -> Iterator[list[_Compared]]:
    chunk = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
