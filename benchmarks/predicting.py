"""How near `zoo predict` comes to its own model: files against images in memory, and memory for many files.

    python -m benchmarks.predicting [--files N] [--many N] [--rounds N] [--backbone NAME] [--out FOLDER]

ZOO_TEST_DATA names the folder with the real images, which are repeated by hard links. Rates are of whole processes less
that of one image, which holds imports and loading. `forward` is the same classifier at the same precision, on batches
that lie ready; `decode` is reading alone. They take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process import run

_BATCHES = 20
_ALONE = """
import sys, time, torch, zoo
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zoo.data.prefetch import default_workers
classifier = zoo.load(sys.argv[1])
if sys.argv[2] == "forward":
    images = torch.rand(32, *classifier.model.preprocessing.input_size)
    work, count = (lambda: [classifier.logits(images) for _ in range(int(sys.argv[3]))]), 32 * int(sys.argv[3])
    classifier.logits(images)
else:
    files = sorted(Path(sys.argv[3]).iterdir())[:640]
    chunks, count = [[("", each) for each in files[start:start + 32]] for start in range(0, len(files), 32)], len(files)
    pool = ThreadPoolExecutor(default_workers())
    work = lambda: [None for _ in pool.map(lambda chunk: len(classifier._read(chunk).sources), chunks)]
began = time.perf_counter()
work()
print(count / (time.perf_counter() - began))
"""


def link(images: Sequence[Path], folder: Path, count: int) -> Path:
    """A folder of so many files, each a link to one of the images in turn."""
    folder.mkdir(parents=True)
    for number in range(count):
        source = images[number % len(images)]
        os.link(source, folder / f"{number:06}{source.suffix}")
    return folder


def classifier_for(backbone: str, data: Path, folder: Path) -> Path:
    """An artefact of this backbone with random weights: they cost what others do."""
    words = ["finetune", "--backbone", backbone, "--weights", "random", "--data", data, "--recipe", "head_only"]
    _zoo([*words, "--epochs", "1", "--out", folder / "run"], folder)
    return folder / "run"


def measure(artefact: Path, few: Path, one: Path, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Images a second of each, a value a round."""
    count = sum(1 for _ in few.iterdir())
    rates: dict[str, list[float]] = {"forward": [], "decode": [], "zoo predict": []}
    for _ in range(rounds):
        rates["forward"].append(_alone(folder, artefact, "forward", str(_BATCHES)))
        rates["decode"].append(_alone(folder, artefact, "decode", few))
        starting = _predict(artefact, one, folder)[0]
        rates["zoo predict"].append((count - 1) / (_predict(artefact, few, folder)[0] - starting))
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20_000, help="for memory alone; 0: not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbone", default="torchvision/squeezenet1_1")
    parser.add_argument("--out", type=Path, help="on the disk of the images, for the links; default: beside them")
    asked = parser.parse_args()
    named = os.environ.get("ZOO_TEST_DATA")
    if not named:
        print("ZOO_TEST_DATA does not name a folder with real images", file=sys.stderr)
        return 2
    data = Path(named).resolve() / "data" / "hymenoptera"
    images = sorted(each for each in data.parent.rglob("*") if each.suffix.lower() in (".jpg", ".jpeg"))
    with tempfile.TemporaryDirectory(prefix=".predicting-", dir=asked.out or data.parent) as made:
        folder = Path(made)
        artefact = classifier_for(asked.backbone, data, folder)
        few, one = link(images, folder / "few", asked.files), link(images, folder / "one", 1)
        rates = measure(artefact, few, one, asked.rounds, folder)
        print(f"{asked.backbone}, {asked.files} files, median of {asked.rounds}")
        forward = statistics.median(rates["forward"])
        for name, measured in rates.items():
            median = statistics.median(measured)
            print(f"{name:<14} {median:>8.1f} images/s {median / forward:>6.2f} of forward")
        for count in (asked.files, asked.many):
            if count:
                files = few if count == asked.files else link(images, folder / "many", count)
                print(f"peak memory of {count:>6} files: {_predict(artefact, files, folder)[1]:>7.1f} MB")
    return 0


def _predict(artefact: Path, files: Path, folder: Path) -> tuple[float, float]:
    """-> (seconds, peak MB) of the whole process."""
    return _zoo(["predict", artefact, files, "--json"], folder)


def _alone(folder: Path, *arguments: str | Path) -> float:
    done = run([sys.executable, "-c", _ALONE, *arguments], folder=folder)
    if done.code:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def _zoo(words: Sequence[str | Path], folder: Path) -> tuple[float, float]:
    done = run([sys.executable, "-m", "zoo", *words], folder=folder)
    if done.code:
        raise SystemExit(done.stderr)
    return done.seconds, done.peak_mb


if __name__ == "__main__":
    sys.exit(main())
