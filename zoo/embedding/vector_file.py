"""Write vectors to a file: Parquet, safetensors or NumPy's, each with what the rows and the vectors are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zoo.data.unused import as_rows
from zoo.embedding.vectors import Embedding
from zoo.errors import OptionError, Refused, meant, nearest
from zoo.storage.atomic import clear_write_errors, json_line, json_text, new_path, refuse_existing, try_new_path
from zoo.storage.csv_lines import CsvLines
from zoo.storage.tensors import save_tensors
from zoo.text import escaping_errors, printable

SUFFIXES = (".parquet", ".safetensors", ".npy")
COLUMNS = ("file", "sha256", "label", "split")
_KEY = "zoo"
"""The key of the metadata in a Parquet file and in a safetensors file."""
_VECTORS = "vectors"
_GROUP_ROWS = 8192
"""Rows of a row group: so many are copied at a time."""
_HEADER_MOST = 95_000_000
"""safetensors reads headers of up to 100 MB."""
_HEADER_ROW = 64 + 40
"""Bytes of a row in it, at least: its digest, and the rest with a short name."""


class Draft(Protocol):
    """Files that are being made."""

    def __call__(self, made: Embedding) -> None:
        """Write the vectors to them."""


@contextlib.contextmanager
def new_vector_file(path: Path, images: int) -> Iterator[Draft]:
    """Open the drafts of a file of vectors, before they are computed; the files appear when the block ends.

    A `.npy` has two files beside it with the same name: `.csv`, a line for each row, and `.json`, the metadata.

    Args:
        path: Ends in .parquet, .safetensors or .npy.
        images: How many rows there are at most.

    Raises:
        OptionError: Another ending.
        Refused: A file exists, the package pyarrow is missing, or safetensors cannot hold so many names.
        RunError: It cannot be written there.
    """
    write = _writer(path, images)
    beside = _beside(path)
    for each in beside:
        refuse_existing(each)
    with contextlib.ExitStack() as stack:
        # Opened first and so put in place last: where the vectors are, the files beside them are too.
        main = stack.enter_context(new_path(path))
        drafts = [stack.enter_context(new_path(each)) for each in beside]

        def finish(made: Embedding) -> None:
            with clear_write_errors(path):
                write(made, main, *drafts)

        yield finish


def try_vector_file(path: Path) -> None:
    """Before the work: refuse a file that could not be written at its end, by the errors of `new_vector_file`."""
    _writer(path, 0)
    for each in (path, *_beside(path)):
        try_new_path(each)


def _beside(path: Path) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in ((".json", ".csv") if path.suffix == ".npy" else ())]


def _writer(path: Path, images: int) -> Callable[..., None]:
    if path.suffix == ".parquet":
        _require_pyarrow()
        return _write_parquet
    if path.suffix == ".safetensors":
        # Told before hours of work where it is certain; names may still turn out too long when it is written.
        if images * _HEADER_ROW > _HEADER_MOST:
            raise _long_header(images)
        return _write_safetensors
    if path.suffix == ".npy":
        return _write_npy
    close = nearest(path.suffix, SUFFIXES, count=1) or SUFFIXES
    raise OptionError(
        f"--out {path} names no format by its ending: it may be {', '.join(SUFFIXES)}."
        f"{meant(path.suffix, SUFFIXES, count=1)}\nNext: --out {path.with_suffix(close[0])}"
    )


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise Refused(
            "A Parquet file needs the package pyarrow, which is not installed here.\n"
            "Next: pip install 'zoo-registry[hf]', or --out with a name that ends in .npy or .safetensors."
        ) from None


def _long_header(images: int) -> Refused:
    return Refused(
        f"A safetensors file holds the names of its rows in a header of at most 100 MB, too little for {images:,} "
        "images.\nNext: --out with a name that ends in .parquet."
    )


def metadata_of(made: Embedding) -> dict[str, Any]:
    """The metadata that is written, in plain JSON types: those of the vectors, and what was left out."""
    return {**made.metadata, "images": len(made), "unreadable": dict(made.unreadable), "skipped": as_rows(made.skipped)}


def _write_parquet(made: Embedding, draft: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    number = pa.float16() if made.vectors.dtype == np.float16 else pa.float32()
    width = int(made.vectors.shape[1])
    fields = [pa.field(name, pa.string(), nullable=False) for name in COLUMNS]
    vector = pa.field("vector", pa.list_(number, width), nullable=False)
    schema = pa.schema([*fields, vector], metadata={_KEY: json_line(metadata_of(made))})
    # Parquet's texts are UTF-8, which names of files need not be.
    rows = [[printable(cell) for cell in row] for row in made.rows()]
    with parquet.ParquetWriter(draft, schema) as writer:
        for begin in range(0, len(rows), _GROUP_ROWS):
            part = rows[begin : begin + _GROUP_ROWS]
            flat = np.ascontiguousarray(made.vectors[begin : begin + len(part)]).reshape(-1)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, number), width)
            columns = [pa.array(list(column), pa.string()) for column in zip(*part, strict=True)]
            writer.write_table(pa.Table.from_arrays([*columns, vectors], schema=schema))


def _write_safetensors(made: Embedding, draft: Path) -> None:
    rows = {name: list(column) for name, column in zip(COLUMNS, zip(*made.rows(), strict=True), strict=True)}
    header = json_line({**metadata_of(made), "rows": rows})
    if len(header.encode()) > _HEADER_MOST:
        raise _long_header(len(made))
    save_tensors(draft, {_VECTORS: torch.from_numpy(made.vectors)}, header=(_KEY, header))


def _write_npy(made: Embedding, draft: Path, about: Path, table: Path) -> None:
    with draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(made.vectors), allow_pickle=False)
    about.write_text(json_text(metadata_of(made)), "utf-8")
    with table.open("w", encoding="utf-8", errors=escaping_errors(), newline="") as text:
        lines = CsvLines(text)
        lines.row(COLUMNS)
        lines.rows([printable(cell) for cell in row] for row in made.rows())
