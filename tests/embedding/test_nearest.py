"""`zoo similar`: copies come first and are called so, neighbours share labels, the page shows them in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from PIL import Image
from tests.advice.test_labels import CHROMIUM, MEASURED
from tests.conftest import Zoo
from zoo.embedding.nearest import cosines
from zoo.errors import DataError, OptionError, Refused

TINY: dict[str, Any] = {"weights": "random", "precision": "float32", "input_size": (64, 64)}
BACKBONE = "timm/test_resnet"


@pytest.fixture(scope="module")
def photos(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`few` with a copy of one picture under another name."""
    root = tmp_path_factory.mktemp("photos") / "a & b"
    shutil.copytree(few, root)
    shutil.copy(root / "val/a/0.jpg", root / "train/a/twin.jpg")
    return root


def test_the_image_itself_and_its_copies_come_first_and_are_called_so(photos: Path, tmp_path: Path) -> None:
    asked = photos / "val/a/0.jpg"
    found = zoo.similar(BACKBONE, asked, photos, **TINY, top=5)
    first, second, *others = found
    assert {(each.file, each.remark) for each in (first, second)} == {
        ("val/a/0.jpg", "the image itself"),
        ("train/a/twin.jpg", "an exact copy"),
    }
    assert first.similarity == second.similarity == 1.0
    values = [each.similarity for each in others]
    assert values == sorted(values, reverse=True) and max(values) < 1 and not any(each.remark for each in others)
    assert found.searched == 13 and len(found) == 5 and found[2].label in {"a", "b"}
    elsewhere = Path(shutil.copy(asked, tmp_path / "elsewhere.jpg"))
    copied = zoo.similar(BACKBONE, elsewhere, photos, **TINY, top=2)
    assert [each.remark for each in copied] == ["an exact copy", "an exact copy"]
    as_bytes = zoo.similar(BACKBONE, asked.read_bytes(), photos, **TINY, top=2)
    assert [each.copy for each in as_bytes] == [True, True] and not any(each.itself for each in as_bytes)


def test_similarities_are_the_cosines_of_what_embed_gives(photos: Path) -> None:
    made = zoo.embed(BACKBONE, photos, **TINY, normalise=True)
    asked = made.files.index("val/b/1.jpg")
    cosines = made.vectors @ made.vectors[asked]
    found = zoo.similar(BACKBONE, photos / "val/b/1.jpg", photos, **TINY, top=len(made))
    for each in found:
        assert each.similarity == pytest.approx(float(cosines[made.files.index(each.file)]), abs=1e-5)
    opened = zoo.similar(BACKBONE, Image.open(photos / "val/b/1.jpg"), photos, **TINY, top=1)
    assert opened[0].file == "val/b/1.jpg" and opened[0].similarity == pytest.approx(1, abs=1e-5)
    assert not opened[0].copy, "of a picture in memory nobody knows the file's bytes"


def test_many_vectors_are_compared_without_a_second_copy_of_them_all() -> None:
    vectors = np.random.default_rng(0).standard_normal((100_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tracemalloc.start()
    try:
        found = cosines(vectors, vectors[7])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    assert found[7] == pytest.approx(1) and found.max() <= 1
    assert np.allclose(found, vectors.astype(np.float64) @ vectors[7].astype(np.float64), rtol=0, atol=1e-12)


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [pytest.param(400, marks=pytest.mark.long), 1400])
def test_a_real_browser_shows_the_page_and_the_part_of_a_notebook(width: int, photos: Path, tmp_path: Path) -> None:
    found = zoo.similar(BACKBONE, photos / "val/a/0.jpg", photos, **TINY, top=4, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "the image itself" in page and "a &amp; b" in page and page == found.html()
    part = found._repr_html_()
    assert part.count('src="data:image/jpeg') == 5 and "<html" not in part
    framed = tmp_path / "framed.html"
    framed.write_text(MEASURED.format(width=width, page=html.escape(page)), "utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    shown = subprocess.run(
        [CHROMIUM, *options, "--enable-logging=stderr", "--window-size=1500,1300", "--dump-dom", framed.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    title = re.search(r"<title>(\[.*?\])</title>", shown.stdout)
    assert title is not None, shown.stdout[:500] + shown.stderr
    across, needed, broken, outside, images = json.loads(title.group(1))
    assert needed <= across and broken == 0 and outside == 0 and images == 5


def test_what_cannot_be_searched_is_told_with_the_next_step(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no image .*val/a/00\.jpg'\. Did you mean '.*val/a/0\.jpg'\?"):
        zoo.similar(BACKBONE, photos / "val/a/00.jpg", photos, **TINY)
    with pytest.raises(DataError, match="is a folder, and the image to find others for is one file"):
        zoo.similar(BACKBONE, photos / "val", photos, **TINY)
    with pytest.raises(OptionError, match="top must be at least 1"):
        zoo.similar(BACKBONE, photos / "val/a/0.jpg", photos, **TINY, top=0)
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(Refused, match="overwrites nothing"):
        zoo.similar(BACKBONE, photos / "val/a/0.jpg", photos, **TINY, html=tmp_path / "page.html")
    (tmp_path / "torn.jpg").write_bytes((photos / "val/a/0.jpg").read_bytes()[:100])
    with pytest.raises(DataError, match=r"torn\.jpg"):
        zoo.similar(BACKBONE, tmp_path / "torn.jpg", photos, **TINY, html=tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_the_command_prints_a_table_or_json(zoo_inside: Zoo, photos: Path) -> None:
    words = (
        "similar",
        BACKBONE,
        photos / "val/a/0.jpg",
        photos,
        "--weights",
        "random",
        "--precision",
        "float32",
        "--input-size",
        "64",
    )
    done = zoo_inside(*words, "--top", "3")
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout and "the image itself" in done.stdout and "labels of the others:" in done.stdout
    content = json.loads(zoo_inside(*words, "--json", "--html", "page.html").stdout)
    assert len(content["neighbours"]) == 10 and content["page"] == "page.html"


@pytest.mark.data
@pytest.mark.long
def test_neighbours_of_real_flowers_share_the_label_far_more_often_than_chance(real_data: Path) -> None:
    weights = real_data / "weights/squeezenet1_1.safetensors"
    made = zoo.embed("squeezenet1_1", real_data / "data/flowers5", weights=weights, normalise=True, precision="float32")
    near = made.vectors @ made.vectors.T
    np.fill_diagonal(near, -1)
    labels = np.array(made.labels)
    same = [labels[row] == labels[nearest] for row, nearest in enumerate(np.argsort(-near, axis=1)[:, :5])]
    assert np.mean(same) > 0.6, "chance is 0.2"
    file = real_data / "data/flowers5" / made.files[0]
    found = zoo.similar("squeezenet1_1", file, real_data / "data/flowers5", weights=weights, precision="float32", top=6)
    assert found[0].itself and found[0].similarity == 1.0
    expected = [made.files[row] for row in np.argsort(-near[0])[:5]]
    assert [each.file for each in found[1:]] == expected
