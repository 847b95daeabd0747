"""Texts as a column: the bytes of all of them once, and where each begins; folders that names share are kept once.

A text costs its own bytes and eight more, where an object of Python costs about 60 more. The bytes are UTF-8, in which
also the escapes of names that are no UTF-8 keep their place, so that every text comes back as it was given.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 14
"""Texts that are encoded or decoded at a time."""
_ERRORS = "surrogatepass"
"""Names of files hold lone surrogates in place of bytes that are not UTF-8; other texts may hold them, too."""


@dataclass(frozen=True, eq=False, slots=True)
class TextColumn(Sequence[str]):
    """Texts by row. Made by `TextBuilder` or `column_of`; texts are decoded when they are asked for."""

    blob: NDArray[np.uint8]
    """The bytes of all texts, one after the other, without what `heads` holds."""
    starts: NDArray[np.int64]
    """`starts[N + 1]`: where the bytes of each text begin, and where those of the last one end."""
    heads: TextColumn | None = None
    """What texts begin with, each once: the folders of names, with a slash at the end."""
    head: NDArray[np.int32] | None = None
    """`head[N]`: which of `heads` each text begins with."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return list(self.pick(np.arange(*row.indices(len(self)))))
        at = range(len(self))[row]
        text = self.blob[self.starts[at] : self.starts[at + 1]].tobytes().decode("utf-8", _ERRORS)
        return text if self.heads is None or self.head is None else self.heads[int(self.head[at])] + text

    def __iter__(self) -> Iterator[str]:
        return self.pick(np.arange(len(self)))

    def pick(self, rows: NDArray[np.integer]) -> Iterator[str]:
        """Yield the texts of these rows, `rows[n]`, in their order; a few thousand are decoded at a time."""
        view = self.blob.data
        for at in range(0, len(rows), CHUNK):
            chunk = rows[at : at + CHUNK]
            bounds = zip(self.starts[chunk].tolist(), self.starts[chunk + 1].tolist(), strict=True)
            tails = (str(view[begin:end], "utf-8", _ERRORS) for begin, end in bounds)
            if self.heads is None or self.head is None:
                yield from tails
                continue
            # Images lie folder by folder: a few thousand names share few heads, and each is decoded once.
            wanted, codes = np.unique(self.head[chunk], return_inverse=True)
            heads = list(self.heads.pick(wanted))
            yield from (heads[code] + tail for code, tail in zip(codes.tolist(), tails, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        own = self.blob.nbytes + self.starts.nbytes
        return own + (self.heads.nbytes if self.heads else 0) + (self.head.nbytes if self.head is not None else 0)


@dataclass(slots=True)
class TextBuilder:
    """Collects texts, many at a time, without keeping them as objects."""

    _blob: bytearray = field(default_factory=bytearray)
    _lengths: list[NDArray[np.int64]] = field(default_factory=list)

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts."""
        encoded = [text.encode("utf-8", _ERRORS) for text in texts]
        self._blob += b"".join(encoded)
        self._lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))

    def extend_from(self, column: TextColumn, begin: int, end: int) -> None:
        """Add the texts of a column without heads, from row `begin` up to `end`, as bytes."""
        bounds = column.starts[begin : end + 1]
        self._blob += column.blob[bounds[0] : bounds[-1]].data
        self._lengths.append(np.diff(bounds))

    def build(self) -> TextColumn:
        """The column. The builder is empty afterwards."""
        starts = np.zeros(sum(map(len, self._lengths)) + 1, np.int64)
        np.cumsum(np.concatenate([*self._lengths, starts[:0]]), out=starts[1:])
        blob = np.frombuffer(self._blob, np.uint8)
        blob.flags.writeable = False
        self._blob, self._lengths = bytearray(), []
        return TextColumn(blob, starts)


def plain_column(texts: Sequence[str]) -> TextColumn:
    """Texts as a column that shares nothing."""
    builder = TextBuilder()
    builder.extend(texts)
    return builder.build()


def column_of(texts: Iterable[str]) -> TextColumn:
    """Texts as a column, the folders of names (all up to the last slash) once. `texts` is gone through once."""
    codes: dict[str, int] = {}
    tails, heads = TextBuilder(), []
    given = iter(texts)
    while chunk := list(islice(given, CHUNK)):
        cuts = [text.rfind("/") + 1 for text in chunk]
        tails.extend([text[cut:] for text, cut in zip(chunk, cuts, strict=True)])
        folders = (text[:cut] for text, cut in zip(chunk, cuts, strict=True))
        heads.append(np.fromiter((codes.setdefault(each, len(codes)) for each in folders), np.int32, len(chunk)))
    built = tails.build()
    return TextColumn(
        built.blob, built.starts, plain_column(list(codes)), np.concatenate([*heads, np.zeros(0, np.int32)])
    )


class TextIndex:
    """Finds the row of a text. It is made when it is first asked: 8 bytes a text."""

    def __init__(self, column: TextColumn) -> None:
        """Prepare; nothing is read yet."""
        self._column = column
        self._lock = threading.Lock()
        self._bits = np.uint64(max(1, len(column).bit_length()))
        """The lower bits of an entry are a row, the upper ones those of the hash of its text."""
        self._sorted: NDArray[np.uint64] | None = None

    def row(self, text: str) -> int | None:
        """The row of a text; None if there is no such text. Of a text that is there several times, the first row."""
        entries, begin = self._built(), self._key(hash(text))
        # Entries of one hash come in the order of their rows.
        for entry in entries[np.searchsorted(entries, begin) :]:
            if entry >> self._bits != begin >> self._bits:
                break
            if self._column[row := int(entry - begin)] == text:
                return row
        return None

    def repeated(self) -> tuple[int, int] | None:
        """(the first row whose text an earlier row has, that earlier row); None if all texts differ."""
        entries = self._built()
        hashes = entries >> self._bits
        alike = np.flatnonzero(hashes[1:] == hashes[:-1])
        found = entries[np.unique(np.concatenate([alike, alike + 1]))]
        # Equal hashes are few, so only their texts are read. In the order of rows, so that the first repetition is
        # told.
        candidates = np.sort(found - (found >> self._bits << self._bits)).astype(np.int64)
        seen: dict[str, int] = {}
        for row, text in zip(candidates.tolist(), self._column.pick(candidates), strict=True):
            if (earlier := seen.setdefault(text, row)) != row:
                return row, earlier
        return None

    @property
    def nbytes(self) -> int:
        """Bytes in memory, once it is made."""
        return 8 * len(self._column)

    def _key(self, hashed: int) -> np.uint64:
        return np.uint64(hashed % 2**64) >> self._bits << self._bits

    def _built(self) -> NDArray[np.uint64]:
        with self._lock:
            if self._sorted is None:
                # Python's own hash differs from process to process, and stays in this one.
                hashes = np.fromiter(map(hash, self._column), np.int64, len(self._column)).view(np.uint64)
                entries = hashes >> self._bits << self._bits
                entries |= np.arange(len(entries), dtype=np.uint64)
                entries.sort()
                self._sorted = entries
            return self._sorted
