"""Data sets saved by Hugging Face datasets. Rows are read one at a time from memory-mapped Arrow files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import zoo

from zoo_sources.labels import Labels, class_of_number, refuse_one_name_twice, whole

NO_DATASETS = (
    "a saved Hugging Face data set needs the package datasets, which is not installed here.\n"
    "Next: pip install 'zoo-registry[hf]'"
)
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "class")


@dataclass(frozen=True, slots=True)
class Row:
    """The image of one row. Calling it reads and returns its encoded bytes."""

    rows: Any
    """The data set's image column in Arrow format, in which nothing is decoded."""
    column: str
    index: int

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the bytes lie, so that zoo can read images in that order."""
        return "", self.index, 0

    def __call__(self) -> bytes:
        stored = self.rows[self.index][self.column][0].as_py()
        content = stored["bytes"] if stored is not None else None
        if content is None:
            raise zoo.DataError("the row holds no bytes of an image")
        return bytes(content)


def read_saved(path: Path) -> zoo.SourceListing:
    """List a folder that `save_to_disk` of a Dataset or DatasetDict has written.

    Raises:
        DataError: The folder cannot be read, or has no single image column and label column.
        ImportError: The package datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(NO_DATASETS) from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise zoo.DataError(
            f"{path} cannot be read by datasets {datasets.__version__}: {error}\nNext: save it again."
        ) from None
    parts: Mapping[str | None, Any] = loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    images: list[zoo.SourceImage] = []
    skipped: list[zoo.Skipped] = []
    notes: set[str] = set()
    labels = Labels(path)
    for split, rows in parts.items():
        image, label = _columns(path, rows.features, datasets)
        notes.add(f"image from column {image}, label from column {label}")
        for row in _rows(rows, image, _LabelColumn(path, label, rows.features[label], labels), split):
            images.append(row) if isinstance(row, zoo.SourceImage) else skipped.append(row)
    return zoo.SourceListing(images=images, skipped=skipped, notes=tuple(sorted(notes)))


class _LabelColumn:
    """The column of labels of one split."""

    def __init__(self, path: Path, name: str, feature: Any, labels: Labels) -> None:
        self.name = name
        self._path, self._labels = path, labels
        self._classes: Sequence[str] | None = getattr(feature, "names", None)
        refuse_one_name_twice(self._classes or (), str(path))

    def class_of(self, value: object, row: str) -> str | None:
        """The name of the class, or None for a row without one. Raises DataError for what cannot be a class."""
        if value is None or value != value:  # not a number
            return None
        if isinstance(value, str):
            text = value.strip()
            if text:
                self._labels.check(row, text)
            return text or None
        number = whole(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        if number is None:
            raise zoo.DataError(
                f"{row} of {self._path} has {type(value).__name__} {value!r} as its {self.name}.\n"
                "Next: labels must be texts or whole numbers; write one class of each row."
            )
        return number if self._classes is None else class_of_number(int(number), self._classes, str(self._path), row)


def _rows(rows: Any, image: str, labels: _LabelColumn, split: str | None) -> Iterator[zoo.SourceImage | zoo.Skipped]:
    contents = rows.select_columns([image]).with_format("arrow")
    suffixes = _suffixes(contents, image)
    stored = rows.select_columns([labels.name]).with_format("arrow")[:][labels.name].to_pylist()
    for index, (value, suffix) in enumerate(zip(stored, suffixes, strict=True)):
        name = f"{split + '/' if split else ''}{index:07d}{suffix}"
        class_name = labels.class_of(value, name)
        if class_name is None:
            yield zoo.Skipped(name, "no label", f"its {labels.name} is {value!r}")
        else:
            yield zoo.SourceImage(
                name=name, label=sys.intern(class_name), content=Row(contents, image, index), split=split
            )


def _suffixes(contents: Any, image: str) -> list[str]:
    """Return the suffix of each image's original file name, or an empty text if that is unknown."""
    import pyarrow.compute

    names = pyarrow.compute.struct_field(contents[:][image], "path").to_pylist()
    suffixes = [PurePath(name).suffix.lower() if name else "" for name in names]
    return [sys.intern(suffix) if zoo.is_image_name(suffix) else "" for suffix in suffixes]


def _columns(path: Path, features: Mapping[str, Any], datasets: Any) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    named = [name for name in _LABEL_NAMES if name in features and name not in images]
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    image = _only(path, "image", images, _IMAGE_NAMES, columns)
    return image, _only(path, "label", labels or named or texts, _LABEL_NAMES, columns)


def _only(path: Path, kind: str, candidates: Sequence[str], usual_names: Sequence[str], columns: str) -> str:
    usual = [name for name in usual_names if name in candidates]
    if len(candidates) == 1 or usual:
        return (usual or list(candidates))[0]
    feature = "Image" if kind == "image" else "ClassLabel, or of texts"
    problem = f"several {kind} columns, {', '.join(candidates)}" if candidates else f"no {kind} column"
    raise zoo.DataError(
        f"{path} has {problem}; its columns: {columns}.\n"
        f"Next: save it with one column of {feature}, or rename the right one to {usual_names[0]!r} (rename_column)."
    )
