"""Embed a data set: its images, their vectors, and a file of them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

from zoo.data.prefetch import resolve_workers
from zoo.embedding.embedder import check_name, open_embedder
from zoo.embedding.found_images import find_images
from zoo.embedding.vector_file import new_vector_file, try_vector_file
from zoo.embedding.vectors import DType, Embedding, embed_images
from zoo.errors import OptionError, Refused, meant
from zoo.events import Report
from zoo.planning.request import Request
from zoo.registry.registry import Registry


def embed(
    request: Request,
    registry: Registry,
    report: Report,
    *,
    out: Path | None = None,
    group: str | None = None,
    normalise: bool = False,
    dtype: str = "float32",
) -> Embedding:
    """Compute a vector for every image of the request's data, and write them.

    Args:
        request: Names the backbone (or a run, or a saved classifier) and the data.
        registry: Where names are looked up.
        report: Called with every event.
        out: The file, which must not exist, ending in .parquet, .safetensors or .npy. None: nothing is written.
        group: The group of the backbone whose output is averaged over all positions. None: the pooled features.
        normalise: Whether each vector is divided by its length.
        dtype: `float32` or `float16`.

    Raises:
        Refused: Names that do not exist, `out` exists or has another ending, or a package for it is missing.
        DataError: No image, or none that can be read.
        FeaturesError: A vector is not finite, or too large for float16.
    """
    if request.data is None:
        raise Refused("There are no images to embed.\nNext: give a folder of images.")
    number = check_dtype(dtype)
    # For its refusal alone: a number of workers that cannot be is told before the images are listed.
    resolve_workers(request.workers)
    if out is not None:
        try_vector_file(out)
    # A misspelt name is told at once, not after many images were listed.
    check_name(request.backbone, registry)
    found = find_images(request.data, registry, report, seed=request.seed)
    with contextlib.ExitStack() as stack:
        # A place that cannot be written is found before the work.
        write = None if out is None else stack.enter_context(new_vector_file(out, found))
        embedder = open_embedder(request, registry, report, group=group)
        made = embed_images(embedder, found, report, normalise=normalise, dtype=number, workers=request.workers)
        if write is not None:
            write(made)
    return replace(made, path=out)


def check_dtype(asked: str) -> DType:
    """The type of number that is asked for. Raises OptionError for another one."""
    if asked == "float32":
        return "float32"
    if asked == "float16":
        return "float16"
    # What other libraries call them. Who asks for doubles is told the widest that is written.
    also = dict.fromkeys(("half", "fp16"), "float16")
    also |= dict.fromkeys(("single", "fp32", "double", "fp64", "float64"), "float32")
    close = also.get(asked.lower())
    hint = f" Did you mean {close!r}?" if close else meant(asked, get_args(DType), count=1)
    raise OptionError(
        f"--dtype {asked!r} is not one of {', '.join(get_args(DType))}.{hint}\nNext: leave --dtype out, for float32."
    )
