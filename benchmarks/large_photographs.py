"""`--decode fast` beside exact decoding, on real photographs enlarged to 12 megapixels.

    ZOO_TEST_DATA=... python -m benchmarks.large_photographs [--data A,B] [--backbone NAME] [--images N]

Telephones take such photographs, and the sets have none, so the validation images of each set are enlarged to 4,000 x
3,000 (bicubic, JPEG of quality 92). A head is trained on the set's small training images, decoded exactly, and
classifies the enlarged ones both ways: how often is the class the same, and how many are right? The speed is that of
the image store with all threads, both ways in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import zoo
from PIL import Image
from zoo.data.dataset import ImageFile
from zoo.data.prefetch import resolve_workers
from zoo.data.store import ImageStore
from zoo.specs.preprocessing import Decode, Preprocessing

LONG, SHORT, QUALITY = 4000, 3000, 92
_TURNS = 3
_CHUNK = 32
_DECODES: tuple[Decode, ...] = ("exact", "fast")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one set says."""

    name: str
    images: int
    same: int
    """Images that get the same class both ways."""
    right: dict[Decode, int]
    """Images that get the class of their folder."""
    largest_difference: float
    """Of any class's probability."""
    speeds: dict[Decode, float]
    """Median images a second over the turns."""

    def __str__(self) -> str:
        exact, fast = (self.right[each] / self.images for each in _DECODES)
        ratio = self.speeds["fast"] / self.speeds["exact"]
        return (
            f"| {self.name} | {self.images} | {self.speeds['exact']:.1f} | {self.speeds['fast']:.1f} | {ratio:.1f} "
            f"| {self.same} ({self.same / self.images:.1%}) | {exact:.3f} | {fast:.3f} "
            f"| {self.largest_difference:.3f} |"
        )


def enlarge(source: Path, to: Path) -> None:
    """Save a photograph with 12 megapixels, upright or on its side as it is."""
    with Image.open(source) as image:
        picture = image.convert("RGB")
    size = (LONG, SHORT) if picture.width >= picture.height else (SHORT, LONG)
    to.parent.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.BICUBIC).save(to, "JPEG", quality=QUALITY)


def judge(name: str, data: Path, backbone: str, weights: str, count: int, folder: Path) -> Outcome:
    """Train a head on a set, enlarge its validation images and classify them both ways."""
    said = {"recipe": "head_only", "weights": weights, "precision": "float32", "report": False, "verbose": False}
    run = zoo.finetune(backbone, data=data, out=folder / "run", **said)  # type: ignore[arg-type]
    classifier = zoo.load(run.path)
    sources = sorted(path for path in (data / "val").glob("*/*") if path.is_file())
    sources = sources[:: max(1, len(sources) // count)][:count] if count else sources
    places = [folder / "large" / source.parent.name / f"{source.stem}.jpg" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(enlarge, sources, places))
    files = [ImageFile(place, f"{place.parent.name}/{place.name}", 0) for place in places]
    exact = Preprocessing.from_dict(classifier.model.preprocessing.to_dict())
    speeds: dict[Decode, list[float]] = {each: [] for each in _DECODES}
    for _ in range(_TURNS):
        for each in _DECODES:
            speeds[each].append(_images_a_second(files, replace(exact, decode=each)))
    found = {each: _probabilities(classifier, files, replace(exact, decode=each)) for each in _DECODES}
    labels = torch.tensor([classifier.classes.index(place.parent.name) for place in places])
    tops = {each: found[each].argmax(1) for each in _DECODES}
    return Outcome(
        name=name,
        images=len(files),
        same=int((tops["exact"] == tops["fast"]).sum()),
        right={each: int((tops[each] == labels).sum()) for each in _DECODES},
        largest_difference=float((found["exact"] - found["fast"]).abs().max()),
        speeds={each: statistics.median(speeds[each]) for each in _DECODES},
    )


def _images_a_second(files: list[ImageFile], preprocessing: Preprocessing) -> float:
    with contextlib.closing(ImageStore(preprocessing, workers=resolve_workers(None))) as store:
        began = time.perf_counter()
        _, faults = store.examine(files, progress=lambda done: None)
        assert not faults, faults
        return len(files) / (time.perf_counter() - began)


def _probabilities(classifier: zoo.Classifier, files: list[ImageFile], preprocessing: Preprocessing) -> torch.Tensor:
    """The probabilities[N, classes] of files decoded so."""
    store = ImageStore(preprocessing, workers=resolve_workers(None))
    with contextlib.closing(store), torch.inference_mode():
        logits = [classifier.model(images) for images in store.batches(files, _CHUNK)]
    return torch.cat(logits).softmax(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="flowers5,textures10,hymenoptera", help="sets, with commas")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--images", type=int, default=0, help="of each set; 0: all validation images")
    given = parser.parse_args()
    shared = os.environ.get("ZOO_TEST_DATA")
    if not shared:
        print("ZOO_TEST_DATA must name the folder with data/ and weights/", file=sys.stderr)
        return 2
    print("| set | images | exact, images/s | fast | ratio | same class | right, exact | fast | largest difference |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in given.data.split(","):
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(shared, "weights", f"{given.backbone.rpartition('/')[2]}.safetensors")
            data = Path(shared, "data", name)
            print(judge(name, data, given.backbone, str(weights), given.images, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
