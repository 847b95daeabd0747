"""Vectors of images from a frozen backbone, and the images that are nearest to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.arguments import checked_arguments
from zoo.api.calls import with_data
from zoo.api.progress import with_progress
from zoo.events import Report, silent
from zoo.planning.request import Request, make_request
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.data.dataset import ImageFile
    from zoo.data.memory.pictures import ImageLike
    from zoo.embedding.nearest import SimilarImages
    from zoo.embedding.vectors import Embedding
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.data import DataLike


@checked_arguments()
@with_progress()
def embed(
    backbone: str | Path | BackboneSpec | nn.Module,
    data: DataLike,
    *,
    out: str | Path | None = None,
    group: str | None = None,
    normalise: bool = False,
    dtype: str = "float32",
    weights: str | Path = "default",
    input_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Embedding:
    """Compute a vector for every image: `.vectors[N, F]`, with `.files`, `.sha256`, `.labels` and `.splits`.

    The images go through the frozen backbone once. The vectors are kept in the cache, where runs on the same images
    find them, too. Images that cannot be read are left out, and are in `.unreadable`. docs/embed.md has more.

    Args:
        backbone: `[provider/]architecture[.tag]`; or a run, a saved classifier or `hf://OWNER/NAME`: its backbone as it
            was trained; or an object as for `finetune`.
        data: As for `finetune`, objects in memory too; or any folder of images, which then have no labels; or one
            image.
        out: A new file: `.parquet`, `.safetensors`, or `.npy` with a `.csv` of the rows and a `.json` beside it.
            Default: nothing is written.
        group: A group of the backbone (`zoo show BACKBONE`), whose output is averaged over all positions. Default: the
            pooled features, which a head gets.
        normalise: Whether each vector is divided by its length, so that products are cosines.
        dtype: `float32` or `float16`.
        weights: `default`, a tag, `random`, or the path of a file. Not beside a run, which brings its own.
        input_size: (height, width) in pixels, or one number for both. Default: that of the weights. Not beside a run.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`, and of random weights.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: as for `finetune`, and for a run that of its training.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network. Weights that are not on this machine are an error then.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        Refused: Names that do not exist, `out` exists or has another ending, or a package for it is missing.
        DataError: No image, or none that can be read.
        FeaturesError: A vector is not finite, or too large for float16.
    """
    from zoo.embedding.embed import embed as compute
    from zoo.embedding.vector_file import try_vector_file

    place = None if out is None else Path(out).expanduser()
    # Before the work, which begins with what the backbone and the data are.
    if place is not None:
        try_vector_file(place)
    request, known = _request(
        backbone,
        data,
        registry or default_registry(),
        on_event,
        weights=weights,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    return compute(request, known, on_event, out=place, group=group, normalise=normalise, dtype=dtype)


@checked_arguments()
@with_progress()
def similar(
    backbone: str | Path | BackboneSpec | nn.Module,
    image: ImageLike,
    data: DataLike,
    *,
    top: int = 10,
    html: str | Path | None = None,
    group: str | None = None,
    weights: str | Path = "default",
    input_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> SimilarImages:
    """Find the images that are nearest to one image, by the cosine of their vectors. A notebook shows the pictures.

    Files with the same bytes come first and are marked as copies, and so is the file itself, where it is in the data.

    Args:
        backbone: As for `embed`. The backbone of a run knows what its classes are told apart by.
        image: A file, the bytes of one, or a picture in memory, as for `Classifier.predict`.
        data: As for `embed`.
        top: How many are found.
        html: A page with the pictures, which must not exist. Default: no page.
        group: As for `embed`, as all further arguments.

    Raises:
        Refused: Names that do not exist, or `html` exists.
        DataError: The image cannot be read, or there is none to compare it with.
    """
    from zoo.embedding.nearest import find_similar
    from zoo.storage.atomic import try_new_path

    page = None if html is None else Path(html).expanduser()
    # Before the work, as above.
    if page is not None:
        try_new_path(page)
    request, known = _request(
        backbone,
        data,
        registry or default_registry(),
        on_event,
        weights=weights,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    return find_similar(request, _image(image), known, on_event, top=top, group=group, html=page)


def _request(
    backbone: str | Path | BackboneSpec | nn.Module,
    data: DataLike,
    registry: Registry,
    on_event: Report,
    **arguments: Any,
) -> tuple[Request, Registry]:
    """The request, and a registry in which its names are found; an address on the hub becomes the folder that it is
    downloaded to."""
    from zoo.planning.objects import name_objects

    # One slash: `Path` takes the other one away.
    if isinstance(backbone, (str, Path)) and str(backbone).startswith("hf:/"):
        from zoo.artefact.hub import local_folder

        backbone = local_folder(backbone)
    # Objects first, as data are registered on top of the registry that holds them.
    named = name_objects(registry, backbone=backbone)
    place, known = with_data(data, named.registry, on_event)
    # A request holds a file of weights as its path in words, beside tags and `random`.
    arguments["weights"] = str(arguments["weights"])
    return make_request(backbone=named.backbone, data=place, **arguments), known


def _image(image: ImageLike) -> ImageFile:
    from zoo.data.dataset import ImageFile
    from zoo.data.memory.pictures import encode
    from zoo.embedding.nearest import image_file

    if isinstance(image, (str, os.PathLike)):
        return image_file(Path(image).expanduser())
    content = bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else encode(image)
    # No path and no size: messages call it by these words.
    return ImageFile(Path(), "the image", 0, lambda: content)
