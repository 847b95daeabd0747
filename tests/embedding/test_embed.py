"""`zoo embed`: the vectors are those of a run's cache, files are read back by their own clients, odd data are told."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from safetensors import safe_open
from tests.conftest import Zoo
from torch import Tensor
from zoo.data.dataset import ImageFile
from zoo.data.sample import sample_image
from zoo.data.store import ImageStore
from zoo.embedding.found_images import Described, ImagesFound
from zoo.embedding.vector_file import new_vector_file
from zoo.errors import ArtefactError, DataError, FeaturesError, OptionError, Refused, UnknownName
from zoo.model.model import ZooModel
from zoo.specs.data import not_an_image

TINY: dict[str, Any] = {"weights": "random", "precision": "float32", "input_size": (64, 64)}
BACKBONE = "timm/test_resnet"


@pytest.fixture(scope="module")
def made(few: Path) -> zoo.Embedding:
    return zoo.embed(BACKBONE, few, **TINY)


@pytest.fixture(scope="module")
def run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained its backbone, with a head that takes a map: its features are not the pooled ones."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options: dict[str, Any] = {"recipe": "full", "head": "gem", "epochs": 1, "report": False, "out": out}
    zoo.finetune(BACKBONE, data=few, **TINY, **options)
    return out


def test_every_image_has_a_row_with_its_digest_label_and_split(made: zoo.Embedding, few: Path) -> None:
    assert len(made) == 2 * (4 + 2) and made.vectors.shape == (12, made.metadata["dimensions"])
    for file, digest, label, split in made.rows():
        assert (split, label) == tuple(file.split("/")[:2])
        assert digest == hashlib.sha256((few / file).read_bytes()).hexdigest()
    assert made.vectors.dtype == np.float32 and made.unreadable == {}
    assert made.metadata["backbone"] == f"{BACKBONE}.r160_in1k"
    assert (
        made.metadata["weights"]["label"] == "random" and made.metadata["versions"]["zoo-registry"] == zoo.__version__
    )


def test_the_vectors_are_the_models_own_features_and_do_not_depend_on_workers_or_cache(
    made: zoo.Embedding, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.create_model(BACKBONE, classes=2, weights="random", input_size=(64, 64)).eval()
    assert model.preprocessing.to_dict() == made.metadata["preprocessing"]
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    fresh = zoo.embed(BACKBONE, few, **TINY, workers=1)
    assert np.array_equal(made.vectors, fresh.vectors)
    other_seed = zoo.embed(BACKBONE, few, **TINY, seed=1)
    assert not np.allclose(made.vectors, other_seed.vectors)


@pytest.mark.long
def test_a_run_finds_the_vectors_in_the_cache_and_the_other_way_round(few: Path, tmp_path: Path) -> None:
    told: list[zoo.Event] = []
    zoo.embed(BACKBONE, few, **TINY, seed=5)
    result = zoo.finetune(
        BACKBONE,
        data=few,
        **TINY,
        seed=5,
        recipe="head_only",
        out=tmp_path / "run",
        report=False,
        on_event=told.append,
    )
    tasks = {event.task for event in told if hasattr(event, "task")}
    assert "read of train" in tasks and not any(task.startswith("features") for task in tasks)
    # The classifier's backbone is the pretrained one: its vectors are those of the name.
    of_run = zoo.embed(result.path, few)
    assert np.array_equal(of_run.vectors, zoo.embed(BACKBONE, few, **TINY, seed=5).vectors)


def test_of_a_run_it_is_the_trained_backbone(run: Path, made: zoo.Embedding, few: Path) -> None:
    of_run = zoo.embed(run, few)
    assert of_run.files == made.files and of_run.vectors.shape == made.vectors.shape
    assert not np.allclose(of_run.vectors, made.vectors)
    assert of_run.metadata["weights"]["trained"] is True
    assert (
        of_run.metadata["weights"]["sha256"]
        == hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest()
    )
    classifier = zoo.load(run)
    image = ImageStore(classifier.model.preprocessing, workers=1)
    (batch,) = image.batches(of_run.images[:4], 4)
    image.close()
    with torch.no_grad():
        pooled = classifier.model.map(batch).mean((2, 3))  # type: ignore[union-attr]
    assert np.allclose(of_run.vectors[:4], pooled.numpy(), atol=1e-4)
    with pytest.raises(OptionError, match=r"weights beside .* brings its own"):
        zoo.embed(run, few, weights="random")


def test_a_group_is_the_mean_of_its_output(few: Path, run: Path) -> None:
    by_group = {name: zoo.embed(BACKBONE, few, **TINY, group=name) for name in ("stem", "layer4")}
    assert by_group["stem"].metadata["group"] == "stem"
    pooled = zoo.embed(BACKBONE, few, **TINY)
    assert np.allclose(by_group["layer4"].vectors, pooled.vectors, atol=1e-5), "the pooled features are its mean"
    assert by_group["stem"].vectors.shape[1] < pooled.vectors.shape[1]
    assert zoo.embed(run, few, group="stem").vectors.shape == by_group["stem"].vectors.shape
    with pytest.raises(UnknownName, match=r"no group 'layer9'\. Did you mean 'layer"):
        zoo.embed(BACKBONE, few, **TINY, group="layer9")


def test_parquet_is_read_by_pyarrow_and_pandas(made: zoo.Embedding, few: Path, tmp_path: Path) -> None:
    pq, pandas = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pandas")
    for dtype in ("float32", "float16"):
        path = tmp_path / f"{dtype}.parquet"
        written = zoo.embed(BACKBONE, few, **TINY, out=path, dtype=dtype)
        table = pq.read_table(path)
        assert table.column_names == ["file", "sha256", "label", "split", "vector"]
        about = json.loads(table.schema.metadata[b"zoo"])
        assert about["dtype"] == dtype and about["images"] == len(made) and about["backbone"].startswith(BACKBONE)
        frame = pandas.read_parquet(path)
        vectors = np.stack(frame["vector"].to_list())
        assert vectors.dtype == dtype and np.array_equal(vectors, written.vectors)
        assert np.allclose(vectors, made.vectors, rtol=1e-3, atol=1e-4)
        assert list(zip(*(frame[name] for name in table.column_names[:4]), strict=True)) == list(made.rows())


def test_safetensors_and_npy_hold_the_same_rows(made: zoo.Embedding, few: Path, tmp_path: Path) -> None:
    zoo.embed(BACKBONE, few, **TINY, out=tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", framework="np") as file:
        about = json.loads(file.metadata()["zoo"])
        assert np.array_equal(file.get_tensor("vectors"), made.vectors)
    assert list(zip(*about["rows"].values(), strict=True)) == list(made.rows())
    zoo.embed(BACKBONE, few, **TINY, out=tmp_path / "v.npy", normalise=True)
    vectors = np.load(tmp_path / "v.npy")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    lengths = np.linalg.norm(made.vectors, axis=1, keepdims=True)
    assert np.allclose(vectors * lengths, made.vectors, rtol=1e-5, atol=1e-6)
    with (tmp_path / "v.csv").open(encoding="utf-8", newline="") as text:
        assert [tuple(row.values()) for row in csv.DictReader(text)] == list(made.rows())
    assert json.loads((tmp_path / "v.json").read_text("utf-8"))["normalised"] is True
    assert sorted(each.name for each in tmp_path.iterdir()) == ["v.csv", "v.json", "v.npy", "v.safetensors"]


def found(images: int, *, unused: int = 0) -> ImagesFound:
    """So many images, and files that are none."""
    image = Described(ImageFile(Path("a.jpg"), "a.jpg", 0), "a", "train")
    return ImagesFound("data", ((image,) * images,), (not_an_image(f"{'b' * 1000}.txt"),) * unused)


@pytest.mark.parametrize(
    ("name", "images", "unused", "told"),
    [
        ("v.safetensors", 1_100_000, 0, r"names of 1,100,000 images\.\nNext: --out .* ends in \.npy"),
        ("v.safetensors", 5, 100_000, r"names of 5 images and of 100,000 files that are not used\.\nNext: "),
        ("v.parquet", 5, 100_000, r"in its metadata.* with 100,000 files not used\.\nNext: --out .*\.npy"),
    ],
)
def test_more_names_than_a_file_holds_are_told_before_the_work(
    name: str, images: int, unused: int, told: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=told), new_vector_file(tmp_path / name, found(images, unused=unused)):
        pytest.fail("it is told before the work")


def test_names_that_turn_out_too_long_are_told_when_they_are_written(made: zoo.Embedding, tmp_path: Path) -> None:
    long = ("x" * 96_000_000, *made.files[1:])
    few_images = found(len(made))
    out = tmp_path / "v.safetensors"
    with pytest.raises(Refused, match=f"of {len(made)} images"), new_vector_file(out, few_images) as write:
        write(replace(made, files=long))
    # Readers of Parquet would not open it.
    out = tmp_path / "v.parquet"
    with pytest.raises(Refused, match="in its metadata"), new_vector_file(out, few_images) as write:
        write(replace(made, skipped=(not_an_image("x" * 70_000_000),)))
    assert list(tmp_path.iterdir()) == []


def test_a_plain_folder_has_no_labels_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "album"
    (folder / "holiday").mkdir(parents=True)
    for number in range(3):
        sample_image(number, 3, "train", number).save(folder / f"{number}.png")
    alone = zoo.embed(BACKBONE, folder, **TINY)
    assert alone.files == ("0.png", "1.png", "2.png") and set(alone.labels) == set(alone.splits) == {""}
    one = zoo.embed(BACKBONE, folder / "1.png", **TINY)
    assert one.files == ("1.png",) and np.allclose(one.vectors[0], alone.vectors[1], atol=1e-5)
    shutil.copy(folder / "0.png", folder / "holiday" / "beach.png")
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:60])
    told: list[zoo.Event] = []
    mixed = zoo.embed(BACKBONE, folder, **TINY, out=tmp_path / "v.npy", on_event=told.append)
    assert dict(zip(mixed.files, mixed.labels, strict=True)) == {
        "holiday/beach.png": "holiday",
        **dict.fromkeys(("0.png", "1.png", "2.png"), ""),
    }
    assert list(mixed.unreadable) == ["torn.png"] and "torn.png" in (tmp_path / "v.json").read_text("utf-8")
    notes = [event.text for event in told if isinstance(event, zoo.Note)]
    assert any("Left out, unreadable: torn.png" in note for note in notes)
    assert any("beside the class folders: without a label" in note for note in notes)
    progress = [(event.done, event.total) for event in told if getattr(event, "task", "") == "embed"]
    assert progress == sorted(set(progress)) and progress[-1] == (5, 5)
    shutil.copy(folder / "0.png", folder / "0.gif")
    (folder / "holiday" / "map.txt").write_text("no picture")
    told.clear()
    others = zoo.embed(BACKBONE, folder, **TINY, out=tmp_path / "o.npy", on_event=told.append)
    reasons = [["0.gif", "not an image", ".gif extension"], ["holiday/map.txt", "not an image", ".txt extension"]]
    assert others.files == mixed.files and others.to_dict()["skipped"] == reasons
    assert json.loads((tmp_path / "o.json").read_text("utf-8"))["skipped"] == reasons
    assert any(
        "2 files not used: 0.gif: not an image (.gif extension); holiday/map.txt: " in str(each) for each in told
    )
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"No image in .*bad can be read:\n  a\.png"):
        zoo.embed(BACKBONE, tmp_path / "bad", **TINY, out=tmp_path / "w.npy")
    assert not list(tmp_path.glob("*w.*"))


def test_an_unreadable_image_is_named_once_though_memory_runs_out_and_all_is_computed_again(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(few, tmp_path / "data"))
    (data / "train" / "a" / "torn.jpg").write_bytes(b"no image")
    whole, sizes = ZooModel.features, []

    def small_memory(self: ZooModel, images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 4:
            torch.empty(1 << 50)  # a petabyte: the allocator's own failure
        return whole(self, images)

    monkeypatch.setattr(ZooModel, "features", small_memory)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    told: list[zoo.Event] = []
    made = zoo.embed(BACKBONE, data, **TINY, on_event=told.append)
    assert max(sizes) > 4 and sizes[-1] <= 4 and len(made) == 12 and list(made.unreadable) == ["train/a/torn.jpg"]
    assert sum("torn.jpg" in event.text for event in told if isinstance(event, zoo.Note)) == 1


def test_what_cannot_be_is_refused_before_anything_runs(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, **asked: Any) -> None:
        with pytest.raises(Refused, match=match):
            zoo.embed(BACKBONE, few, **{**TINY, **asked}, on_event=lambda event: pytest.fail(str(event)))

    (tmp_path / "v.csv").write_text("mine")
    refused(r"v\.csv exists, and zoo overwrites nothing", out=tmp_path / "v.npy")
    refused(r"names no format .* Did you mean '\.parquet'\?\nNext: out='.*v\.parquet'", out=tmp_path / "v.parqet")
    refused(r"Did you mean '\.npy'\?\nNext: out='.*v\.npy'", out=tmp_path / "v.npz")
    refused(r"dtype 'fp16' .* Did you mean 'float16'\?", dtype="fp16")
    refused(r"dtype 'float64' .* Did you mean 'float32'\?", dtype="float64")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(r"needs the package pyarrow.*\nNext: pip install 'zoo-registry\[hf\]'", out=tmp_path / "v.parquet")
    assert (tmp_path / "v.csv").read_text() == "mine" and [each.name for each in tmp_path.iterdir()] == ["v.csv"]


def test_a_backbone_that_does_not_exist_is_told_before_the_images_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'timm/test_resnet'"):
        zoo.embed("timm/test_resnett", tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match="is not an artefact"):
        zoo.embed(tmp_path, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"There are no images below .*; they end in \.jpg"):
        zoo.embed(BACKBONE, tmp_path, **TINY)


def test_a_misspelt_run_is_answered_with_the_one_beside_it(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = zoo.finetune(BACKBONE, data=few, recipe="head_only", report=False, out=tmp_path / "runs" / "flowers", **TINY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError, match=r"There is no 'runs/flwers'\. Did you mean 'runs/flowers'\?"):
        zoo.embed("runs/flwers", few)
    assert zoo.embed("runs/flowers", few).vectors.shape == zoo.embed(made.path, few).vectors.shape
    # A folder that has a provider's name hides none of its backbones.
    (tmp_path / "timm").mkdir()
    with pytest.raises(UnknownName, match="Did you mean 'timm/test_resnet'"):
        zoo.embed("timm/test_resnett", few)


@pytest.mark.parametrize(("scale", "said"), [(1e8, "up to 65,504"), (1e-12, "numbers below 6e-8")])
def test_numbers_beyond_float16_are_an_error_and_neither_infinity_nor_zero(
    few: Path, tmp_path: Path, scale: float, said: str
) -> None:
    from zoo.storage.tensors import save_tensors

    model = zoo.create_model(BACKBONE, classes=2, weights="random", input_size=(64, 64))
    state = dict(model.backbone.state_dict())
    state["conv1.1.weight"] = scale * state["conv1.1.weight"]
    save_tensors(tmp_path / "large.safetensors", state)
    asked: dict[str, Any] = {
        "weights": tmp_path / "large.safetensors",
        "precision": "float32",
        "dtype": "float16",
        "input_size": (64, 64),
    }
    with pytest.raises(FeaturesError, match=rf"float16 .*{said}.*\nNext: --normalise, or --dtype float32"):
        zoo.embed(BACKBONE, few, **asked, out=tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists() and not (tmp_path / "v.csv").exists()
    normalised = zoo.embed(BACKBONE, few, **asked, normalise=True).vectors
    assert np.isfinite(normalised).all() and normalised.any(axis=1).all()


def test_images_are_released_so_that_only_vectors_fill_the_memory(few: Path, made: zoo.Embedding) -> None:
    store = ImageStore(
        zoo.create_model(BACKBONE, classes=2, weights="random", input_size=(64, 64)).preprocessing, workers=1
    )
    store.examine(made.images[:4], progress=lambda done: None)
    held = store.kept_bytes
    assert held > 0
    store.release(made.images[:2])
    assert 0 < store.kept_bytes < held
    store.release(made.images[:4])
    assert store.kept_bytes == 0
    assert len(list(store.batches(made.images[:4], 4))) == 1, "a released image is decoded again"
    store.close()


def test_the_command_writes_the_file_and_says_what_it_holds(zoo_inside: Zoo, few: Path, tmp_path: Path) -> None:
    words = ("embed", BACKBONE, few, "--weights", "random", "--precision", "float32", "--input-size", "64")
    done = zoo_inside(*words, "--out", "v.npy")
    assert done.returncode == 0, done.stderr
    assert "12 images (12 of them labelled, 2 classes)" in done.stdout and "rows: v.csv" in done.stdout
    again = zoo_inside(*words, "--out", "v.npy", "--json")
    assert again.returncode == 2 and json.loads(again.stdout)["error"]["kind"] == "refused"
    listed = zoo_inside(*words, "--out", "w.safetensors", "--json")
    assert json.loads(listed.stdout)["images"] == 12 and json.loads(listed.stdout)["path"] == "w.safetensors"
