"""The folder of parts, on this machine or in a bucket: a part is there whole, or not at all, and is never replaced.

Which parts there should be is in `zoo.bulk.parts`, what is in their rows in `zoo.bulk.rows`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zoo.bulk.addresses import Address, file_system, read_bytes, unreachable
from zoo.errors import Refused, RunError, first_line
from zoo.storage.atomic import clear_write_errors, json_line, new_path, refuse_unwritable
from zoo.storage.passing_faults import patiently
from zoo.training.run_folder import RunLock

_KEY = b"zoo"
"""Under which a Parquet file's metadata hold what zoo says of the part."""
_LOCK = ".lock"
_DRAFTS = (".part-", "._")
"""How drafts begin: of parts, and of the files that say what they are, such as `_job.json`."""
_GOES_ON = "once that can be done, the same command goes on after the last finished part."


@dataclass(frozen=True, slots=True)
class Sink:
    """A folder that parts are written to."""

    address: Address

    def _at(self, name: str) -> Address:
        return Address(self.address.scheme, f"{self.address.path.rstrip('/')}/{name}")

    def refuse_unwritable(self) -> None:
        """Before the work: raise RunError for a folder on this machine in which nothing could be written.

        A bucket is asked by `names`, which is the first thing that is done with it.
        """
        folder = Path(self.address.path)
        # What is there and is no folder is told by `names`.
        if self.address.is_local and (os.path.isdir(folder) or not os.path.lexists(folder)):
            refuse_unwritable(folder / _LOCK, with_parents=True, named=folder)

    def make(self) -> None:
        """Make the folder, where there is none. Raises RunError."""
        if self.address.is_local:
            folder = Path(self.address.path)
            with clear_write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, no other command writes into the folder, which must be there. A bucket has no locks and no drafts.

        Raises RunError, naming the process, where another one writes into it.
        """
        if not self.address.is_local:
            yield
            return
        lock = Path(self.address.path) / _LOCK
        with clear_write_errors(lock):
            lock.mkdir(exist_ok=True)
        with RunLock(lock, run=Path(self.address.path)):
            try:
                yield
            finally:
                # While it is held. Whoever opened its file before does not get it: it has no name any more.
                shutil.rmtree(lock, ignore_errors=True)

    def names(self) -> dict[str, int]:
        """What is in it -> the size of each file; drafts and the lock are left out. Nothing where there is no folder.

        Raises Refused where it is a file, RunError or DataError where it cannot be listed.
        """
        from pyarrow import fs

        try:
            entries = file_system(self.address.scheme).get_file_info(
                fs.FileSelector(self.address.path, allow_not_found=True)
            )
        except NotADirectoryError:
            raise Refused(f"--out {self.address} is a file, and parts go into a folder.\nNext: another name.") from None
        except OSError as error:
            if self.address.is_local:
                raise RunError(f"{self.address} cannot be listed: {first_line(error)}\nNext: {_GOES_ON}") from error
            raise unreachable(self.address, error) from error
        # A worker that was killed leaves a folder with a draft, and a command that was stopped leaves its lock.
        names = ((entry.base_name, entry.size or 0) for entry in entries)
        return {name: size for name, size in names if name != _LOCK and not name.startswith(_DRAFTS)}

    def read(self, name: str) -> bytes | None:
        """The bytes of a file in it; None where there is none."""
        at = self._at(name)
        try:
            return patiently(partial(read_bytes, at))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{at} cannot be read: {first_line(error)}\nNext: {_GOES_ON}") from error

    def write(self, name: str, content: bytes) -> None:
        """Write a new file. Raises Refused where there is one of this name already, RunError where it cannot be."""
        at = self._at(name)
        if self.address.is_local:
            with new_path(Path(at.path)) as draft, clear_write_errors(Path(at.path)):
                draft.write_bytes(content)
            return
        if self.read(name) is not None:
            raise Refused(f"{at} exists, and zoo overwrites nothing.\nNext: name another folder, or remove it.")
        try:
            patiently(partial(_put, at, content))
        except OSError as error:
            raise RunError(f"{at} cannot be written: {first_line(error)}\nNext: {_GOES_ON}") from error

    def remove_drafts(self) -> None:
        """Remove what workers that were killed left half-written."""
        if self.address.is_local:
            for draft in Path(self.address.path).iterdir():
                if draft.name.startswith(_DRAFTS):
                    with contextlib.suppress(OSError):  # a file of that name is none of zoo's drafts, which are folders
                        shutil.rmtree(draft)


def _put(at: Address, content: bytes) -> None:
    # An object appears when it is complete.
    with file_system(at.scheme).open_output_stream(at.path) as stream:
        stream.write(content)


def parquet_bytes(table: Any, about: Mapping[str, Any]) -> bytes:
    """A table of pyarrow as a Parquet file, with `about` and a digest of its rows as metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    facts = {**about, "rows": table.num_rows, "rows_sha256": rows_digest(table)}
    table = table.replace_schema_metadata({_KEY: json_line(facts).encode()})
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def parquet_facts(content: bytes) -> dict[str, Any] | None:
    """The metadata of a part, checked against its rows; None for what is no whole part."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(pa.BufferReader(content))
        facts: dict[str, Any] = json.loads((table.schema.metadata or {})[_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
    whole = facts.get("rows") == table.num_rows and facts.get("rows_sha256") == rows_digest(table)
    unreadable = table.num_rows - table["error"].null_count if "error" in table.column_names else 0
    return {**facts, "unreadable": unreadable} if whole else None


def rows_digest(table: Any) -> str:
    """SHA-256 of all values of a table of pyarrow, in order; of a column of vectors, of their bytes."""
    import numpy as np

    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(name.encode() + b"\0")
        column = table[name]
        # Vectors by their bytes: as JSON, each of their numbers would be written out digit by digit.
        if name == "vector":
            for row in column:
                digest.update(b"\0" if row.as_py() is None else b"\1" + np.asarray(row.values).tobytes())
        else:
            digest.update(json.dumps(column.to_pylist()).encode())
    return digest.hexdigest()
