"""Preprocessing that can be called: what `model.preprocessing` is, in a training loop of one's own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from zoo.data.decode import read_image, to_upright_rgb
from zoo.errors import DataError
from zoo.specs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


class ImagePreprocessing(Preprocessing):
    """The preprocessing of a model, which prepares an image when it is called.

    It is equal to the same preprocessing as a record, and a data set may have it as its `transform`.
    """

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> ImagePreprocessing:
        """The same preprocessing, callable."""
        return cls(**{field.name: getattr(preprocessing, field.name) for field in fields(Preprocessing)})

    def __call__(self, image: Image | str | Path) -> Tensor:
        """An image, in memory or a file -> float32[3, H, W]: resized, cropped and normalised, as the classifier does.

        Raises DataError for a file that cannot be read, and for anything that is no image.
        """
        from zoo.data.transform import transform

        return transform(_picture(image), self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in fields(Preprocessing))

    __hash__ = Preprocessing.__hash__


def _picture(image: Image | str | Path) -> Image:
    if isinstance(image, Image):
        return to_upright_rgb(image)
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    raise DataError(
        f"Preprocessing takes one image, a PIL image or the path of a file, not {type(image).__name__}.\n"
        "Next: call it for each image by itself."
    )
