"""A folder of class folders packed in every other way that zoo reads."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

SOURCES = ("table", "parquet", "hub", "tar", "webdataset", "pattern", "zip", "hf")


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(path, label, split) of every picture of `train/CLASS/` and `val/CLASS/`."""
    files = sorted(each.relative_to(folder) for each in folder.rglob("*.jpg"))
    return [(each.as_posix(), each.parts[1], each.parts[0]) for each in files]


def write_csv(path: Path, lines: Iterable[Iterable[str]], *, header: str = "path,label,split", sign: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=sign)
        writer.writerows([header.split(","), *lines])
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack(folder: Path, kind: str, out: Path) -> Path:
    """The same pictures, labels and splits -> what `--data` takes."""
    made: dict[str, Callable[[Path, Path], Path]] = {
        "table": _table,
        "parquet": _parquet,
        "hub": _hub,
        "tar": lambda folder, out: write_tar(out / "photos.tar", _members(folder)),
        "webdataset": _webdataset,
        "pattern": lambda folder, out: _webdataset(folder, out) / "{train,val}-{000..001}.tar",
        "zip": lambda folder, out: write_zip(out / "photos.zip", _members(folder, "photos/")),
        "hf": _saved,
    }
    out.mkdir(parents=True, exist_ok=True)
    return made[kind](folder, out)


def _members(folder: Path, above: str = "") -> dict[str, bytes]:
    return {f"{above}{name}": (folder / name).read_bytes() for name, _, _ in rows(folder)}


def _table(folder: Path, out: Path) -> Path:
    return write_csv(out / "photos.csv", [(str(folder / name), label, split) for name, label, split in rows(folder)])


def _parquet(folder: Path, out: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    columns = list(zip(*rows(folder), strict=True))
    paths = [str(folder / name) for name in columns[0]]
    table = pyarrow.table({"path": paths, "label": columns[1], "split": columns[2]})
    parquet.write_table(table, out / "photos.parquet")
    return out / "photos.parquet"


def _hub(folder: Path, out: Path) -> Path:
    """Parquet files with the images in them, as a clone of a data set of the Hugging Face hub has them."""
    import pyarrow
    from pyarrow import parquet

    labels = sorted({label for _, label, _ in rows(folder)})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": labels}}
    (out / "clone" / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        of_split = [row for row in rows(folder) if row[2] == split]
        images = [{"bytes": (folder / path).read_bytes(), "path": Path(path).name} for path, _, _ in of_split]
        table = pyarrow.table({"image": images, "label": [labels.index(label) for _, label, _ in of_split]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, out / "clone" / "data" / f"{name}-00000-of-00001.parquet", row_group_size=3)
    return out / "clone"


def _webdataset(folder: Path, out: Path) -> Path:
    """Two shards a split; labels by number in `.cls` and by name in `.json`, in turn."""
    labels = sorted({label for _, label, _ in rows(folder)})
    for split in ("train", "val"):
        of_split = [row for row in rows(folder) if row[2] == split]
        half = len(of_split) // 2
        for number, part in enumerate((of_split[:half], of_split[half:])):
            members: dict[str, bytes] = {}
            for index, (name, label, _) in enumerate(part):
                members[f"{index:04d}.jpg"] = (folder / name).read_bytes()
                if index % 2:
                    members[f"{index:04d}.json"] = f'{{"label": "{label}"}}'.encode()
                else:
                    members[f"{index:04d}.cls"] = str(labels.index(label)).encode()
            write_tar(out / "shards" / f"{split}-{number:03d}.tar", members)
    (out / "shards" / "classes.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    return out / "shards"


def _saved(folder: Path, out: Path) -> Path:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

    labels = sorted({label for _, label, _ in rows(folder)})
    features = Features({"image": Image(), "label": ClassLabel(names=labels)})
    parts = {
        split: Dataset.from_dict(
            {
                "image": [str(folder / name) for name, _, of in rows(folder) if of == split],
                "label": [labels.index(label) for _, label, of in rows(folder) if of == split],
            },
            features=features,
        )
        for split in ("train", "val")
    }
    DatasetDict({"train": parts["train"], "validation": parts["val"]}).save_to_disk(str(out / "saved"))
    return out / "saved"
