"""Write vectors to a file: Parquet, safetensors or NumPy's, each with what the rows and the vectors are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zoo.data.unused import as_rows
from zoo.embedding.found_images import Described, ImagesFound
from zoo.embedding.vectors import Embedding
from zoo.errors import OptionError, Refused, meant, nearest
from zoo.specs.data import Skipped
from zoo.storage.atomic import clear_write_errors, json_line, json_text, new_path, refuse_existing, try_new_path
from zoo.storage.csv_lines import CsvLines
from zoo.storage.tensors import save_tensors
from zoo.text import counted, escaping_errors, printable

SUFFIXES = (".parquet", ".safetensors", ".npy")
COLUMNS = ("file", "sha256", "label", "split")
_KEY = "zoo"
"""The key of the metadata in a Parquet file and in a safetensors file."""
_VECTORS = "vectors"
_GROUP_ROWS = 8192
"""Rows of a row group: so many are copied at a time."""
_HEADER_MOST = 95_000_000
"""safetensors reads headers of up to 100 MB."""
_SCHEMA_MOST = 70_000_000
"""Readers of Parquet take texts of up to 100 MB. The metadata is in one of them as base64, which has a third more."""
_DIGEST = 64
_MARKS_OF_ROW, _MARKS_OF_SKIPPED = 4 * len('"", '), len('["", "", ""], ')
"""Bytes of JSON around the texts of a row, and of a file that is not used."""


class Draft(Protocol):
    """Files that are being made."""

    def __call__(self, made: Embedding) -> None:
        """Write the vectors to them."""


@contextlib.contextmanager
def new_vector_file(path: Path, found: ImagesFound) -> Iterator[Draft]:
    """Open the drafts of a file of vectors, before they are computed; the files appear when the block ends.

    A `.npy` has two files beside it with the same name: `.csv`, a line for each row, and `.json`, the metadata.

    Args:
        path: Ends in .parquet, .safetensors or .npy.
        found: The images, of which each that can be read is a row, and the files that are not used.

    Raises:
        OptionError: Another ending.
        Refused: A file exists, the package pyarrow is missing, or the format cannot hold so many names.
        RunError: It cannot be written there.
    """
    write = _writer(path)
    # Told before hours of work where it is known; what is wrong with unreadable images is only known at the end.
    skipped = sum(map(_bytes_of_skipped, found.skipped))
    names = sum(map(_bytes_of_row, found)) if path.suffix == ".safetensors" else 0
    _refuse_long(path.suffix, names + skipped, images=len(found), skipped=len(found.skipped))
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
    _writer(path)
    for each in (path, *_beside(path)):
        try_new_path(each)


def _beside(path: Path) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in ((".json", ".csv") if path.suffix == ".npy" else ())]


def _writer(path: Path) -> Callable[..., None]:
    if path.suffix == ".parquet":
        _require_pyarrow()
        return _write_parquet
    if path.suffix == ".safetensors":
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


def _bytes_of_row(image: Described) -> int:
    return sum(map(_length, (image.file.relative, image.label, image.split))) + _DIGEST + _MARKS_OF_ROW


def _bytes_of_skipped(file: Skipped) -> int:
    return sum(map(_length, (file.relative, file.reason, file.detail))) + _MARKS_OF_SKIPPED


def _length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _refuse_long(suffix: str, size: int, *, images: int, skipped: int) -> None:
    """Refuse so many bytes of names where nothing that reads this format would take them."""
    others = f" and of {counted(skipped, 'file')} that are not used" if skipped else ""
    what = f"the names of {counted(images, 'image')}{others}"
    if suffix == ".safetensors" and size > _HEADER_MOST:
        raise Refused(
            f"A safetensors file holds names in a header of at most 100 MB, too little for {what}.\n"
            "Next: --out with a name that ends in .npy, for which names stand in files beside it."
        )
    if suffix == ".parquet" and size > _SCHEMA_MOST:
        raise Refused(
            "A Parquet file names the files that are not used or cannot be read in its metadata, of which readers take "
            f"at most 70 MB: too little here, with {counted(skipped, 'file')} not used.\n"
            "Next: --out with a name that ends in .npy, for which they stand in a file beside it."
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
    about = json_line(metadata_of(made))
    _refuse_long(".parquet", _length(about), images=len(made), skipped=len(made.skipped))
    schema = pa.schema([*fields, vector], metadata={_KEY: about})
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
    _refuse_long(".safetensors", _length(header), images=len(made), skipped=len(made.skipped))
    save_tensors(draft, {_VECTORS: torch.from_numpy(made.vectors)}, header=(_KEY, header))


def _write_npy(made: Embedding, draft: Path, about: Path, table: Path) -> None:
    with draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(made.vectors), allow_pickle=False)
    about.write_text(json_text(metadata_of(made)), "utf-8")
    with table.open("w", encoding="utf-8", errors=escaping_errors(), newline="") as text:
        lines = CsvLines(text)
        lines.row(COLUMNS)
        lines.rows([printable(cell) for cell in row] for row in made.rows())
