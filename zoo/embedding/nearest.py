"""Find the images of a data set that are nearest to one image, by the cosine of their vectors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.dataset import ImageFile
from zoo.data.decode import decode, image_needed
from zoo.data.paths import hindrance, names_in
from zoo.embedding.embedder import check_name, open_embedder
from zoo.embedding.found_images import find_images
from zoo.embedding.similar_page import PAGE, PART, PageRow, picture_of, rendered
from zoo.embedding.vectors import Embedding, embed_images, of_one
from zoo.errors import DataError, OptionError, Refused, meant_beside
from zoo.events import Report
from zoo.planning.request import Request
from zoo.registry.registry import Registry
from zoo.specs.data import is_image_name
from zoo.storage.atomic import new_path
from zoo.text import escaping_errors

_AT_ONCE = 1 << 13
"""Vectors that are compared at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """An image of the data, and how near it is."""

    file: str
    """Its path below the data folder, with forward slashes."""
    label: str
    """Its class; empty for an image without one."""
    split: str
    similarity: float
    """The cosine of the angle between the two vectors, -1 to 1."""
    copy: bool
    """Whether it has the same bytes as the image that was asked for."""
    itself: bool
    """Whether it is the very file that was asked for."""

    @property
    def remark(self) -> str:
        """What people should know of it: `the image itself`, `an exact copy`, or nothing."""
        return "the image itself" if self.itself else "an exact copy" if self.copy else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarImages(Sequence[Neighbour]):
    """The images nearest to one image, the nearest first. In a notebook they are shown as pictures."""

    image: str
    """The image that was asked for."""
    backbone: str
    data: str
    """The data as people call them."""
    searched: int
    """Images of the data that were compared."""
    neighbours: tuple[Neighbour, ...]
    metadata: Mapping[str, Any]
    """What the vectors are, as in `Embedding`."""
    unreadable: Mapping[str, str]
    """Name -> what is wrong, of images that were left out."""
    query: ImageFile = field(repr=False, compare=False)
    files: tuple[ImageFile, ...] = field(repr=False, compare=False)
    """Where each neighbour is read again."""

    def __repr__(self) -> str:
        found = "".join(f"\n  {each.similarity:.3f} {each.label} {each.file}" for each in self.neighbours)
        return f"SimilarImages({len(self)} of {self.searched:,} images, nearest to {self.image}){found}"

    def __len__(self) -> int:
        return len(self.neighbours)

    def __getitem__(self, index: Any) -> Any:
        return self.neighbours[index]

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain JSON types."""
        return {
            "image": self.image,
            "backbone": self.backbone,
            "data": self.data,
            "searched": self.searched,
            "neighbours": [asdict(each) for each in self.neighbours],
            "metadata": dict(self.metadata),
            "unreadable": dict(self.unreadable),
        }

    def html(self) -> str:
        """A page with the pictures, which loads nothing from outside."""
        return rendered(PAGE, self._facts(), self._rows())

    def _repr_html_(self) -> str:
        return rendered(PART, self._facts(), self._rows())

    def _facts(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "uri": picture_of(self.query),
            "backbone": self.backbone,
            "group": self.metadata["group"],
            "data": self.data,
            "searched": self.searched,
        }

    def _rows(self) -> list[PageRow]:
        return [
            PageRow(each.file, each.label, each.split, each.similarity, each.remark, picture_of(file))
            for each, file in zip(self.neighbours, self.files, strict=True)
        ]


def find_similar(
    request: Request,
    image: ImageFile,
    registry: Registry,
    report: Report,
    *,
    top: int = 10,
    group: str | None = None,
    html: Path | None = None,
) -> SimilarImages:
    """Find the images of the request's data that are nearest to one image.

    Args:
        request: Names the backbone (or a run, or a saved classifier) and the data.
        image: The image.
        registry: Where names are looked up.
        report: Called with every event.
        top: How many are found, at least 1.
        group: As for `embed`.
        html: A page with the pictures, which must not exist. None: no page.

    Raises:
        Refused: Names that do not exist, or `html` exists.
        DataError: The image cannot be read, or there is none to compare it with.
    """
    if top < 1:
        raise OptionError(f"--top must be at least 1, got {top}.\nNext: leave --top out, for 10.")
    if request.data is None:
        raise Refused("There are no images to search.\nNext: give a folder of images.")
    try:
        content = image.content()
        decode(content, name=image.relative)  # an image that cannot be read is told before anything else
    except DataError as error:
        raise image_needed(error) from None
    check_name(request.backbone, registry)
    if html is None:
        return _find(request, image, content, registry, report, top=top, group=group)
    with new_path(html) as draft:  # a place that cannot be written is found before the work
        found = _find(request, image, content, registry, report, top=top, group=group)
        draft.write_text(found.html(), "utf-8", errors=escaping_errors())
    return found


def _find(
    request: Request,
    image: ImageFile,
    content: bytes,
    registry: Registry,
    report: Report,
    *,
    top: int,
    group: str | None,
) -> SimilarImages:
    assert request.data is not None, "that is asked before"
    images = find_images(request.data, registry, report, seed=request.seed)
    embedder = open_embedder(request, registry, report, group=group)
    asked = of_one(embedder, image, report)
    made = embed_images(embedder, images, report, normalise=True, workers=request.workers)
    # By the bytes of the file, not by the vector: two pictures may well have one vector.
    digest = hashlib.sha256(content).hexdigest()
    copies = np.array([each == digest for each in made.sha256])
    similarities = cosines(made.vectors, asked.vectors[0])
    similarities[copies] = 1.0  # the same pixels: in a batch of other images the last bits may differ
    # The last key is the one that is sorted by first: copies come before all others.
    order = np.lexsort((-similarities, ~copies))[:top].tolist()
    return SimilarImages(
        image=image.relative,
        backbone=embedder.backbone,
        data=images.source,
        searched=len(made),
        neighbours=tuple(
            Neighbour(
                file=made.files[row],
                label=made.labels[row],
                split=made.splits[row],
                similarity=float(similarities[row]),
                copy=bool(copies[row]),
                itself=bool(copies[row]) and _is_same_file(image, made, row),
            )
            for row in order
        ),
        metadata=made.metadata,
        unreadable=made.unreadable,
        query=image,
        files=tuple(made.images[row] for row in order),
    )


def cosines(vectors: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return cosines[N] of normalised vectors[N, F] with other[F]."""
    products = np.empty(len(vectors))
    # All of a million vectors at once would need twice their memory again.
    for begin in range(0, len(vectors), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        products[part] = vectors[part].astype(np.float64) @ other.astype(np.float64)
    # Rounding takes the product of two equal vectors a little beyond 1.
    return np.clip(products, -1.0, 1.0, out=products)


def _is_same_file(image: ImageFile, made: Embedding, row: int) -> bool:
    file = made.images[row]
    if image.reader is not None or file.reader is not None:
        return False  # inside an archive nobody can know: a copy, then
    try:
        return image.path.samefile(file.path)
    except OSError:
        return False


def image_file(path: Path) -> ImageFile:
    """The image at a path. Raises DataError, with the nearest name, where there is none."""
    if os.path.isdir(path):
        raise DataError(
            f"{path} is a folder, and the image to find others for is one file.\n"
            "Next: give the image first, then the folder: zoo similar BACKBONE IMAGE DATA"
        )
    if not os.path.isfile(path):
        if why := hindrance(path):
            raise DataError(f"The image {str(path)!r} cannot be looked at: {why}.\nNext: check the path.")
        names = [name for name in names_in(path.parent) if is_image_name(name)]
        raise DataError(
            f"There is no image {str(path)!r}.{meant_beside(path, names)}\n"
            "Next: check the path; the image is given first, then the data to search."
        )
    return ImageFile(path, str(path), 0)
