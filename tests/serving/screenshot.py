"""README's picture of the page: taken by a real Chromium, of a real classifier, with generated pictures.

    python -m tests.serving.screenshot OUT.png [--backbone NAME] [--weights FILE]

Trains on the generated sample set, serves what comes out, drops one of its pictures on the page, and takes the picture.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import zoo
from PIL import Image
from tests.browser import browser
from tests.serving.conftest import serving
from zoo.data.sample import sample_classes, sample_image

WIDTH, HEIGHT = 1000, 1010
CLASSES = 5
_DRAWN, _RATHER_SURE = 100, 0.85
_COLOURS = 128
"""Of the PNG: enough for a page with three pictures, at a quarter of the bytes."""
READY = "document.querySelectorAll('#bars li').length > 0 && document.getElementById('overlay').naturalWidth > 0"


def take(run: Path, picture: Path, out: Path, folder: Path) -> Path:
    """Drop a picture on the page of a run, and write what is seen then."""
    with serving(run) as served, browser(folder / "profile") as page:
        page.look(width=WIDTH, height=HEIGHT)
        page.open(served.url)
        page.drop([picture])
        page.wait(READY)
        # The port is any free one, and the run is in a temporary folder.
        taken = page.picture(folder / "taken.png", whole=False)
    with Image.open(taken) as image:
        image.convert("RGB").quantize(_COLOURS).save(out, optimize=True)
    return out


def draw(run: Path, folder: Path) -> Path:
    """A picture of the sample set that the classifier has not seen, and of which it is rather sure, but not quite."""
    names = sample_classes(CLASSES)
    drawn = [sample_image(number % CLASSES, CLASSES, "page", number) for number in range(_DRAWN)]
    said = zoo.load(run).predict(drawn)
    right = [number for number, each in enumerate(said) if each.label == names[number % CLASSES]]
    chosen = min(right, key=lambda number: abs(said[number].probability - _RATHER_SURE))
    drawn[chosen].save(folder / "new.png")
    return folder / "new.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--weights", default="default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        result = zoo.finetune(
            asked.backbone,
            weights=asked.weights,
            classes=CLASSES,
            recipe="head_only",
            out=folder / "shapes",
            tune=False,
            report=False,
        )
        print(take(result.path, draw(result.path, folder), asked.out, folder))


if __name__ == "__main__":
    main()
