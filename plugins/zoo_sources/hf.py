"""Data sets saved by Hugging Face datasets: rows are read from the mapped Arrow files, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import zoo

NO_DATASETS = (
    "a saved Hugging Face data set needs the package datasets, which is not installed here.\n"
    "Next: pip install 'zoo-registry[hf]'"
)
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "class")


@dataclass(frozen=True, slots=True)
class Row:
    """The image of one row: called, it reads its bytes."""

    rows: Any
    """The data set's image column, formatted as Arrow: nothing is decoded."""
    column: str
    index: int

    def __call__(self) -> bytes:
        stored = self.rows[self.index][self.column][0].as_py()
        content = stored["bytes"] if stored is not None else None
        if content is None:
            raise zoo.DataError("the row holds no bytes of an image")
        return bytes(content)


def read_saved(path: Path) -> zoo.SourceListing:
    """List a folder that `save_to_disk` of a Dataset or DatasetDict has written.

    Raises DataError for a folder that cannot be read so, or without one image column and one label column; ImportError
    where the package is missing.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(NO_DATASETS) from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise zoo.DataError(
            f"{path} is no data set that datasets {datasets.__version__} can read: {error}\nNext: save it anew."
        ) from None
    parts: Mapping[str | None, Any] = loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    images: list[zoo.SourceImage] = []
    skipped: list[zoo.Skipped] = []
    notes: set[str] = set()
    for split, rows in parts.items():
        image, label = _columns(path, rows.features, datasets)
        notes.add(f"image from column {image}, label from column {label}")
        for row in _rows(rows, image, label, split):
            images.append(row) if isinstance(row, zoo.SourceImage) else skipped.append(row)
    return zoo.SourceListing(images=images, skipped=skipped, notes=tuple(sorted(notes)))


def _rows(rows: Any, image: str, label: str, split: str | None) -> Iterator[zoo.SourceImage | zoo.Skipped]:
    contents = rows.select_columns([image]).with_format("arrow")
    suffixes = _suffixes(contents, image)
    classes = getattr(rows.features[label], "names", None)
    stored = rows.select_columns([label]).with_format("arrow")[:][label].to_pylist()
    for index, (value, suffix) in enumerate(zip(stored, suffixes, strict=True)):
        name = f"{split + '/' if split else ''}{index:07d}{suffix}"
        told = _class_of(value, classes)
        if told is None:
            yield zoo.Skipped(name, "no label", f"its {label} is {value!r}")
        else:
            yield zoo.SourceImage(name=name, label=sys.intern(told), content=Row(contents, image, index), split=split)


def _suffixes(contents: Any, image: str) -> list[str]:
    """Of the names that the images were read from, where they are known."""
    import pyarrow.compute

    names = pyarrow.compute.struct_field(contents[:][image], "path").to_pylist()
    suffixes = [PurePath(name).suffix.lower() if name else "" for name in names]
    return [sys.intern(suffix) if zoo.is_image_name(suffix) else "" for suffix in suffixes]


def _class_of(value: object, classes: Sequence[str] | None) -> str | None:
    if classes is not None:
        return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else None
    return str(value).strip() or None if isinstance(value, (str, int)) else None


def _columns(path: Path, features: Mapping[str, Any], datasets: Any) -> tuple[str, str]:
    """The names of the image column and of the label column."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    named = [name for name in _LABEL_NAMES if name in features and name not in images]
    there = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    image = _only(path, "image", images, _IMAGE_NAMES, there)
    return image, _only(path, "label", labels or named or texts, _LABEL_NAMES, there)


def _only(path: Path, kind: str, found: Sequence[str], usual: Sequence[str], there: str) -> str:
    usually = [name for name in usual if name in found]
    if len(found) == 1 or usually:
        return (usually or list(found))[0]
    of = "Image" if kind == "image" else "ClassLabel, or of texts"
    many = f"several {kind} columns, {', '.join(found)}" if found else f"no {kind} column"
    raise zoo.DataError(
        f"{path} has {many}; its columns: {there}.\n"
        f"Next: save it with one column of {of}, or name the right one {usual[0]!r} (rename_column)."
    )
