"""Tables, tar shards, zip archives and saved data sets: the same images give the same results from each."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.packing import SOURCES, pack, write_csv, write_tar, write_zip
from zoo.data.dataset import Dataset
from zoo.data.folder import read_folder
from zoo.data.sources import find_data, read_dataset, read_evaluation_split
from zoo.errors import Refused
from zoo.events import Event
from zoo.registry.registry import default_registry

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 2}
USUAL = ("table", "webdataset", "zip", "hf")
"""The others are read by the same code as one of these, and trained on by `pytest -m long`."""
Packed = Callable[[str], Path]


@pytest.fixture(scope="module")
def packed(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Return a function that packs the images of `few` as another kind of source."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = pack(few, kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.fixture(scope="module")
def of_folder(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on the class folders themselves."""
    return zoo.finetune(**TINY, data=few, out=tmp_path_factory.mktemp("folder") / "run").path


def read(path: Path | str, *, seed: int = 0) -> Dataset:
    return read_dataset(find_data(Path(path), default_registry(), lambda event: None), seed=seed)


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def used(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Name -> (split, class)."""
    return {
        file.relative: (split, dataset.classes[file.label]) for split, files in dataset.splits.items() for file in files
    }


def reasons(dataset: Dataset) -> dict[str, str]:
    return {each.relative: each.reason for each in dataset.skipped}


def pictures(few: Path) -> dict[str, bytes]:
    return {each.relative_to(few).as_posix(): each.read_bytes() for each in sorted(few.rglob("*.jpg"))}


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [kind if kind in USUAL else pytest.param(kind, marks=pytest.mark.long) for kind in SOURCES]
)
def test_the_same_pictures_give_the_same_classifier_whatever_holds_them(
    kind: str, packed: Packed, of_folder: Path, cache: Path, tmp_path: Path
) -> None:
    data = packed(kind)
    kept = {each.name for each in (cache / "features").iterdir()}
    result = zoo.finetune(**TINY, data=data, out=tmp_path / "run")
    assert result.proof == "passed" and weights(result.path) == weights(of_folder)
    plan = json.loads((result.path / "plan.json").read_text("utf-8"))["data"]
    assert plan["path"] == str(data) and plan["reader"].startswith("sources/")
    assert plan["images"] == {"train": [4, 4], "val": [2, 2]} and plan["skipped"] == []
    (check,) = [each for each in json.loads((result.path / "proof.json").read_text())["checks"]
                if each["name"] == "class_names"]  # fmt: skip
    assert check["summary"] == "2 names in natural order; 12 files labelled as their source says"
    # What the run on the folder computed is used again: features are known by the pictures' own digests.
    assert {each.name for each in (cache / "features").iterdir()} == kept
    page = (result.path / "report.html").read_text("utf-8")
    assert f"{plan['reader']}:{data}" in page.replace("&#39;", "'").replace("'", "")
    assert "no longer in" not in page and page.count("data:image/") >= 8
    assert zoo.verify(result.path).passed
    evaluation = zoo.evaluate(result.path, data=data)
    assert (evaluation.split, evaluation.images) == ("val", 4)
    assert evaluation.scores.to_dict() == result.metrics["val"]
    checked = zoo.check_data(data)
    assert checked.files == 12 and checked.passed and {each.code for each in checked.findings} == {"few_images"}


@pytest.mark.parametrize("kind", ["webdataset", pytest.param("hf", marks=pytest.mark.long)])
def test_a_stopped_run_goes_on_to_the_same_bytes(kind: str, packed: Packed, of_folder: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, zoo.CheckpointSaved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=packed(kind), out=tmp_path / "run", on_event=stop)
    assert weights(zoo.resume(tmp_path / "run").path) == weights(of_folder)


def test_a_run_does_not_go_on_with_other_pictures_and_verify_tells_changed_from_gone(few: Path, tmp_path: Path) -> None:
    content = pictures(few)
    path = write_tar(tmp_path / "photos.tar", content)

    def stop(event: Event) -> None:
        if isinstance(event, zoo.CheckpointSaved):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=path, out=tmp_path / "stopped", on_event=stop)
    run = zoo.finetune(**TINY, data=path, out=tmp_path / "run").path
    names = sorted(content)
    write_tar(path, {**content, names[0]: content[names[1]]})
    with pytest.raises(Refused, match=r"data\.digest"):
        zoo.resume(tmp_path / "stopped")
    assert not zoo.verify(run).passed
    path.write_bytes(path.read_bytes()[:3000])
    broken, *_ = zoo.verify(run).checks
    assert broken.verdict == "failed" and "truncated" in broken.summary
    path.unlink()
    gone, *_ = zoo.verify(run).checks
    assert gone.verdict == "warning"
    zoo.report(run)
    assert f"the images are no longer in {path}" in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize("kind", ["tar", "zip", "table"])
def test_without_splits_val_is_drawn_as_from_a_folder(kind: str, few: Path, tmp_path: Path) -> None:
    content = {name.removeprefix("train/"): each for name, each in pictures(few).items() if name.startswith("train/")}
    expected = read_folder(few / "train", seed=3)
    if kind == "table":
        lines = [(name, name[0]) for name in reversed(content)]  # their order is nobody's
        path = write_csv(few / "train" / "unsplit.csv", lines, header="path,label")
        (tmp_path / "unsplit.csv").write_bytes(path.read_bytes())
    else:
        path = (write_tar if kind == "tar" else write_zip)(tmp_path / f"photos.{kind}", content)
    try:
        dataset = read(path, seed=3)
    finally:
        (few / "train" / "unsplit.csv").unlink(missing_ok=True)
    assert used(dataset) == used(expected)
    assert dataset.counts() == {"train": [3, 3], "val": [1, 1]}
    assert dataset.notes[-1] == "val: 20% of every class, drawn from train with seed 3"


def test_classes_are_in_natural_order_and_splits_are_mapped_by_name(tmp_path: Path) -> None:
    for name in ("1", "2", "3", "4", "5"):
        (tmp_path / f"{name}.jpg").touch()
    lines = [
        ("1.jpg", "c10", "Train"), ("2.jpg", "c2", "train"), ("3.jpg", "c10", "validation"),
        ("4.jpg", "c2", "Validation"), ("5.jpg", "c10", "test"),
    ]  # fmt: skip
    dataset = read(write_csv(tmp_path / "table.csv", lines))
    assert dataset.classes == ("c2", "c10")
    assert used(dataset)["5.jpg"] == ("test", "c10") and used(dataset)["4.jpg"] == ("val", "c2")
    split, judged = read_evaluation_split(
        find_data(tmp_path / "table.csv", default_registry(), lambda event: None), ("c10", "x", "c2")
    )
    assert split == "test" and [file.label for file in judged.splits["test"]] == [0]


# Tables


@pytest.mark.parametrize(("sign", "said"), [(",", ()), (";", ("columns separated by semicolons",)),
                                            ("\t", ("columns separated by tabs",))])  # fmt: skip
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_separators_and_a_byte_order_mark_are_understood(
    sign: str, said: tuple[str, ...], mark: bytes, tmp_path: Path
) -> None:
    names = ["a,1.jpg", "a;2.jpg", "b 1.jpg", "b\t2.jpg"]
    for name in names:
        (tmp_path / name).touch()
    path = write_csv(tmp_path / "t.csv", [(name, name[0]) for name in names], header="path,label", sign=sign)
    path.write_bytes(mark + path.read_bytes())
    dataset = read(path)
    assert {name: label for name, (_, label) in used(dataset).items()} == {name: name[0] for name in names}
    assert dataset.notes[:-1] == said


def test_paths_are_below_the_tables_folder_or_absolute_and_the_rest_is_accounted_for(tmp_path: Path) -> None:
    table = tmp_path / "tables"
    table.mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("tables/a1.jpg", "elsewhere/a2.jpg", "elsewhere/b1", "tables/b2.PNG", "tables/moving.gif"):
        (tmp_path / name).touch()
    lines = [
        ("./a1.jpg", "a", "ann"), ("../elsewhere/a2.jpg", "a", "ann"), (str(tmp_path / "elsewhere/b1"), "b", "bob"),
        ("b2.PNG", "b", "bob"), ("moving.gif", "b", "bob"), ("", "", ""),
    ]  # fmt: skip
    dataset = read(write_csv(table / "t.csv", lines, header="path, label ,photographer"))
    assert set(used(dataset)) == {"a1.jpg", "../elsewhere/a2.jpg", f"{tmp_path}/elsewhere/b1", "b2.PNG"}
    assert reasons(dataset) == {"moving.gif": "not an image"}
    assert dataset.notes[0] == "columns not used: photographer"


def test_labels_of_a_parquet_table_may_be_numbers_and_categories(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    names = [f"{number}.jpg" for number in range(6)]
    for name in names:
        (tmp_path / name).touch()
    numbers = [10, 2, 10, 2, 10, 2]
    parquet.write_table(pyarrow.table({"path": names, "label": numbers}), tmp_path / "numbers.parquet")
    assert read(tmp_path / "numbers.parquet").classes == ("2", "10")
    texts = pyarrow.array(["x", "y"] * 3).dictionary_encode()
    parquet.write_table(pyarrow.table({"path": names, "label": texts}), tmp_path / "texts.parquet")
    assert read(tmp_path / "texts.parquet").classes == ("x", "y")


# Tar shards


def test_samples_are_labelled_by_number_name_or_json_and_every_member_is_accounted_for(tmp_path: Path) -> None:
    members = {
        "x/0.jpg": b"0", "x/0.cls": b"1\n", "x/1.png": b"1", "x/1.json": b'{"class": "cat", "size": 3}',
        "x/2.jpg": b"2", "x/2.json": b'{"label": 0}', "x/3.jpg": b"3", "x/3.cls": b"dog", "x/3.json": b"{}",
        "x/4.jpg": b"4", "x/5.seg.png": b"5", "x/5.cls": b"0", "x/6.jpg": b"6", "x/6.json": b"[",
        "x/7.jpg": b"7", "x/7.txt": b"a cat", "._x": b"", "x/.8.jpg": b"8", "classes.txt": b"cat\ndog\n",
    }  # fmt: skip
    dataset = read(write_tar(tmp_path / "samples.tar", members))
    assert {name: label for name, (_, label) in used(dataset).items()} == {
        "x/0.jpg": "dog", "x/1.png": "cat", "x/2.jpg": "cat", "x/3.jpg": "dog"
    }  # fmt: skip
    assert reasons(dataset) == {
        "._x": "hidden", "x/.8.jpg": "hidden", "x/4.jpg": "no label", "x/6.jpg": "no label", "x/7.jpg": "no label",
        "x/5.seg.png": "not an image", "x/6.json": "not an image", "x/7.txt": "not an image",
    }  # fmt: skip
    content = {file.relative: file.content() for files in dataset.splits.values() for file in files}
    assert content == {name: members[name] for name in used(dataset)}


def test_without_a_list_of_classes_numbers_are_names(tmp_path: Path) -> None:
    members = {f"{key}.{kind}": each for key in range(24) for kind, each in (("jpg", b""), ("cls", b"%d" % (key % 12)))}
    assert read(write_tar(tmp_path / "s.tar", members)).classes == tuple(map(str, range(12)))


def digits(labels: Iterable[object]) -> dict[str, bytes]:
    """Two samples of each label; the images are called by it."""
    names = {f"{label}{copy}": str(label).encode() for label in labels for copy in ("", "-copy")}
    return {f"{name}.{kind}": label for name, label in names.items() for kind in ("jpg", "cls")}


def label_of(path: Path) -> dict[str, str]:
    """The class of each sample, by the label that was written."""
    return {Path(name).stem.removesuffix("-copy"): label for name, (_, label) in used(read(path)).items()}


def test_labels_are_read_in_one_way_where_the_names_of_classes_are_numbers(tmp_path: Path) -> None:
    names = sorted(map(str, range(1, 13)))  # as text: 1, 10, 11, 12, 2
    listed = {"classes.txt": "\n".join(names).encode()}
    lines = write_tar(tmp_path / "lines.tar", {**digits(range(12)), **listed})
    assert label_of(lines) == {str(line): name for line, name in enumerate(names)}
    by_name = write_tar(tmp_path / "names.tar", {**digits(range(1, 13)), **listed})
    assert label_of(by_name) == {name: name for name in names}
    # That of 0 in the last shard decides for all.
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "classes.txt").write_bytes(listed["classes.txt"])
    for shard, labels in (("a", range(1, 12)), ("b", range(1))):
        write_tar(tmp_path / "several" / f"{shard}.tar", digits(labels))
    assert label_of(tmp_path / "several") == label_of(lines)


@pytest.mark.parametrize("asked", ["shards", "shards/train", "shards/train/a.tar", "shards/train/{a,b}.tar"])
def test_the_list_of_a_folder_of_splits_is_that_of_each_shard_in_it(asked: str, tmp_path: Path) -> None:
    for shard in ("a", "b"):
        write_tar(tmp_path / "shards" / "train" / f"{shard}.tar", digits((0, 1)))
    (tmp_path / "shards" / "classes.txt").write_text("cat\ndog\n")
    assert read(tmp_path / asked).classes == ("cat", "dog")
    if asked == "shards":
        return
    # A list beside the shards counts first, and one above a folder that is no split is about other things.
    (tmp_path / "shards" / "train" / "classes.txt").write_text("ant\nbee\n")
    assert read(tmp_path / asked).classes == ("ant", "bee")
    (tmp_path / "shards" / "train" / "classes.txt").unlink()
    (tmp_path / "shards" / "train").rename(tmp_path / "shards" / "mine")
    assert read(tmp_path / asked.replace("train", "mine")).classes == ("0", "1")


def test_the_list_of_one_shard_is_that_of_all(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {**digits((0, 1)), "classes.txt": b"cat\ndog\n"})
    write_tar(tmp_path / "b.tar", {f"x{name}": content for name, content in digits((0, 1)).items()})
    assert read(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["train-000.tar", "train-001.tar", "val-000.tar"], ""),
        (["train/000.tar", "train/001.tar", "valid/000.tar"], ""),
        (["train-000.tar", "train-001.tar", "val-000.tar"], "*.tar"),
        (["train-008.tar", "train-010.tar", "val-009.tar"], "{train-008,val-009,train-010}.tar"),
        (["deep/train/7.tar", "deep/train/10.tar", "deep/val/8.tar"], "deep/{train/7,train/10,val/8}.tar"),
    ],
)
def test_shards_tell_their_split_by_folder_or_by_name(names: list[str], asked: str, tmp_path: Path) -> None:
    for index, name in enumerate(names):
        samples = {f"{label}.{kind}": each for label in "ab" for kind, each in (("jpg", b""), ("cls", label.encode()))}
        write_tar(tmp_path / name, {f"{index}/{member}": each for member, each in samples.items()})
    dataset = read(tmp_path / asked if asked else tmp_path)
    assert dataset.counts() == {"train": [2, 2], "val": [1, 1]}
    assert dataset.notes == ("3 tar shards of samples",)


def test_a_tar_may_hold_class_folders_and_one_folder_around_them(tmp_path: Path) -> None:
    members = {
        f"./photos/{name}": b"" for name in ("train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/deep/4.jpg")
    }
    others = {"./photos/README.md": b"", "./photos/train/loose.jpg": b"", "./photos/train/a/.x.jpg": b"",
              "./photos/val/a/notes.txt": b"", "./photos/more/a/5.jpg": b""}  # fmt: skip
    dataset = read(write_tar(tmp_path / "photos.tar", {**members, **others}))
    assert {name: place for name, place in used(dataset).items()} == {
        "photos/train/a/1.jpg": ("train", "a"), "photos/train/b/2.jpg": ("train", "b"),
        "photos/val/a/3.jpg": ("val", "a"), "photos/val/b/deep/4.jpg": ("val", "b"),
    }  # fmt: skip
    assert reasons(dataset) == {
        "photos/README.md": "not in a class folder", "photos/train/loose.jpg": "not in a class folder",
        "photos/more/a/5.jpg": "not in a class folder", "photos/train/a/.x.jpg": "hidden",
        "photos/val/a/notes.txt": "not an image",
    }  # fmt: skip


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_format(format: int, few: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "photos.tar", "w", format=format) as tar:
        for label in ("käfer", "b" * 90):
            for file in sorted((few / "train" / "a").iterdir()):
                tar.add(file, f"{label}/{'long-' * 12}{file.name}")
    dataset = read(tmp_path / "photos.tar")
    assert dataset.classes == ("b" * 90, "käfer")
    assert all(file.content()[:2] == b"\xff\xd8" for files in dataset.splits.values() for file in files)


# Zip archives


def test_a_zip_that_macos_made_is_read_and_its_own_files_are_hidden(tmp_path: Path) -> None:
    members = {f"photos/{label}/{number}.jpg": b"x" for label in "ab" for number in range(3)}
    own = {"__MACOSX/photos/a/._0.jpg": b"", "photos/.DS_Store": b"", "photos/a/.DS_Store": b""}
    dataset = read(write_zip(tmp_path / "photos.zip", {**members, **own}))
    assert set(used(dataset)) == set(members) and set(reasons(dataset).values()) == {"hidden"}
    assert len(reasons(dataset)) == 3


def test_a_zip_of_windows_names_its_folders_with_backslashes(tmp_path: Path) -> None:
    members = {f"{label}\\{number}.jpg": b"%d" % number for label in "ab" for number in range(2)}
    dataset = read(write_zip(tmp_path / "photos.zip", members))
    assert set(used(dataset)) == {"a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"}
    assert {file.content() for file in dataset.splits["train"]} <= {b"0", b"1"}


# Saved data sets


def saved(path: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    from datasets import Dataset, Features, Value

    kinds = {name: features.get(name, Value("string")) for name in columns}
    Dataset.from_dict(columns, features=Features(kinds)).save_to_disk(str(path))
    return path


def test_a_saved_data_set_without_splits_is_split_and_its_classes_are_ordered_naturally(
    few: Path, tmp_path: Path
) -> None:
    from datasets import ClassLabel, Image, Value

    files = sorted(map(str, (few / "train").rglob("*.jpg")))
    columns = {"img": files, "fine": [0, 1, 0, 1, 0, 1, -1, None], "note": ["x"] * 8}
    path = saved(tmp_path / "set", columns, img=Image(), fine=ClassLabel(names=["c10", "c2"]), note=Value("string"))
    dataset = read(path)
    assert dataset.classes == ("c2", "c10") and dataset.counts() == {"train": [2, 2], "val": [1, 1]}
    assert reasons(dataset) == {"0000006.jpg": "no label", "0000007.jpg": "no label"}
    assert used(dataset)["0000000.jpg"][1] == "c10"
    texts = saved(tmp_path / "texts", {"image": files, "kind": ["a", "b"] * 4}, image=Image())
    assert read(texts).classes == ("a", "b")


# Reading


@pytest.mark.parametrize("kind", SOURCES)
def test_contents_are_read_from_many_threads_at_once(kind: str, packed: Packed, few: Path) -> None:
    dataset = read(packed(kind))
    files = [file for files in dataset.splits.values() for file in files] * 20
    barrier = threading.Barrier(8)

    def content(index: int) -> str:
        if index < 8:
            barrier.wait(timeout=10)
        return hashlib.sha256(files[index].content()).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(content, range(len(files))))
    assert digests[:12] * 20 == digests
    assert set(digests) == {hashlib.sha256(each).hexdigest() for each in pictures(few).values()}


@pytest.mark.parametrize("kind", ["tar", "zip", "hf"])
def test_memory_stays_flat_however_much_an_archive_holds(kind: str, tmp_path: Path) -> None:
    count, size = 64, 1 << 20
    members = {f"{label}/{number:03d}.jpg": bytes([number]) * size for label in "ab" for number in range(count // 2)}
    if kind == "hf":
        from datasets import Image

        blobs = [{"bytes": each, "path": None} for each in members.values()]
        labels = [name[0] for name in members]
        path = saved(tmp_path / "set", {"image": blobs, "label": labels}, image=Image())
        del blobs
    else:
        path = (write_tar if kind == "tar" else write_zip)(tmp_path / f"photos.{kind}", members)
    del members
    read(path)  # what is imported once is no memory of the data
    tracemalloc.start()
    try:
        dataset = read(path)
        lengths = [len(file.content()) for files in dataset.splits.values() for file in files]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lengths == [size] * count
    assert peak < 8 * size
