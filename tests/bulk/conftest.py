"""A tiny classifier, and pictures in number."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from zoo.data.sample import sample_image


@pytest.fixture(scope="session")
def artefact(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier of two classes that computes in a moment."""
    out = tmp_path_factory.mktemp("bulk") / "run"
    zoo.finetune(
        backbone="timm/test_resnet",
        weights="random",
        data=few,
        recipe="head_only",
        out=out,
        report=False,
        verbose=False,
    )
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 pictures in two folders, two of which cannot be read, and a file that is no image by its name."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(70):
        folder = root / ("a" if number % 2 else "b")
        folder.mkdir(exist_ok=True)
        sample_image(number % 3, 3, "train", number).save(folder / f"{number:03d}.jpg", quality=85)
    (root / "a" / "011.jpg").write_bytes(b"no picture")
    (root / "b" / "040.jpg").write_bytes(b"")
    sample_image(0, 3, "train", 0).save(root / "a" / "000.gif")
    return root
