"""Decode a request's images while torch is imported. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import replace

from zoo.data import ahead
from zoo.data.prefetch import resolve_workers
from zoo.data.sources import find_data, read_dataset
from zoo.events import silent
from zoo.planning.request import AUTO, Request
from zoo.registry.registry import Registry, default_registry
from zoo.specs.preprocessing import Preprocessing


def decode_ahead(request: Request | None) -> None:
    """Start to decode the images of a request in another process, where that can be of use.

    It can not for a backbone that is not chosen yet, for images without files of their own, and for more images than
    are opened before the plan is shown: which these are is drawn later. Whatever is wrong with the request is left to
    this process to find and to say.

    `request` None is for a run that is resumed: nothing is decoded.
    """
    if request is None or request.data is None or request.backbone == AUTO:
        return
    path = request.data

    def work() -> ahead.Work | None:
        known = default_registry()
        location = find_data(path, known, silent)
        if location.source is not None and not location.source.plugin.own:
            return None  # it may download or unpack at its first call, and this process is about to make that
        # Folds are not asked for: they change which split a file is in, and not which files there are.
        dataset = read_dataset(location, seed=request.seed)
        files = [file for split in dataset.splits.values() for file in split]
        if len(files) > request.examine or any(file.reader is not None for file in files):
            return None
        # One core is taken by the process that imports.
        threads = max(1, min(resolve_workers(request.workers), (os.cpu_count() or 1) - 1))
        return files, _preprocessing(request, known), threads

    ahead.begin(work)


def _preprocessing(request: Request, registry: Registry) -> Preprocessing:
    """What the images will most likely be prepared for; where weights turn out to say otherwise, nothing is taken."""
    backbone = registry.backbone(request.backbone)
    tag = request.weights if request.weights in backbone.spec.tags else backbone.tag
    native = backbone.spec.preprocessing_for(tag)
    sized = native.at(*request.input_size) if request.input_size else native
    return replace(sized, decode=request.decode)
