"""What `--decode fast` would save of the time to decode all images, measured on a few of them."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import chain, islice
from statistics import median

from zoo.data.dataset import Dataset
from zoo.data.decode import decode
from zoo.data.store import ImageStore
from zoo.data.transform import resize
from zoo.errors import DataError
from zoo.specs.preprocessing import Preprocessing

_MEASURED, _MOST_SECONDS = 24, 1.5
"""Files that are decoded both ways; fewer where that would take longer than these seconds."""
_WORTH_SAYING = 0.1
"""Share of the time to decode all images below which there is nothing to gain."""


def saved_by_fast_decoding(dataset: Dataset, store: ImageStore) -> float | None:
    """Return the seconds by which `--decode fast` would shorten decoding all images once.

    None where that is under a tenth of the time, and where the preprocessing decodes so already.

    Args:
        dataset: Of all splits, evenly chosen files are decoded both ways, one after the other.
        store: Its preprocessing is the run's; its threads share the files of a run.
    """
    exact = store.preprocessing
    if exact.decode == "fast":
        return None
    count = sum(map(len, dataset.splits.values()))
    step = max(1, count // _MEASURED)
    fast = replace(exact, decode="fast")
    in_full: list[float] = []
    in_part: list[float] = []
    for file in islice(chain.from_iterable(files[::step] for files in dataset.splits.values()), _MEASURED):
        try:
            content = file.content()
            whole, pixels = _decode(content, file.relative, exact)
            part, pixels_of_part = _decode(content, file.relative, fast)
        except DataError:
            continue
        in_full.append(whole)
        # The same work in other seconds is noise.
        in_part.append(part if pixels_of_part < pixels else whole)
        if sum(in_full) + sum(in_part) > _MOST_SECONDS:
            break
    if not in_full or median(in_part) > (1 - _WORTH_SAYING) * median(in_full):
        return None
    # Medians, so that a file that another program delayed does not decide.
    return (median(in_full) - median(in_part)) * count / store.workers


def _decode(content: bytes, name: str, preprocessing: Preprocessing) -> tuple[float, int]:
    """(seconds to decode and resize a file, number of pixels that were decoded)."""
    began = time.perf_counter()
    picture = decode(content, name=name, preprocessing=preprocessing)
    resize(picture, preprocessing)
    return time.perf_counter() - began, picture.width * picture.height
