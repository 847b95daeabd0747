"""Objects that stand for data: the same images, labels and splits as from the folder, whatever holds them."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import zoo
from PIL import Image
from tests.data.memory.kinds import Mapped, with_paths, without_paths
from torch.utils.data import random_split
from torchvision import transforms
from torchvision.datasets import ImageFolder
from zoo.data.dataset import Dataset
from zoo.data.decode import decode
from zoo.data.folder import read_folder
from zoo.data.memory.objects import register, with_columns
from zoo.data.sources import find_data, read_dataset
from zoo.errors import DataError, OptionError, OtherAnswer
from zoo.events import Progress, silent
from zoo.registry.registry import default_registry

PATHS = ("list", "pandas", "polars", "hugging face", "image folder", "parts of one")
HELD = (
    *("bytes in pandas", "bytes in polars", "stored by hugging face", "pictures in pandas", "arrays", "tensors"),
    *("bytes in hugging face", "torch"),
)


def read(data: Any, **columns: str) -> Dataset:
    named = with_columns(data, **{"image": None, "label": None, "split": None, **columns})
    place, registry = register(named, default_registry(), silent)
    return read_dataset(find_data(place, registry, silent), seed=0)


def picture(number: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8))


def pairs(count: int = 8) -> list[tuple[Image.Image, Any]]:
    return [(picture(number), "ab"[number % 2]) for number in range(count)]


def table(count: int = 8, **columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"image": [picture(n) for n in range(count)], "label": list("ab" * (count // 2)), **columns})


def listed(data: Dataset) -> tuple[tuple[str, ...], list[tuple[str, str, int, Path | None]]]:
    """(classes, split, name, label and path of every image in order): a run asks nothing else of a data set."""
    return data.classes, [(split, f.relative, f.label, f.path) for split, of in data.splits.items() for f in of]


def pixels(data: Dataset) -> list[tuple[str, str, str]]:
    """(split, class, digest of the decoded picture) of every image in order."""
    return [
        (split, data.classes[file.label], hashlib.sha256(decode(file.content(), name="it").tobytes()).hexdigest())
        for split, files in data.splits.items()
        for file in files
    ]


@pytest.mark.parametrize("kind", PATHS)
def test_objects_that_name_files_are_the_data_set_that_the_folder_is(few: Path, kind: str) -> None:
    assert listed(read(with_paths(few)[kind])) == listed(read_folder(few, seed=0))


@pytest.mark.parametrize("kind", HELD)
def test_objects_that_hold_images_give_the_pixels_of_the_files_in_the_same_order(few: Path, kind: str) -> None:
    found = read(without_paths(few)[kind])

    assert pixels(found) == pixels(read_folder(few, seed=0))
    names = [file.relative for file in found.splits["train"]]
    assert names == sorted(names) and len(set(names)) == len(names)


@pytest.mark.parametrize("kinds", [["pandas", "arrays"], pytest.param([*PATHS, *HELD], marks=pytest.mark.long)])
def test_a_run_gives_the_bytes_that_the_folder_gives(few: Path, tmp_path: Path, kinds: list[str]) -> None:
    usual: dict[str, Any] = {"weights": "random", "recipe": "head_only", "report": False}
    objects = {"folder": few} | with_paths(few) | without_paths(few)

    results = [
        zoo.finetune("timm/test_resnet", data=objects[kind], out=tmp_path / kind, **usual)
        for kind in ("folder", *kinds)
    ]

    assert len({(result.path / "model" / "model.safetensors").read_bytes() for result in results}) == 1


@pytest.mark.long
def test_a_run_with_random_crops_gives_the_folders_bytes_where_files_have_their_names(
    few: Path, tmp_path: Path
) -> None:
    for name, data in (("folder", few), ("list", with_paths(few)["list"]), ("arrays", without_paths(few)["arrays"])):
        zoo.finetune("timm/test_resnet", data=data, weights="random", epochs=1, out=tmp_path / name, set=["keep=last"])

    one, same, other = (
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("folder", "list", "arrays")
    )
    assert one == same != other


@pytest.mark.data
@pytest.mark.long
def test_flowers_give_the_folders_bytes_from_every_object(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "data" / "flowers5"
    assert len(list(root.glob("train/*/*.jpg"))) == 500
    folder = listed(read_folder(root, seed=0))
    # What names the files is the folder's data set, image for image, so one run stands for all of these.
    assert [kind for kind, each in with_paths(root).items() if listed(read(each)) != folder] == []
    # Each object is decoded on its way to a run, so that fewer are enough.
    few = tmp_path / "few"
    for file in (file for each in sorted(root.glob("*/*")) for file in sorted(each.glob("*.jpg"))[::8]):
        (few / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        (few / file.relative_to(root)).symlink_to(file)
    objects = {"folder": few, "pandas": with_paths(few)["pandas"], **without_paths(few)}

    def trained(name: str) -> str:
        weights = real_data / "weights" / "squeezenet1_1.safetensors"
        result = zoo.finetune(
            "squeezenet1_1",
            weights=str(weights),
            data=objects[name],
            recipe="head_only",
            out=tmp_path / name,
            report=False,
        )
        return hashlib.sha256((result.path / "model" / "model.safetensors").read_bytes()).hexdigest()

    found = {name: trained(name) for name in objects}
    assert found == dict.fromkeys(objects, found["folder"])


def test_images_are_read_when_they_are_needed_and_not_kept() -> None:
    asked: list[int] = []

    def give(index: int) -> Any:
        asked.append(index)
        return picture(index), index % 2

    events: list[Any] = []
    _, registry = register(Mapped(give, 8), default_registry(), events.append)
    assert asked == [0]
    (source,) = (each for each in registry.data_sources() if each.spec.name == "data")
    image = next(iter(source.spec.read(Path("anything")).images))  # type: ignore[arg-type]
    once = len(asked)

    assert source.spec.read(Path("anything")) is source.spec.read(Path("anything")) and len(asked) == once
    image.content()  # type: ignore[operator]
    assert len(asked) == once + 1
    assert [event.done for event in events if isinstance(event, Progress)] == list(range(1, 9))


def test_labels_become_names_by_what_the_data_call_them(few: Path) -> None:
    numbers = [(image, 2 if label == "a" else 10) for image, label in pairs()]
    assert read(numbers).classes == ("2", "10")
    assert read(Mapped(lambda index: (picture(index), torch.tensor(index % 2)), 8, ["ant", "bee"])).classes == (
        *("ant", "bee"),
    )
    assert read(pd.DataFrame({"image": [image for image, _ in numbers], "label": np.array([2, 10] * 4)})).classes == (
        *("2", "10"),
    )
    assert read([(image, f" {label} " if n % 3 else label) for n, (image, label) in enumerate(pairs())]).classes == (
        *("a", "b"),
    )
    categories = table().astype({"label": "category"})
    assert read(categories).classes == ("a", "b")
    ants, bees = (Mapped(lambda index: (picture(index), index % 2), 4, names) for names in (["a", "b"], ["b", "c"]))
    assert read(torch.utils.data.ConcatDataset([ants, torch.utils.data.Subset(ants, [1, 0])])).classes == ("a", "b")
    with pytest.raises(DataError, match=r"of data sets with other classes, so the same number means different ones"):
        read(torch.utils.data.ConcatDataset([ants, bees]))
    # A transform of labels makes other numbers of them than those that the classes are named by.
    changed = ImageFolder(few / "train", target_transform=lambda label: 1 - label)
    assert read((changed, ImageFolder(few / "val", target_transform=lambda label: 1 - label))).classes == ("0", "1")
    several_words = ImageFolder(few / "train")
    several_words.classes = [("tench", "Tinca tinca"), ("crane",)]  # type: ignore[list-item]
    assert read(several_words).classes == ("crane", "tench, Tinca tinca")
    kept = ImageFolder(few / "train", transform=transforms.Resize(32))
    (train, val) = read((kept, ImageFolder(few / "val"))).splits.values()
    assert {file.named for file in (*train, *val)} == {"a", "b"}


def test_columns_are_those_that_are_named_else_those_of_the_usual_name_or_type() -> None:
    renamed = table().rename(columns={"image": "file", "label": "species"})
    assert read(renamed, image="file", label="species").classes == ("a", "b")
    assert read(zoo.TableData(renamed, image="file", label="species")).classes == ("a", "b")
    both = {"train": renamed, "val": renamed.iloc[::-1]}
    assert list(read(both, image="file", label="species").splits) == ["train", "val"]
    split = renamed.assign(part=["train", "val"] * 2 + ["val", "train"] * 2)
    assert list(read(split, image="file", label="species", split="part").splits) == ["train", "val"]


def test_columns_of_hugging_face_are_found_by_their_type_before_their_name() -> None:
    stored = datasets.Dataset.from_dict(
        {"picture": [image for image, _ in pairs()], "kind": [0, 1] * 4, "caption": list("tuvwxyzq")}
    ).cast_column("picture", datasets.Image())
    named = stored.cast_column("kind", datasets.ClassLabel(names=["ant", "bee"]))
    assert read(named).classes == ("ant", "bee")
    assert read(stored.remove_columns("kind").add_column("label", [3, 4] * 4)).classes == ("3", "4")
    with pytest.raises(DataError, match=r"several columns of labels: kind, again.\nNext: .* label='kind'"):
        read(named.add_column("again", [0, 1] * 4).cast_column("again", datasets.ClassLabel(names=["a", "b"])))


def test_nothing_is_imported_to_know_a_table_by() -> None:
    code = (
        "import sys, zoo, numpy as np\n"
        "zoo.check_data([(np.full((40, 40, 3), 9 * i, np.uint8), 'ab'[i % 2]) for i in range(6)])\n"
        "print([m for m in ('pandas', 'polars', 'datasets', 'pyarrow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def flipped_at_random(index: int) -> Any:
    image = picture(index)
    return (image.transpose(Image.Transpose.ROTATE_90) if random.random() < 0.5 else image), index % 2


def test_a_data_set_with_a_random_transform_is_refused_before_anything_runs() -> None:
    with pytest.raises(OtherAnswer) as refused:
        zoo.plan("timm/test_resnet", weights="random", data=Mapped(flipped_at_random, 40))

    assert "with a random transform. zoo keeps what it computes" in str(refused.value)
    assert "Next: leave the random transforms out" in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_change_that_comes_later_ends_the_run_and_leaves_no_image_out() -> None:
    asked: dict[int, int] = {}

    def give(index: int) -> Any:
        asked[index] = asked.get(index, 0) + 1
        return picture(100 if index == 3 and asked[index] > 2 else index), index % 2

    data = read(Mapped(give, 8))
    file = next(file for files in data.splits.values() for file in files if file.relative.endswith("3"))
    with pytest.raises(OtherAnswer):
        file.content()


class Streamed(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(pairs())


REFUSED: dict[str, tuple[Any, str]] = {
    "no such columns": (
        pd.DataFrame({"img": ["a.jpg"], "lable": ["a"]}),
        "no column 'image'; it has: img, lable. Did you mean 'img'?\nNext: say which one holds the images: image=NAME",
    ),
    "no label": (
        table(label=["a", None] * 4),
        "4 rows have no label: row 1, row 3, row 5, row 7 (counted from 0).\nNext: frame.dropna",
    ),
    "no label in polars": (pl.DataFrame({"image": [b"x"], "label": [None]}), "1 row has no label: row 0 (counted"),
    "no image": (table(image=[picture(), None] * 4), "4 rows have no image: row 1, row 3, row 5, row 7 (counted"),
    "texts and numbers": (table(label=["a", 1] * 4), "the label of row 1 is a number, 1, and others are a text"),
    "numbers without names": (
        {"train": Mapped(lambda i: (picture(i), i % 2), 4, ["ant", "bee"]), "val": [(picture(), 1)]},
        "is a text, 0 ('ant'), and others are a number, such as 1 of entry 0",
    ),
    "texts there": ({"train": pairs(), "val": [(picture(), 1)]}, "the label of entry 0 is a number, 1, and others"),
    "booleans": ([(image, True) for image, _ in pairs()], "the boolean True.\nNext: say what True and False mean"),
    "floats": ([(image, 1.0) for image, _ in pairs()], "1.0, a number with decimals.\nNext: make labels whole numbers"),
    "blank": ([(image, " ") for image, _ in pairs()], "' ', which is blank"),
    "empty list": ([], "The list of images is empty"),
    "empty table": (table(0), "A pandas table of 0 rows has no images"),
    "turned round": ([("a", "1.jpg")], "entry 0 is (label, image), with 'a' first.\nNext: turn every pair round"),
    "turned pictures": ([(label, image) for image, label in pairs()], "entry 0 is (label, image)"),
    "without labels": (["1.jpg", "2.jpg"], "entry 0 is '1.jpg', and no pair (image, label)"),
    "a single pair": (("1.jpg", "a"), "a single pair (image, label).\nNext: give a list of pairs"),
    "apart": ((np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4)), "images and labels apart.\nNext: list(zip("),
    "no labels at all": (np.zeros((4, 8, 8, 3), np.uint8), "an array of shape [4, 8, 8, 3], without labels"),
    "columns": ({"image": [], "label": []}, "the key 'image', which is no split.\nNext: its keys are train, val"),
    "split": ({"trian": pairs()}, "the key 'trian', which is no split. Did you mean 'train'"),
    "paths of splits": ({"train": "photos/train"}, "A part of the data is the path 'photos/train'"),
    "generator": ((pair for pair in pairs()), "without a length or without items by index"),
    "iterable": (Streamed(), "must be of the map style"),
    "streamed": (datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(), "Next: load it without streaming=True"),
    "batches": (torch.utils.data.DataLoader(Mapped(flipped_at_random, 4)), "Next: give its data set: loader.dataset"),
    "query": (pl.DataFrame({"a": [1]}).lazy(), "Next: give frame.collect()"),
    "column": (pd.Series(["a"]), "Next: give the whole table"),
    "number": (3, "The data are 3.\nNext: data are a path; a table of pandas"),
    "tensors": (Mapped(lambda i: (transforms.ToTensor()(picture(i)), 1), 4), "without transforms such as ToTensor"),
    "records": (Mapped(lambda i: {"image": picture(i)}, 4), "item 0 is of type dict with image, and no pair"),
    "one hot": (Mapped(lambda i: (picture(i), torch.tensor([0, 1])), 4), "is an array of shape [2].\nNext: a label is"),
    "raises": (Mapped(lambda i: 1 / 0, 4), "asked for item 0, it raised ZeroDivisionError"),
    "out of range": (Mapped(lambda i: (picture(i), 5), 4, ["a", "b"]), "is 5, and the data name 2 classes, 0 to 1"),
    "one name twice": (
        Mapped(lambda i: (picture(i), i % 3), 6, ["crane", "crane", "b"]),
        "the classes 0 and 1 have one name, 'crane', and would become one class.\nNext: name them apart",
    ),
    "depth": ([(np.zeros((8, 8, 3), np.uint16), "a")], "Pixels are uint8, from 0 to 255"),
    "channels": ([(np.zeros((8, 8, 2), np.uint8), "a")], "of shape [8, 8, 2]. An image is [H, W, 3]"),
    "splits elsewhere": (
        table(fold=["train", "test"] * 4),
        "holds splits (test, train).\nNext: split='fold', or data=zoo.TableData(table, split='fold') uses them",
    ),
    "unknown split": (table(split=["trian", "val"] * 4), "has the split 'trian' (of 0000000). Did you mean 'train'?"),
    "some splits": (table(split=["train", None] * 4), "4 rows have no split: row 1"),
    "other split": ({"train": table(split=["train", "val"] * 4)}, "is given as train, and its column 'split' says val"),
    "three": ((pairs(), pairs(), pairs()), "are 3 in a tuple; two are (train, val).\nNext: name them, {'train': ...,"),
    "two in a list": (
        random_split(Mapped(lambda i: (picture(i), i % 2), 8, ["a", "b"]), [6, 2]),
        "are a list of 2 data sets, and it does not say which of them is which split.\n"
        "Next: data=tuple(parts) takes them as (train, val), or name them: data={'train': parts[0], 'val': parts[1]}.",
    ),
    "three in a list": (
        [table(), table(), table()],
        "Next: name them: data={'train': parts[0], 'val': parts[1], 'test': parts[2]}.",
    ),
    "lists in a list": ([pairs(), pairs()], "are a list of 2 data sets"),
    "transform": (datasets.Dataset.from_dict({"a": [1]}).with_transform(dict), "Next: give dataset.with_format(None)"),
    "column twice": (pd.DataFrame([[1, 2, 3]], columns=["image", "image", "label"]), "'image' more than once"),
    "unlabelled": (
        datasets.Dataset.from_dict(
            {"image": [picture()], "label": [-1]},
            features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}),
        ),
        "row 0 has no label (it is -1)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_as_it_was_meant_is_refused(name: str) -> None:
    data, sentence = REFUSED[name]
    with pytest.raises((DataError, OptionError)) as refused:
        read(data)

    assert sentence in str(refused.value)


def test_a_path_that_leads_to_nothing_is_refused_with_the_nearest(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(few)
    with pytest.raises(DataError) as refused:
        read([("train/a/0.jpgg", "a"), ("trian/a/1.jpg", "b")])
    assert f"Did you mean {str(few / 'train/a/0.jpg')!r}?" in str(refused.value)
    assert f"begin at the working directory, {few}" in str(refused.value)
    with pytest.raises(DataError, match=r"is a folder.*\nNext: name the images in it"):
        read([("train/a", "a")])
    with pytest.raises(DataError) as refused:
        read([("trian/a/1.jpg", "b")])
    assert f"Did you mean {str(few / 'train/a/1.jpg')!r}?" in str(refused.value)
    with pytest.raises(DataError, match=r"1\.jpg is in two splits"):
        read({"train": [("train/a/1.jpg", "a")], "val": [("train/a/1.jpg", "a")]})


@pytest.mark.parametrize(
    ("data", "columns", "sentence"),
    [
        (
            table(),
            {"image": "img"},
            "image='img': a pandas table of 8 rows has no such column; it has: image, label. Did you mean 'image'?",
        ),
        (
            table(),
            {"split": 0.2},
            "split=0.2 names no column, for a name is a text; a pandas table of 8 rows has: image",
        ),
        (table(), {"label": "image"}, "The column 'image' cannot hold images and labels"),
        (pairs(), {"label": "a"}, "label='a' names columns of a table in memory, and data is of type list"),
        (Path("photos"), {"label": "a"}, "and data is the path 'photos'.\nNext: leave that out"),
        ({"train": table()}, {"split": "part"}, "this table is the split 'train' as a whole"),
    ],
)
def test_columns_that_are_asked_for_and_do_not_exist_are_refused(data: Any, columns: Any, sentence: str) -> None:
    with pytest.raises(OptionError) as refused:
        read(data, **columns)
    assert sentence in str(refused.value)


def test_columns_whose_names_are_numbers_are_named_by_texts() -> None:
    frame = pd.DataFrame(pairs())
    with pytest.raises(
        OptionError, match=r"image=0 names no column.* has: 0, 1\.\nNext: image='0', the name as a text"
    ):
        read(frame, image=0, label=1)  # type: ignore[arg-type]
    assert read(frame, image="0", label="1").classes == ("a", "b")


def test_functions_without_arguments_for_columns_take_what_the_next_step_names() -> None:
    table_of_files = table().rename(columns={"image": "file"})
    with pytest.raises(DataError) as refused:
        zoo.check_data(table_of_files)
    step = str(refused.value).partition("data=")[2].rstrip(".")
    named = eval(step, {"zoo": zoo, "table": table_of_files, "NAME": "file"})
    assert zoo.check_data(named).images == {"train": (3, 3), "val": (1, 1)}


def test_what_is_not_used_of_a_table_is_said() -> None:
    notes = read(table(is_valid=[True] * 8, width=[9] * 8)).notes
    assert notes[:2] == ("image from column image, label from column label", "columns not used: is_valid, width")


def test_the_next_step_of_a_refusal_works() -> None:
    frame = table(label=["a", None, "b", "a"] * 2)
    assert read(frame.dropna(subset=["label"])).classes == ("a", "b")
    assert read([pair[::-1] for pair in [(label, image) for image, label in pairs()]]).classes == ("a", "b")
    images, labels = zip(*pairs(), strict=True)
    assert read(list(zip(images, labels, strict=True))).classes == ("a", "b")
    folds = table(fold=["train", "train", "test", "test"] * 2)
    assert list(read(folds, split="fold").splits) == ["train", "val", "test"]
    assert list(read(folds.drop(columns="fold")).splits) == ["train", "val"]
    query = pl.DataFrame({"image": [b"x"] * 4, "label": list("abab")}).lazy()
    assert read(query.collect()).classes == ("a", "b")
    stored = datasets.Dataset.from_dict({"image": [image for image, _ in pairs()], "label": list("ab" * 4)})
    assert read(stored.cast_column("image", datasets.Image()).with_transform(dict).with_format(None)).classes == (
        *("a", "b"),
    )
