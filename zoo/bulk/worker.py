"""What computes parts, one at a time: in this process, or as the actor of a Ray, one a core or a GPU."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.bulk.addresses import address_of
from zoo.bulk.parts import BulkJob, FilePart
from zoo.bulk.sink import Sink, parquet_bytes, parquet_facts
from zoo.errors import Refused, RunError, ZooError
from zoo.planning.versions import versions
from zoo.process import share_the_processor, use_threads

JOB = "_job.json"
"""What the folder of parts says of its job. Readers of Parquet folders pass over names that begin with `_`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDone:
    """A part that is written."""

    number: int
    name: str
    images: int
    unreadable: int
    sha256: str
    """Of its rows."""
    device: str
    versions: tuple[str, ...]
    process: int
    """The process that computed it."""
    failed: tuple[str, str] | None = None
    """(code, message) of what ends the job."""


class Worker:
    """Computes parts and writes them. The model is loaded with the first one."""

    def __init__(self, job: BulkJob, out: str, *, device: str, workers: int, packed: bytes | None = None) -> None:
        """`packed`: the files of the artefact, where the worker does not see those of the process that began."""
        self._job, self._sink, self._device, self._workers = job, Sink(address_of(out)), device, workers
        self._packed = packed
        self._maker: Any = None
        # Ray calls an actor from several threads, so that it can answer `images_done`, and gives it a part in advance.
        self._one_at_a_time = threading.Lock()
        self._done = 0

    def images_done(self) -> int:
        """Files of the part under way that are done."""
        return self._done

    def compute(self, part: FilePart, told: Callable[[int], None] | None = None) -> PartDone:
        """Compute a part and write it. Of several calls at once, one is carried out at a time."""
        with self._one_at_a_time:
            try:
                return self._computed(part, told)
            except ZooError as error:
                # As a value: from an actor, Ray would send an error of its own kind that holds this one as text.
                return replace(self._outcome(part, {}), failed=(error.code, str(error)))
            finally:
                self._done = 0

    def _computed(self, part: FilePart, told: Callable[[int], None] | None) -> PartDone:
        kept = self._sink.read(part.file_name)
        if kept is not None:  # by a worker that was lost before it could say so
            return self._outcome(part, _checked_facts(kept, part, self._job))
        maker = self._opened()

        def count(done: int) -> None:
            self._done = done
            if told is not None:
                told(done)

        about = {
            "job": self._job.digest,
            "part": part.digest,
            "number": part.number,
            "device": self._device,
            "versions": version_texts(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        content = parquet_bytes(maker.rows(part.files, count), about)
        try:
            self._sink.write(part.file_name, content)
        except Refused:  # another worker, thought to be lost, was quicker
            kept = self._sink.read(part.file_name)
            if kept is None:
                raise
            content = kept
        # Read back in both cases, so that what is told of a part is what the file says.
        return self._outcome(part, _checked_facts(content, part, self._job))

    def _opened(self) -> Any:
        # The number is that of a thread, and Ray calls from several.
        threads = 1 if self._device == "cpu" else self._workers
        if self._maker is None:
            share_the_processor()  # before torch is loaded, which the next line does
            from zoo.bulk.rows import open_rows

            use_threads(threads)
            if self._sink.read(JOB) is None:
                raise RunError(
                    f"A worker does not see the folder {self._sink.address}: it must be one that all machines share.\n"
                    "Next: --out with a folder on a file system that all share, or in a bucket: s3://BUCKET/FOLDER."
                )
            job = self._job if self._packed is None else replace(self._job, subject=_unpacked(self._packed))
            maker = open_rows(job, device=self._device, workers=self._workers)
            # The same name may be other weights on another machine.
            if maker.identity != self._job.identity:
                raise RunError(
                    f"A worker has another {self._job.subject} than the process that began: its digest is "
                    f"{maker.identity[:12]}, and should be {self._job.identity[:12]}.\n"
                    "Next: give all machines the same weights, and the same versions of the packages with the model."
                )
            self._maker = maker
        use_threads(threads)
        return self._maker

    def _outcome(self, part: FilePart, facts: dict[str, Any]) -> PartDone:
        return PartDone(
            number=part.number,
            name=part.file_name,
            images=len(part.files),
            unreadable=int(facts.get("unreadable", 0)),
            sha256=str(facts.get("rows_sha256", "")),
            device=str(facts.get("device", self._device)),
            versions=tuple(facts.get("versions", ())),
            process=os.getpid(),
        )


def version_texts() -> list[str]:
    """`torch 2.9.0`: the versions here of what rows depend on, as a part tells them."""
    return [f"{name} {version}" for name, version in sorted(versions().items())]


def _checked_facts(content: bytes, part: FilePart, job: BulkJob) -> dict[str, Any]:
    return facts_of(content, part.file_name, job, digest=part.digest, images=len(part.files))


def facts_of(content: bytes, name: str, job: BulkJob, *, digest: str, images: int) -> dict[str, Any]:
    """The metadata of a part that is there. Raises Refused where it is not the part that its name says."""
    facts = parquet_facts(content)
    if facts is None:
        raise Refused(
            f"{name} is damaged: it is no whole part, or its rows are not those that it was written with.\n"
            "Next: remove this file; the same command computes it again."
        )
    if facts.get("job") != job.digest or facts.get("part") != digest or facts["rows"] != images:
        raise Refused(
            f"{name} has the name of a part of this job, and other content.\n"
            "Next: name another folder, or remove this file."
        )
    return facts


def packed_folder(folder: Path) -> bytes:
    """The files of an artefact as one piece, to send to other machines."""
    buffer = io.BytesIO()
    # Files, not links: a snapshot of the hub's cache has nothing else, and where they lead is not there.
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.add(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def _unpacked(packed: bytes) -> str:
    import atexit

    folder = tempfile.mkdtemp(prefix="zoo-artefact-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        # `filter`: without it, Python 3.12 warns, and takes paths that lead out of the folder.
        archive.extractall(folder, filter="data")
    return folder
