"""What decoding found of files, by the digests of their bytes, as a column: 32 bytes a file.

Of most files there is nothing to say but that they can be decoded. What there is of others stands in a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.data.lost_values import Kind, Loss
from zoo.data.text_column import CHUNK

DIGEST_BYTES = 32
"""Length of a SHA-256 digest."""
_DIGITS = 2 * DIGEST_BYTES
_DIGEST = f"S{DIGEST_BYTES}"
"""Bytes of this type are compared, and so sorted, as their hexadecimal texts are."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is worth knowing of a file that was decoded, beside its pixels. Nothing is, of most."""

    rule: str = ""
    """As in `zoo.data.decode.Decoded`."""
    loss: Loss | None = None


PLAIN = Reading()
"""That of most files."""


class Readings(Mapping[str, Reading]):
    """What is known of files that can be decoded, by SHA-256 in hexadecimal digits, in the order of the digests."""

    def __init__(self, digests: bytes | bytearray, special: Mapping[str, Reading]) -> None:
        """`digests`: the 32 bytes of each file, in any order. `special`: those of which more is known than `PLAIN`."""
        self._digests = np.unique(np.frombuffer(digests, _DIGEST))
        self._special = special

    @classmethod
    def of(cls, readings: Mapping[str, Reading]) -> Self:
        """The same as a dictionary."""
        special = {digest: reading for digest, reading in readings.items() if reading != PLAIN}
        return cls(bytes.fromhex("".join(readings)), special)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those of a record that `text` gave. Raises OSError, and ValueError where the file is no text."""
        digests, special = bytearray(), dict[str, Reading]()
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                # Fields that are empty at the end of a line were left out.
                digest, rule, kind, detail = (*line.rstrip("\n").split("\t"), "", "", "")[:4]
                if not _is_digest(digest):
                    continue
                digests += bytes.fromhex(digest)
                (found,) = [each for each in get_args(Kind) if each == kind] or [None]
                if rule or found:
                    special[digest] = Reading(rule, Loss(found, detail) if found else None)
        return cls(digests, special)

    def __getitem__(self, digest: str) -> Reading:
        if not _is_digest(digest):
            raise KeyError(digest)
        wanted = np.frombuffer(bytes.fromhex(digest), _DIGEST)
        if not self._has(wanted).all():
            raise KeyError(digest)
        return self._special.get(digest, PLAIN)

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self._digests), CHUNK):
            text = self._digests[at : at + CHUNK].tobytes().hex()
            yield from (text[begin : begin + _DIGITS] for begin in range(0, len(text), _DIGITS))

    def __or__(self, others: Readings) -> Readings:
        """All of both. Of a file that both know, what `others` say."""
        special = {digest: reading for digest, reading in self._special.items() if digest not in others}
        return Readings(self._digests.tobytes() + others._digests.tobytes(), special | dict(others._special))

    def covers(self, others: Readings) -> bool:
        """Whether all that `others` know are known here."""
        return bool(self._has(others._digests).all())

    def text(self) -> Iterator[str]:
        """Yield the lines of a record, each file's digest first, and what is known of it."""
        return (f"{_line(digest, self._special.get(digest, PLAIN))}\n" for digest in self)

    @property
    def characters(self) -> int:
        """The length of that text."""
        more = sum(len(_line(digest, reading)) - _DIGITS for digest, reading in self._special.items())
        return len(self) * (_DIGITS + 1) + more

    def _has(self, wanted: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Which of `wanted[n]` are here: mask[n]."""
        if not len(self._digests):
            return np.zeros(len(wanted), np.bool_)
        places = np.searchsorted(self._digests, wanted)
        places[places == len(self._digests)] = 0
        found: NDArray[np.bool_] = self._digests[places] == wanted
        return found


def _is_digest(text: str) -> bool:
    return len(text) == _DIGITS and not text.strip("0123456789abcdef")


def _line(digest: str, reading: Reading) -> str:
    loss = (reading.loss.kind, reading.loss.detail) if reading.loss else ("", "")
    # Of most files nothing is known but that they can be read: their line is the digest alone.
    return "\t".join((digest, reading.rule, *loss)).rstrip("\t")
