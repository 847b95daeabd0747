"""Digests of images as a column: 32 bytes an image, read by name as a mapping, or in the order of a split at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.data.dataset import Dataset, FileDigests, ImageFile, names_of
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.data.text_column import CHUNK

_BYTES = 32
"""Length of a SHA-256 digest."""


class DigestColumn(FileDigests):
    """SHA-256 digests of images by name, as hexadecimal text; kept as bytes, beside the rows of a manifest.

    Digests come in one by one, in any order and from any thread: `column[name] = digest`. A name whose digest is not
    known yet raises KeyError, as in a dictionary.
    """

    def __init__(self, manifest: ImageManifest) -> None:
        """Make a column in which no digest is known."""
        self.manifest = manifest
        self.bytes: NDArray[np.uint8] = np.zeros((len(manifest), _BYTES), np.uint8)
        """`bytes[N, 32]` by row of the manifest; zeros where a digest is not known."""
        self.known: NDArray[np.bool_] = np.zeros(len(manifest), np.bool_)
        """`known[N]`: which digests are known."""

    def __getitem__(self, name: str) -> str:
        row = self.manifest.index.row(name)
        if row is None or not self.known[row]:
            raise KeyError(name)
        return bytes(self.bytes[row]).hex()

    def __setitem__(self, name: str, digest: str) -> None:
        row = self.manifest.index.row(name)
        if row is None:
            raise KeyError(name)
        content = bytes.fromhex(digest)
        if len(content) != _BYTES:
            raise ValueError(f"a SHA-256 digest has {2 * _BYTES} hexadecimal digits, got {digest!r}")
        self.put(np.array([row]), np.frombuffer(content, np.uint8)[None])

    def __len__(self) -> int:
        return int(self.known.sum())

    def __iter__(self) -> Iterator[str]:
        return self.manifest.names.pick(np.flatnonzero(self.known))

    def put(self, rows: NDArray[np.integer], digests: NDArray[np.uint8]) -> None:
        """Store `digests[n, 32]` of `rows[n]` of the manifest."""
        self.bytes[rows] = digests
        # Last: a thread that sees a digest as known reads all of it.
        self.known[rows] = True

    def only(self, rows: NDArray[np.integer]) -> DigestColumn:
        """The digests of these rows that are known now, without a copy of them. It is for reading."""
        part = copy.copy(self)
        part.known = np.zeros_like(self.known)
        part.known[rows] = self.known[rows]
        return part

    def of(self, files: Sequence[ImageFile]) -> Iterator[str]:
        """Yield the digests of these images in their order. Raises KeyError for the first that is not known."""
        # The same row of another manifest is another image: then only the name says which.
        if not isinstance(files, ImageRows) or files.manifest is not self.manifest:
            yield from (self[name] for name in names_of(files))
            return
        for at in range(0, len(files), CHUNK):
            rows = files.rows[at : at + CHUNK]
            if not self.known[rows].all():
                raise KeyError(self.manifest.names[int(rows[np.argmin(self.known[rows])])])
            text = self.bytes[rows].tobytes().hex()
            yield from (text[begin : begin + 2 * _BYTES] for begin in range(0, len(text), 2 * _BYTES))


def manifest_of(dataset: Dataset) -> ImageManifest | None:
    """The manifest of which all images of a data set are rows; None where there is none."""
    splits = list(dataset.splits.values())
    views = [files for files in splits if isinstance(files, ImageRows)]
    if views and len(views) == len(splits) and all(files.manifest is views[0].manifest for files in views):
        return views[0].manifest
    return None
