"""Vectors of images from a frozen backbone, and the images that are nearest to one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.arguments import checked_arguments
from zoo.events import Report, silent
from zoo.planning.request import Request, make_request
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from PIL.Image import Image

    from zoo.data.dataset import ImageFile
    from zoo.embedding.nearest import SimilarImages
    from zoo.embedding.vectors import Embedding


@checked_arguments()
def embed(
    backbone: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    group: str | None = None,
    normalise: bool = False,
    dtype: str = "float32",
    weights: str | Path = "default",
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    registry: Registry | None = None,
) -> Embedding:
    """Compute a vector for every image: `.vectors[N, F]`, with `.files`, `.sha256`, `.labels` and `.splits`.

    The images go through the frozen backbone once. The vectors are kept in the cache, where runs on the same images
    find them, too. Images that cannot be read are left out, and are in `.unreadable`. docs/embed.md has more.

    Args:
        backbone: `[provider/]architecture[.tag]`; or a run, a saved classifier or `hf://OWNER/NAME`: its backbone as it
            was trained.
        data: As for `finetune`; or any folder of images, which then have no labels; or one image.
        out: A new file: `.parquet`, `.safetensors`, or `.npy` with a `.csv` of the rows and a `.json` beside it.
            Default: nothing is written.
        group: A group of the backbone (`zoo show BACKBONE`), whose output is averaged over all positions. Default: the
            pooled features, which a head gets.
        normalise: Whether each vector is divided by its length, so that products are cosines.
        dtype: `float32` or `float16`.
        weights: `default`, a tag, `random`, or the path of a file. Not beside a run, which brings its own.
        input_size: (height, width) in pixels. Default: that of the weights. Not beside a run.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`, and of random weights.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: as for `finetune`, and for a run that of its training.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network. Weights that are not on this machine are an error then.
        on_event: Called with every event of `zoo.events`.

    Raises:
        Refused: Names that do not exist, `out` exists or has another ending, or a package for it is missing.
        DataError: No image, or none that can be read.
        FeaturesError: A vector is not finite, or too large for float16.
    """
    from zoo.embedding.embed import embed as compute

    request = _request(
        backbone,
        data,
        weights=weights,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    place = None if out is None else Path(out).expanduser()
    known = registry or default_registry()
    return compute(request, known, on_event, out=place, group=group, normalise=normalise, dtype=dtype)


@checked_arguments()
def similar(
    backbone: str | Path,
    image: str | Path | bytes | Image,
    data: str | Path,
    *,
    top: int = 10,
    html: str | Path | None = None,
    group: str | None = None,
    weights: str | Path = "default",
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    registry: Registry | None = None,
) -> SimilarImages:
    """Find the images that are nearest to one image, by the cosine of their vectors. A notebook shows the pictures.

    Files with the same bytes come first and are marked as copies, and so is the file itself, where it is in the data.

    Args:
        backbone: As for `embed`. The backbone of a run knows what its classes are told apart by.
        image: A file, the bytes of one, or a PIL image.
        data: As for `embed`.
        top: How many are found.
        html: A page with the pictures, which must not exist. Default: no page.
        group: As for `embed`, as all further arguments.

    Raises:
        Refused: Names that do not exist, or `html` exists.
        DataError: The image cannot be read, or there is none to compare it with.
    """
    from zoo.embedding.nearest import find_similar

    request = _request(
        backbone,
        data,
        weights=weights,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    page = None if html is None else Path(html).expanduser()
    known = registry or default_registry()
    return find_similar(request, _image(image), known, on_event, top=top, group=group, html=page)


def _request(backbone: str | Path, data: str | Path, **arguments: Any) -> Request:
    """The request; an address on the hub becomes the folder that it is downloaded to."""
    if str(backbone).startswith("hf:/"):
        from zoo.artefact.hub import local_folder

        backbone = local_folder(backbone)
    arguments["weights"] = str(arguments["weights"])
    return make_request(backbone=str(backbone), data=data, **arguments)


def _image(image: str | Path | bytes | Image) -> ImageFile:
    from zoo.data.dataset import ImageFile
    from zoo.embedding.nearest import image_file

    if isinstance(image, (str, Path)):
        return image_file(Path(image).expanduser())
    if isinstance(image, bytes):
        content = image
    else:
        from zoo.data.decode import to_upright_rgb

        lossless = io.BytesIO()
        to_upright_rgb(image).save(lossless, "PNG")
        content = lossless.getvalue()
    return ImageFile(Path(), "the image", 0, lambda: content)
