"""How fast one core here reads, decodes, checks and computes: what the costs of many images are reckoned from.

    python -m benchmarks.scale_rates

Prints JSON. Photographs are those of ZOO_TEST_DATA (`data/flowers5`), else generated ones of the same size, which are
smoother and decode faster. Everything runs in one thread; weights are random, which changes no rate.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import zoo
from PIL import Image
from zoo.data.check.facts import read_facts
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.transform import transform
from zoo.specs.preprocessing import Preprocessing
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import Block, block_of

from benchmarks.photos import photos
from benchmarks.scale import Rates

SMALL = 256
"""Shorter side of the photographs after they are made smaller, in pixels, at quality 90."""
FEATURES = 2048
"""Numbers in a row of features, as ResNet-50 gives them."""
_PHOTOS, _BLOCKS, _TURNS = 100, 40, 3


def measure() -> Rates:
    """Measure all rates but that of comparing hashes, which the simulation gives. Takes about half a minute."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        files, named = _photographs(Path(temporary))
        contents = [file.content() for file in files]
        small = [_made_small(content) for content in contents]
        nets = {name: zoo.create_model(name, classes=5, weights="random").eval() for name in _NETS}
        seen = next(iter(nets.values())).preprocessing
        forward = {field: _forward(nets[name]) for name, field in _NETS.items()}
        return Rates(
            photographs=named,
            photo_kb=round(statistics.mean(map(len, contents)) / 1e3, 1),
            small_kb=round(statistics.mean(map(len, small)) / 1e3, 1),
            read_mb=_rate(sum(map(len, contents)) / 1e6, lambda: [file.content() for file in files]),
            decode=_rate(len(files), lambda: _decoded(contents, seen)),
            decode_small=_rate(len(files), lambda: _decoded(small, seen)),
            check=_rate(len(files), lambda: [read_facts(file) for file in files]),
            features=_read_back(Path(temporary) / "features"),
            hashes=0,
            **forward,
        )


_NETS = {"squeezenet1_1": "squeezenet", "timm/tf_efficientnet_lite0": "lite0"}


def _photographs(temporary: Path) -> tuple[Sequence[ImageFile], str]:
    folder = Path(os.environ.get("ZOO_TEST_DATA", "")) / "data" / "flowers5" / "train"
    found = sorted(folder.rglob("*.jpg")) if "ZOO_TEST_DATA" in os.environ else []
    named = "flowers5" if found else "generated"
    found = found or sorted(photos(temporary, _PHOTOS).rglob("*.jpg"))
    chosen = found[:: max(1, len(found) // _PHOTOS)][:_PHOTOS]
    return [ImageFile(path, path.name, 0) for path in chosen], named


def _made_small(content: bytes) -> bytes:
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    factor = SMALL / min(picture.size)
    size = (round(picture.width * factor), round(picture.height * factor))
    made = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(made, "JPEG", quality=90)
    return made.getvalue()


def _decoded(contents: Sequence[bytes], seen: Preprocessing) -> None:
    for content in contents:
        transform(decode(content, name="photo"), seen)


def _forward(model: torch.nn.Module) -> float:
    images = torch.zeros(32, *model.preprocessing.input_size)  # type: ignore[arg-type, union-attr]
    with torch.inference_mode():
        return _rate(len(images), lambda: model(images))


def _read_back(folder: Path) -> float:
    """Rows of features read back from the cache in a second, their digests checked."""
    cache, key = FeatureCache(folder, limit=1 << 40), CacheKey({"about": "rates"})
    blocks: dict[str, Block] = {f"{number:032x}": block_of(torch.randn(128, FEATURES)) for number in range(_BLOCKS)}
    for name, block in blocks.items():
        assert cache.keep(key, name, block)

    def read() -> None:
        for name in blocks:
            found = cache.read(key, name)
            assert found is not None and len(found) == 128

    return _rate(128 * _BLOCKS, read)


def _rate(amount: float, work: Callable[[], object]) -> float:
    """The best of a few turns, by the time of the processor: other programs on the machine change that least."""
    work()
    seconds = []
    for _ in range(_TURNS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return float(f"{amount / min(seconds):.3g}")


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
