"""Preprocessing that can be called: what `model.preprocessing` is, in a training loop of one's own."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from zoo.data.memory.pictures import ImageLike, picture_of
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

    def __call__(self, image: ImageLike) -> Tensor:
        """An image -> float32[3, H, W]: resized, cropped and normalised, as the classifier does.

        `image` is a path, the bytes of an image file, a PIL image, an array uint8[H, W, 3] or a tensor uint8[3, H, W].
        Raises DataError for what cannot be read, and for anything that is no image.
        """
        from zoo.data.decode import image_needed
        from zoo.data.transform import transform

        try:
            return transform(picture_of(image, "the image", preprocessing=self), self)
        except DataError as error:
            raise image_needed(error) from None

    def __eq__(self, other: object) -> bool:
        # A dataclass is equal to objects of its own class alone, and plans hold the plain record.
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in fields(Preprocessing))

    # A class that defines `__eq__` loses the hash that it would inherit.
    __hash__ = Preprocessing.__hash__
