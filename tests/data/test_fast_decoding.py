"""`--decode fast`: large JPEG files at a part of their size, recorded with the preprocessing, everywhere the same."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image, ImageFilter
from zoo.data.decode import decode
from zoo.data.transform import transform
from zoo.errors import OptionError
from zoo.events import Note
from zoo.serving.limits import RequestLimits
from zoo.serving.pictures import Upload, prepare
from zoo.specs.preprocessing import Preprocessing

EXACT = Preprocessing(input_size=(3, 56, 56), resize_size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)
FAST = replace(EXACT, decode="fast")
TINY: dict[str, Any] = {"weights": "random", "precision": "float32", "input_size": (64, 64), "report": False}


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture, as photographs are, whose corners have colours of their own."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, options.pop("format", "JPEG"), quality=92, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1200, 900), (300, 225)),  # a quarter: an eighth would leave 112 of the 128 that are twice the resize
        ((2048, 1100), (256, 138)),  # an eighth
        ((300, 260), (150, 130)),
        ((250, 200), (250, 200)),  # a half would leave 100
    ],
)
def test_a_part_of_the_size_is_decoded_that_is_at_least_twice_the_resize(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    content = jpeg(photograph(*size))
    assert decode(content, name="a").size == decode(content, name="a", preprocessing=EXACT).size == size
    assert decode(content, name="a", preprocessing=FAST).size == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_shows_the_same_picture_in_every_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = jpeg(photograph(900, 560), exif=exif.tobytes())
    exact, fast = (transform(decode(content, name="a", preprocessing=each), each) for each in (EXACT, FAST))
    assert decode(content, name="a", preprocessing=FAST).width < 300
    # In levels of 0 to 255; another orientation would differ by tens.
    assert float((exact - fast).abs().mean()) * 0.25 * 255 < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_what_they_are(mode: str) -> None:
    content = jpeg(photograph(900, 560).convert(mode))
    exact, fast = (transform(decode(content, name="a", preprocessing=each), each) for each in (EXACT, FAST))
    assert float((exact - fast).abs().mean()) * 0.25 * 255 < 1.5


def test_what_is_no_large_jpeg_has_the_same_bits() -> None:
    small, large = photograph(200, 150), photograph(900, 560)
    png = io.BytesIO()
    large.save(png, "PNG")
    for content in (jpeg(small), png.getvalue()):
        exact, fast = (np.asarray(decode(content, name="a", preprocessing=each)) for each in (EXACT, FAST))
        assert np.array_equal(exact, fast)


def test_a_photograph_of_several_frames_is_decoded_at_a_part_of_its_size() -> None:
    frames = io.BytesIO()
    photograph(900, 560).save(frames, "MPO", save_all=True, append_images=[photograph(900, 560, 1)], quality=92)
    assert decode(frames.getvalue(), name="a", preprocessing=FAST).size == (225, 140)


def test_exact_is_stored_as_before_there_was_a_choice() -> None:
    assert "decode" not in EXACT.to_dict() and Preprocessing.from_dict(EXACT.to_dict()) == EXACT
    assert FAST.to_dict()["decode"] == "fast" and Preprocessing.from_dict(FAST.to_dict()) == FAST
    assert "part of their size" in FAST.describe() and "part of" not in EXACT.describe()
    with pytest.raises(ValueError, match="decode must be one of"):
        replace(EXACT, decode="quick")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight photographs, 640 x 480."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(16):
        place = folder / ("red", "blue")[index % 2]
        place.mkdir(exist_ok=True)
        picture = photograph(640, 480, index)
        bands = list(picture.split())
        bands[2 * (index % 2)] = bands[2 * (index % 2)].point(lambda value: 128 + value // 2)
        (place / f"{index:02d}.jpg").write_bytes(jpeg(Image.merge("RGB", bands)))
    return folder


@pytest.fixture(scope="module")
def fast_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    out = tmp_path_factory.mktemp("fast") / "run"
    return zoo.finetune("timm/test_resnet", data=photographs, recipe="head_only", decode="fast", out=out, **TINY)


def test_a_run_records_it_and_everything_decodes_as_it_did(photographs: Path, fast_run: zoo.Result) -> None:
    config = json.loads((fast_run.path / "model" / "config.json").read_text("utf-8"))
    plan = json.loads((fast_run.path / "plan.json").read_text("utf-8"))
    assert plan["preprocessing"]["decode"] == config["preprocessing"]["decode"] == "fast"
    classifier = zoo.load(fast_run.path)
    files = sorted(photographs.glob("*/*.jpg"))
    of_paths = list(classifier.predict([str(file) for file in files]))
    of_bytes = list(classifier.predict([file.read_bytes() for file in files]))
    evaluated = zoo.evaluate(fast_run.path, data=photographs).predictions
    same = [(each.label, each.probability) for each in of_paths]
    assert same == [(each.label, each.probability) for each in of_bytes]
    of_file = {str(photographs / each.file): (each.predicted, each.probability) for each in evaluated}
    for file, (label, probability) in zip(files, same, strict=True):
        assert of_file[str(file)] == (label, pytest.approx(probability, abs=1e-6))
    image = files[0].read_bytes()
    prepared = prepare(Upload("a.jpg", image), classifier.model.preprocessing, RequestLimits())
    assert torch.equal(prepared, classifier.model.preprocessing(image))
    exact = replace(classifier.model.preprocessing, decode="exact")
    assert not torch.equal(prepared, exact(image)), "or this test would compare nothing"


def test_vectors_in_parts_are_those_of_embed(photographs: Path, fast_run: zoo.Result, tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow.parquet")
    whole = zoo.embed(fast_run.path, photographs, verbose=False)
    made = zoo.embed_files(fast_run.path, photographs, out=tmp_path / "parts", verbose=False)
    assert made.images == len(whole)
    rows = [
        row for part in sorted((tmp_path / "parts").glob("*.parquet")) for row in table.read_table(part).to_pylist()
    ]
    of_digest = {row["sha256"]: row["vector"] for row in rows}
    for digest, vector in zip(whole.sha256, whole.vectors, strict=True):
        assert of_digest[digest] == vector.tolist()


def test_the_proof_says_that_upstream_does_not(fast_run: zoo.Result) -> None:
    proof = json.loads((fast_run.path / "proof.json").read_text("utf-8"))
    (check,) = [each for each in proof["checks"] if each["name"] == "preprocessing"]
    assert check["verdict"] == "passed" and "--decode fast" in check["summary"]


def test_a_stopped_run_goes_on_decoding_so(photographs: Path, fast_run: zoo.Result, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: object) -> None:
        if type(event).__name__ == "StageStarted":
            raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        zoo.finetune(
            "timm/test_resnet", data=photographs, recipe="head_only", decode="fast", out=out, on_event=stop, **TINY
        )
    resumed = zoo.resume(out, report=False)
    tensors = [each.path / "model" / "model.safetensors" for each in (resumed, fast_run)]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


@pytest.mark.long
def test_an_export_says_that_others_decode_files_whole(fast_run: zoo.Result, tmp_path: Path) -> None:
    notes: list[str] = []

    def note(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    zoo.export(fast_run.path, to="pt2", out=tmp_path / "model.pt2", on_event=note)
    assert any("users of the export decode them whole" in text for text in notes)


def test_an_estimate_says_what_it_would_save(photographs: Path, shapes: Path) -> None:
    def saved(data: Path, decode: Any = "exact") -> float | None:
        arguments = {**TINY, "recipe": "head_only", "tune": False, "decode": decode}
        del arguments["report"]
        found = zoo.plan("timm/test_resnet", data=data, estimate=True, **arguments).estimate
        assert found is not None
        return found.decode_fast_saves

    large = saved(photographs)
    assert large is not None and large > 0
    assert saved(photographs, "fast") is None and saved(shapes) is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda data: zoo.plan("timm/test_resnet", data=data, decode="fsat"),
        lambda data: zoo.finetune("timm/test_resnet", data=data, decode="fsat"),
    ],
)
def test_another_word_is_answered_with_the_nearest(ask: Callable[[Path], object], shapes: Path) -> None:
    with pytest.raises(OptionError, match=r"decode 'fsat' is not exact or fast\. Did you mean 'fast'\?"):
        ask(shapes)
