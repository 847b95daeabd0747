"""Tables of pandas, polars and Hugging Face datasets behind one interface. None of the libraries is imported here.

An object of theirs can exist only where they were imported, so they are looked up among the modules of the process.
Columns are read by several threads at once: all three allow that, and no lock is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from zoo.errors import DataError
from zoo.text import counted

_LABEL = "label"


class ColumnTable(Protocol):
    """A table whose cells are read one by one."""

    rows: int
    names: list[str]
    """Of the columns, in order; the same name may come twice."""
    what: str
    """The table in words: `a pandas table of 500 rows`."""
    drop_step: str
    """How rows without a label are dropped; `{label}` stands for the column."""

    def values(self, column: str) -> Sequence[Any]:
        """Every cell of a column that is no image."""

    def reader(self, column: str) -> Callable[[int], Any]:
        """A function that reads one cell."""

    def peek(self, column: str) -> Iterator[Any]:
        """Every cell of a column of images, to see what kind it is; its bytes may be others."""

    def image_columns(self) -> list[str]:
        """Columns that hold images by their type."""

    def label_columns(self) -> list[str]:
        """Columns that hold labels by their type."""

    def class_names(self, column: str) -> Sequence[str] | None:
        """The names of a column of numbers; None if there are none."""


def frame_of(data: Any) -> ColumnTable | None:
    """The table that an object is; None where it is none. Raises DataError for one that must be read otherwise."""
    if _is(data, "pandas", "DataFrame"):
        return PandasFrame(data)
    if _is(data, "polars", "DataFrame"):
        return PolarsFrame(data)
    if _is(data, "polars", "LazyFrame"):
        raise DataError("a polars LazyFrame is a query, and has no rows yet.\nNext: give frame.collect().")
    if _is(data, "datasets", "Dataset"):
        return HuggingFaceFrame(data)
    if _is(data, "datasets", "IterableDataset", "IterableDatasetDict"):
        raise DataError(
            "a streamed Hugging Face data set has no length, and zoo must see every image more than once.\n"
            "Next: load it without streaming=True, or take a part: Dataset.from_list(list(data.take(1000)))."
        )
    if _is(data, "pandas", "Series") or _is(data, "polars", "Series") or _is(data, "datasets", "Column"):
        raise DataError("a single column has images or labels, and zoo needs both.\nNext: give the whole table.")
    return None


def is_dataset_dict(data: Any) -> bool:
    """Whether an object is a DatasetDict of Hugging Face, which is a dictionary of data sets by split."""
    return _is(data, "datasets", "DatasetDict")


class PandasFrame:
    """A DataFrame of pandas."""

    drop_step = "frame.dropna(subset=[{label!r}]) leaves these rows out."

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self.rows = len(frame)
        self.names = [str(name) for name in frame.columns]
        self.what = f"a pandas table of {counted(self.rows, 'row')}"

    def values(self, column: str) -> Sequence[Any]:
        values: list[Any] = self._series(column).tolist()
        return values

    def reader(self, column: str) -> Callable[[int], Any]:
        # By position: the index may have any values, several times.
        places = self._series(column).iloc
        return lambda index: places[index]

    def peek(self, column: str) -> Iterator[Any]:
        return map(self.reader(column), range(self.rows))

    def image_columns(self) -> list[str]:
        return []

    def label_columns(self) -> list[str]:
        return []

    def class_names(self, column: str) -> Sequence[str] | None:
        return None

    def _series(self, column: str) -> Any:
        return self._frame.iloc[:, self.names.index(column)]


class PolarsFrame:
    """A DataFrame of polars."""

    drop_step = "frame.drop_nulls({label!r}) leaves these rows out."

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self.rows = frame.height
        self.names = list(frame.columns)
        self.what = f"a polars table of {counted(self.rows, 'row')}"

    def values(self, column: str) -> Sequence[Any]:
        values: list[Any] = self._frame[column].to_list()
        return values

    def reader(self, column: str) -> Callable[[int], Any]:
        series = self._frame[column]
        return lambda index: series[index]

    def peek(self, column: str) -> Iterator[Any]:
        return map(self.reader(column), range(self.rows))

    def image_columns(self) -> list[str]:
        return []

    def label_columns(self) -> list[str]:
        return []

    def class_names(self, column: str) -> Sequence[str] | None:
        return None


class HuggingFaceFrame:
    """A Dataset of Hugging Face. Its images are taken as they are stored: nothing is decoded by it."""

    drop_step = "dataset.filter(lambda row: row[{label!r}] is not None) leaves these rows out."

    def __init__(self, dataset: Any) -> None:
        # Formats such as `torch` change how cells are given, not what they are. A transform may change the image.
        kind = str((dataset.format or {}).get("type"))
        if kind == "custom":
            raise DataError(
                "the Hugging Face data set has a transform (set_transform, with_transform). zoo keeps features, so "
                "images must be the same every time, and it prepares them itself.\n"
                "Next: give dataset.with_format(None); recipes bring augmentation."
            )
        self._dataset = dataset
        self.rows = len(dataset)
        self.names = list(dataset.column_names)
        self.what = f"a Hugging Face data set of {counted(self.rows, 'row')}"

    def values(self, column: str) -> Sequence[Any]:
        # Of this column alone: all of them at once would be the bytes of all images.
        values: list[Any] = self._dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        return values

    def reader(self, column: str) -> Callable[[int], Any]:
        # In Arrow's format an image is its bytes and path, as they are stored.
        stored = self._dataset.select_columns([column]).with_format("arrow")
        return lambda index: stored[index][column][0].as_py()

    def peek(self, column: str) -> Iterator[Any]:
        if column not in self.image_columns():
            return map(self.reader(column), range(self.rows))
        return self._without_bytes(column)

    def image_columns(self) -> list[str]:
        return self._of_kind("Image")

    def label_columns(self) -> list[str]:
        texts = [name for name, kind in self._features() if getattr(kind, "dtype", None) in ("string", "large_string")]
        # A column that is called label is one before texts that happen to be there, such as captions.
        return self._of_kind("ClassLabel") or ([_LABEL] if _LABEL in self.names else texts)

    def class_names(self, column: str) -> Sequence[str] | None:
        names: Sequence[str] | None = getattr(dict(self._features())[column], "names", None)
        return names

    def _without_bytes(self, column: str) -> Iterator[Any]:
        """The images of a column as they are stored, with a single byte for all that an image has."""
        import pyarrow.compute as compute

        stored = self._dataset.select_columns([column]).with_format("arrow")[:][column]
        paths = compute.struct_field(stored, "path").to_pylist()
        sizes = compute.binary_length(compute.struct_field(stored, "bytes")).to_pylist()
        for path, size in zip(paths, sizes, strict=True):
            yield {"path": path, "bytes": None if size is None else b"?"[: size or 0]}

    def _of_kind(self, kind: str) -> list[str]:
        return [name for name, feature in self._features() if type(feature).__name__ == kind]

    def _features(self) -> Iterator[tuple[str, Any]]:
        return iter(self._dataset.features.items())


def _is(data: Any, library: str, *names: str) -> bool:
    module = sys.modules.get(library)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(module, name, None), type))
    return isinstance(data, kinds)
