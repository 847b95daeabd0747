"""The listing cut into parts of fixed size in a fixed order.

A part's name holds its number and a digest of all that its rows depend on. So the same work has the same names, and
what is there need not be computed again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from zoo.bulk.found_files import FoundFile
from zoo.storage.atomic import json_line

PART_SIZE = 1024
"""Images in a part, unless the caller says otherwise: a lost worker loses no more than these."""
PROVIDER = "provider"
"""The key for the distributions whose code the model is, with their versions, where a job tells how it is opened.
Another version may be another model, so that it makes another job."""
_NAME_DIGITS = 16
"""Digits of the digest in a part's name; the whole of it is in the part's metadata, and is compared as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkJob:
    """What is computed of every file: the same for all parts, and for all processes that compute them."""

    task: Literal["predict", "embed"]
    subject: str
    """An artefact's folder, a run, or the name of a backbone."""
    identity: str
    """Digest of the model: its tensors, classes, preprocessing, and who provides its code."""
    settings: Mapping[str, Any]
    """What rows depend on beside the model and the files, in plain JSON types."""
    part_size: int
    opening: Mapping[str, Any] = field(default_factory=dict)
    """How the model is opened. Not in the digest: what comes of it is in `identity`, whichever way it was asked for."""

    @property
    def digest(self) -> str:
        """Names the job: the same for the same model and settings."""
        facts = {"task": self.task, "model": self.identity, "settings": self.settings, "part_size": self.part_size}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FilePart:
    """Some consecutive files of the listing."""

    number: int
    files: tuple[FoundFile, ...]
    digest: str
    """Of the job, and of the names and sizes of the files."""

    @property
    def file_name(self) -> str:
        """The name of the Parquet file that holds its rows."""
        return part_name(self.number, self.digest)


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    digest: str
    images: int
    offset: int


class PartList:
    """All parts of a job. Names are kept in a file of their own, so memory holds a few numbers for each part."""

    def __init__(self, job: BulkJob) -> None:
        self._job = job
        self._file = tempfile.TemporaryFile(prefix="zoo-listing-")  # noqa: SIM115 - open as long as the list
        self._places: list[_Place] = []
        self.images = 0

    def close(self) -> None:
        """Let the names go."""
        self._file.close()

    def fill(self, files: Iterable[FoundFile]) -> Iterator[int]:
        """Cut the files into parts, and yield the number of files so far after each part."""
        pending = iter(files)
        while chunk := tuple(islice(pending, self._job.part_size)):
            # With escapes, so that a name that is no UTF-8, or has a line break, is a line of its own all the same.
            line = json.dumps(chunk).encode()
            digest = hashlib.sha256(self._job.digest.encode() + line).hexdigest()
            self._places.append(_Place(len(self._places), digest, len(chunk), self._file.tell()))
            self._file.write(line + b"\n")
            self.images += len(chunk)
            yield self.images

    def __len__(self) -> int:
        return len(self._places)

    def names(self) -> dict[str, int]:
        """Name of each part's file -> its number of images, in order."""
        return {part_name(place.number, place.digest): place.images for place in self._places}

    def __getitem__(self, number: int) -> FilePart:
        place = self._places[number]
        self._file.seek(place.offset)
        return FilePart(number, tuple(FoundFile(*each) for each in json.loads(self._file.readline())), place.digest)


def part_name(number: int, digest: str) -> str:
    """`part-000012-3f2a....parquet`."""
    return f"part-{number:06d}-{digest[:_NAME_DIGITS]}.parquet"


def number_of(name: str) -> int | None:
    """The number in a part's file name; None for another name."""
    pieces = name.removesuffix(".parquet").split("-")
    well_formed = name.endswith(".parquet") and len(pieces) == 3 and pieces[0] == "part" and pieces[1].isdecimal()
    return int(pieces[1]) if well_formed and len(pieces[2]) == _NAME_DIGITS else None


def job_text(job: BulkJob) -> str:
    """The line of JSON that the folder keeps of its job."""
    told = {"task": job.task, "digest": job.digest, "model": job.identity, "part_size": job.part_size, **job.settings}
    # For people, who are told which of these differ where the model is another one. The network is no part of a model.
    return json_line({**told, **{name: value for name, value in job.opening.items() if name != "offline"}})
