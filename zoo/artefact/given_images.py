"""What a classifier takes to predict: paths, bytes, pictures in memory and folders, mixed, each with its name."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.data.dataset import natural_key
from zoo.data.memory.pictures import ImageLike, described, fault_of, is_array, is_picture, is_tensor
from zoo.data.paths import count_images, images_of
from zoo.errors import DataError, OptionError

_KINDS = (
    "An image is a path, the bytes of an image file, a PIL image, an array uint8[H, W, 3] or a tensor uint8[3, H, W]"
)

# What to do about an image that can be read, and to which the classifier has no answer.
VERIFY = "\nNext: zoo verify PATH tells whether the classifier is whole; if it is, leave this image out."
WITH_MAP = "\nNext: to see where a classifier looks, train one whose backbone has a map: zoo list backbones --head gem"


def images_to_predict(images: ImageLike | Iterable[ImageLike]) -> Iterator[tuple[str, ImageLike]]:
    """Yield images with their names: the path as given, or `image N` for one in memory, counted from 0.

    A list is looked through before the first one is yielded; what comes one by one is looked at as it comes.

    Args:
        images: One image or many. A folder stands for the images in it, in natural order; a batch of arrays[N, H, W, 3]
            or tensors[N, 3, H, W] for N images.

    Raises:
        DataError: Something is no image, or a folder has none.
        OptionError: There is no image.
    """
    several = _several(images)
    if isinstance(several, (list, tuple)):
        if not several:
            raise OptionError("There is no image to predict: the list is empty.\nNext: give one image or more.")
        for index, image in enumerate(several):
            # `Image 0` would be an odd name where one image was given.
            _refuse_no_image(image, index, one=several is not images and len(several) == 1, known=True)
        return _named(several, frozenset(os.path.abspath(each) for each in several if _is_path(each)))  # noqa: PTH100
    return _named(_checked(several), frozenset())


def _several(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return [images]
    if hasattr(images, "read"):  # an open file, which would give its lines
        raise DataError(f"The image is {described(images)}, an open file.\nNext: give its bytes, file.read().")
    if is_array(images) or is_tensor(images):
        if images.ndim == 4:
            return list(images)
        # Paths in an array of texts or objects are a list of them.
        return images.tolist() if is_array(images) and images.dtype.kind in "OUS" else [images]
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise DataError(
            f"The images are {described(images)}, which holds more than images.\n"
            "Next: give its images alone, such as table['image']."
        )
    # Python iterates such objects until an IndexError, which data sets of torch need not raise.
    if hasattr(images, "__getitem__") and not hasattr(type(images), "__iter__"):
        return _items_of(images)
    if not isinstance(images, Iterable):
        raise DataError(f"The images are {described(images)}.\nNext: {_KINDS}, or a list of them.")
    return images


def _items_of(dataset: Any) -> Iterable[Any]:
    """The items of a data set that gives them by index alone; pairs (image, label) are refused by whoever goes on."""
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError):
        raise DataError(
            f"The images are {described(dataset)}, without a length.\nNext: give a list of its images."
        ) from None
    return (dataset[index] for index in range(length))


def _checked(images: Iterable[Any]) -> Iterator[Any]:
    for index, image in enumerate(images):
        _refuse_no_image(image, index, one=False)
        yield image


def _named(images: Iterable[Any], given: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield images with their names. `given` are the paths that are known to be among them."""
    for number, image in enumerate(images):
        if not _is_path(image):
            yield f"image {number}", image
        elif os.path.isdir(image):
            below = sorted(images_of([Path(image)]), key=lambda path: natural_key(str(path)))
            # A folder without images cannot be read, and what reads it says so.
            if below:
                _warn_of_others(Path(image), given)
            yield from ((str(path), path) for path in below or [Path(image)])
        else:
            yield str(image), image


def _is_path(image: Any) -> bool:
    return isinstance(image, (str, os.PathLike))


def _warn_of_others(folder: Path, given: frozenset[str]) -> None:
    """Say which files of a folder are not used, as `zoo predict` does."""
    for text in count_images([folder], given=given).passed_over():
        warnings.warn(f"{folder}: {text}", stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """How many frames lie between `warnings.warn` and whoever called the library."""
    frame, levels = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "zoo":
        frame, levels = frame.f_back, levels + 1
    return levels


def _refuse_no_image(image: Any, index: int, *, one: bool, known: bool = False) -> None:
    """Refuse what is no image. `known`: it is in a list, not in a stream, in which what cannot be read is left out."""
    which = "The image" if one else f"Image {index}"
    if _is_path(image):
        if known and os.path.isdir(image):
            count_images([Path(image)])
        return
    if isinstance(image, (bytes, bytearray, memoryview)):
        if not len(image):
            raise DataError(f"{which} has no bytes.\nNext: read its file again, which may be empty.")
        return
    if is_picture(image):
        if fault := fault_of(image):
            raise DataError(f"{which} {fault}")
        return
    if (
        isinstance(image, (tuple, list))
        and len(image) == 2
        and (is_picture(image[0]) or isinstance(image[0], (str, bytes, os.PathLike)))
    ):
        raise DataError(
            f"{which} is a pair, as data to train on have them.\n"
            "Next: give the images alone: [image for image, label in pairs]."
        )
    raise DataError(f"{which} is {described(image)}.\nNext: {_KINDS[0].lower()}{_KINDS[1:]}.")
