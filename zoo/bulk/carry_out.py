"""A job over very many files from beginning to end: list them, look at which parts are there, compute the rest, and
write the manifest. Parts are computed by `zoo.bulk.worker`, here or as the actors of `zoo.bulk.on_ray`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.bulk.addresses import Address
from zoo.bulk.found_files import FoundFile, find_files
from zoo.bulk.parts import PROVIDER, BulkJob, PartList, job_text, number_of
from zoo.bulk.sink import Sink
from zoo.bulk.worker import JOB, PartDone, Worker, facts_of, packed_folder, version_texts
from zoo.cluster.place import Place
from zoo.data.paths import files_among
from zoo.data.prefetch import resolve_workers
from zoo.data.unused import UnusedFiles
from zoo.errors import DataError, OptionError, Refused, RunError
from zoo.events import Note, Progress, Report
from zoo.process import one_thread
from zoo.storage.atomic import json_text
from zoo.text import counted, printable, some

MANIFESTS = {"predict": "_predictions.json", "embed": "_vectors.json"}
"""The file that is written last, of each task: where it is, everything is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkRequest:
    """What is asked for."""

    files: tuple[Address, ...]
    """Files, folders, patterns and prefixes."""
    out: Address
    """The folder of parts."""
    place: Place
    device: str = "auto"
    workers: int | None = None
    """Decoding threads of each process. None: one per core, at most eight; on the cores of a Ray: one."""
    processes: int | None = None
    """Worker processes of a Ray. None: one a GPU, or one a core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkResult:
    """What was computed of very many files. The rows are in the parts."""

    out: str
    """The folder of parts."""
    task: str
    """`predict` or `embed`."""
    images: int
    """Files, those included that could not be read."""
    unreadable: int
    """Files that could not be read: their rows have the reason in the column `error`."""
    parts: tuple[str, ...] = field(repr=False)
    """Names of the Parquet files, in order."""
    computed: int
    """Parts that this call computed; the others were there."""
    manifest: str
    """The file that says so in the folder."""

    def to_dict(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        return {**asdict(self), "parts": list(self.parts)}


def carry_out(job: BulkJob, request: BulkRequest, report: Report, *, artefact: Path | None) -> BulkResult:
    """Compute a job's rows of all files, part by part, and write them. Parts that are there are kept.

    Args:
        job: What is computed.
        request: Of which files, where, and where to.
        report: Called with every event.
        artefact: The folder of the saved classifier, to send to other machines. None: a backbone by its name.

    Raises:
        DataError: There is no file, or none can be read.
        Refused: The folder holds other things, another job, or parts with other content. Nothing ran.
        RunError: Another command is writing into it, or it cannot be written.
        ClusterError: The cluster does not answer, or workers were lost again and again.
    """
    resolve_workers(request.workers)  # refuses a number that cannot be, before anything is listed
    sink = Sink(request.out)
    with contextlib.closing(PartList(job)) as parts:
        # Looked at before the lock is taken: listing may take long, and the folder is not made until it has succeeded.
        there = sink.names()
        _refuse_other_job(sink, there, job)
        unused = UnusedFiles(used=files_among([Path(each.path) for each in request.files if each.is_local]))
        for listed in parts.fill(_some_of_which_exist(request.files, unused)):
            report(Progress(task="list files", done=listed, total=None, unit="files"))
        report(Progress(task="list files", done=parts.images, total=parts.images, unit="files"))
        if sentence := unused.sentence():
            step = "Next: if they are pictures, give their own paths or a pattern."
            report(Note(text=f"{sentence} {step}", loud=True))
        sink.make()
        with sink.lock():
            there = sink.names()  # another command may have begun while files were listed
            _refuse_other_job(sink, there, job)
            return _compute_rest(job, request, sink, there, parts, report, artefact)


def _compute_rest(
    job: BulkJob,
    request: BulkRequest,
    sink: Sink,
    there: Mapping[str, int],
    parts: PartList,
    report: Report,
    artefact: Path | None,
) -> BulkResult:
    done = _parts_there(sink, there, job, parts, report)
    # Before any part: `_refuse_other_job` takes a folder of parts without it for a folder of other things.
    if JOB not in there:
        sink.write(JOB, job_text(job).encode())
    if done:
        were = "was there already, and is kept" if len(done) == 1 else "were there already, and are kept"
        report(Note(text=f"{counted(len(done), 'part')} of {len(parts):,} {were}."))
    kept = len(done)
    # Before hours of work, and not only at the end.
    updated = _differing([*(each.versions for each in done.values()), version_texts()])
    # What this process has says nothing of the machines of a cluster.
    if updated and kept < len(parts) and request.place.kind != "cluster":
        text = f"Packages were updated since parts were computed, so that rows may differ: {updated}."
        report(Note(text=f"{text} Next: for rows of one version, --out with a new folder.", loud=True))
    for each in _computed(job, request, parts, done, report, artefact):
        done[each.number] = each
    far = request.place.kind == "cluster"
    return _finish(sink, job, parts, done, report, computed=len(done) - kept, far=far)


def _some_of_which_exist(addresses: Sequence[Address], unused: UnusedFiles) -> Iterator[FoundFile]:
    """The files, unless there is none of them: then a path is mistyped, and a folder of errors would be in the way."""
    any_there, first = False, None
    # Looked at as they go by, for a listing of millions is not kept. Sizes are those of `FoundFile`: -1 for no file.
    for each in find_files(addresses, unused=unused.add):
        any_there, first = any_there or each.size >= 0, first or each
        yield each
    if not any_there and first is not None:
        raise DataError(f"{printable(first.name)} does not exist.\nNext: check the path; nothing was written.")


def _refuse_other_job(sink: Sink, there: Mapping[str, int], job: BulkJob) -> None:
    if not there:
        return
    text = sink.read(JOB) if JOB in there else None
    if text is None:
        raise Refused(
            f"{sink.address} holds {some(sorted(there), 3)} and no {JOB}: it is no folder of such parts.\n"
            "Next: --out with a new folder."
        )
    try:
        written = json.loads(text)
        digest = written["digest"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{sink.address}/{JOB} cannot be read.\nNext: --out with a new folder.") from None
    if digest != job.digest:
        wanted = json.loads(job_text(job))
        # An older zoo told less of a job, and what it left out need not differ.
        known = [name for name in wanted if name in written and name != "digest"]
        names = sorted(name for name in known if wanted[name] != written[name])
        names = ["task"] if "task" in names else names  # all else differs because of that
        told = ", ".join(f"{name} {_told(name, written)} there, {_told(name, wanted)} asked" for name in names)
        raise Refused(f"{sink.address} holds parts of another job: {told}.\nNext: {_step(names, written, wanted)}")


def _told(name: str, job: Mapping[str, Any]) -> str:
    return f"{job[name][:12]}..." if name == "model" else str(job[name])


def _step(differing: Sequence[str], written: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What to do where a folder was written by a job that differs in this."""
    if PROVIDER in differing and _names_in(written[PROVIDER]) == _names_in(wanted[PROVIDER]):
        return f"--out with a new folder, or install {written[PROVIDER]} again, with which these parts were computed."
    if differing == ["model"]:
        other = "other weights, or another version of the package that provides the backbone, make another model"
        return f"--out with a new folder; {other}."
    return "--out with a new folder, or the same settings."


def _names_in(providers: str) -> list[str]:
    """`timm 1.0.20, zoo-mine 2.1` -> timm, zoo-mine."""
    return [each.partition(" ")[0] for each in providers.split(", ")]


def _parts_there(
    sink: Sink, there: Mapping[str, int], job: BulkJob, parts: PartList, report: Report
) -> dict[int, PartDone]:
    """The parts that need not be computed again. Raises Refused for a file that is no part of this listing."""
    wanted = parts.names()
    found = sorted(name for name in there if number_of(name) is not None)
    for name in found:
        # The name holds the digest of its files. Kept beside parts of another listing, its rows would be there twice.
        if name not in wanted:
            raise Refused(
                f"{sink.address}/{name} is of other files than those that are listed now: "
                "files were added, removed or changed, or the arguments are others.\n"
                "Next: --out with a new folder, or the files as they were."
            )
    done: dict[int, PartDone] = {}
    for name in found:
        number = number_of(name)
        content = sink.read(name)
        assert number is not None
        if content is not None:  # else it went away since the folder was listed, and is computed
            part = parts[number]
            facts = facts_of(content, f"{sink.address}/{name}", job, digest=part.digest, images=wanted[name])
            done[number] = _done_before(number, name, wanted[name], facts)
        report(Progress(task="check finished parts", done=len(done), total=len(found), unit="parts"))
    return done


def _done_before(number: int, name: str, images: int, facts: Mapping[str, Any]) -> PartDone:
    return PartDone(
        number=number,
        name=name,
        images=images,
        unreadable=int(facts["unreadable"]),
        sha256=str(facts["rows_sha256"]),
        device=str(facts.get("device", "")),
        versions=tuple(facts.get("versions", ())),
        process=0,
    )


def _computed(
    job: BulkJob,
    request: BulkRequest,
    parts: PartList,
    done: Mapping[int, PartDone],
    report: Report,
    artefact: Path | None,
) -> Iterator[PartDone]:
    missing = [number for number in range(len(parts)) if number not in done]
    # What was there before is no part of the speed.
    finished, total = 0, parts.images - sum(each.images for each in done.values())

    def told(under_way: int) -> None:
        # Neither none nor all: who reads it takes all for the end, which is told below, once the last part is written.
        if 0 < finished + under_way < total:
            report(Progress(task=job.task, done=finished + under_way, total=total))

    if not missing:
        return
    with contextlib.ExitStack() as stack:
        if request.place.uses_ray:
            computing = stack.enter_context(_on_ray(job, request, parts, missing, report, artefact, told))
        else:
            computing = _in_this_process(job, request, parts, missing, told)
        for each in computing:
            if each.failed is not None:
                raise _failure(*each.failed)
            finished += each.images
            yield each
            report(Progress(task=job.task, done=finished, total=total))


def _in_this_process(
    job: BulkJob, request: BulkRequest, parts: PartList, missing: Sequence[int], told: Any
) -> Iterator[PartDone]:
    from zoo.model.devices import choose_device

    device = choose_device(request.device)
    worker = Worker(job, str(request.out), device=device, workers=resolve_workers(request.workers))
    with one_thread():  # as workers have; and the process keeps its own number afterwards
        for number in missing:
            yield worker.compute(parts[number], told)


@contextlib.contextmanager
def _on_ray(
    job: BulkJob,
    request: BulkRequest,
    parts: PartList,
    missing: Sequence[int],
    report: Report,
    artefact: Path | None,
    told: Any,
) -> Iterator[Iterator[PartDone]]:
    # Here, as what needs torch is above: Ray and torch are loaded only where they are used.
    from zoo.bulk.on_ray import compute_on_ray, device_on
    from zoo.cluster.connect import connected

    with connected(request.place, report, cores=request.processes) as cluster:
        device = device_on(cluster, request.device)
        yield compute_on_ray(
            cluster,
            job,
            str(request.out),
            missing,
            parts.__getitem__,
            device=device,
            processes=request.processes,
            workers=request.workers,
            # Other machines do not see the artefact's folder. A backbone is known to them by its name.
            packed=None if cluster.is_here or artefact is None else packed_folder(artefact),
            told=told,
            report=report,
        )


def _failure(code: str, message: str) -> Exception:
    """The error of a worker, of the same kind as far as programs tell kinds apart."""
    from zoo import errors

    kinds = (
        errors.DataError,
        errors.NoAnswer,
        errors.DeviceError,
        errors.WeightsError,
        errors.ArtefactError,
        errors.FeaturesError,
    )
    return next((kind(message) for kind in kinds if kind.code == code), RunError(message))


def _finish(
    sink: Sink, job: BulkJob, parts: PartList, done: Mapping[int, PartDone], report: Report, *, computed: int, far: bool
) -> BulkResult:
    """Compare what is there with what should be, and write the manifest. `far`: other machines read the files."""
    ordered = [done[number] for number in range(len(parts))]  # workers end them in any order
    there = sink.names()
    gone = [each.name for each in ordered if each.name not in there]
    if gone:
        raise RunError(f"{sink.address}/{gone[0]} is gone.\nNext: the same command computes it again.")
    unreadable = sum(each.unreadable for each in ordered)
    if unreadable == parts.images:
        raise DataError(
            f"None of {counted(parts.images, 'file')} can be read; the column `error` of "
            f"{sink.address}/{ordered[0].name} says why.\n"
            f"Next: {'give workers on other machines files that all of them see' if far else 'mend what it says'}, and "
            "name another --out or remove this one: its parts would be kept."
        )
    versions = Counter(each.versions for each in ordered)
    devices = Counter(each.device for each in ordered)
    manifest = MANIFESTS[job.task]
    content = {
        # As the folder has it: the same job may have been asked for in other words since.
        **json.loads(sink.read(JOB) or job_text(job)),
        "images": parts.images,
        "unreadable": unreadable,
        "devices": dict(sorted(devices.items())),
        "versions": [list(each) for each in versions],
        "parts": [
            {"file": each.name, "images": each.images, "unreadable": each.unreadable, "rows_sha256": each.sha256}
            for each in ordered
        ],
    }
    sink.remove_drafts()
    written = json_text(content).encode()
    if manifest not in there:
        # It says nothing of when or by which call parts were computed, so a repeated command has the same one to write.
        sink.write(manifest, written)
    elif sink.read(manifest) != written:
        raise Refused(f"{sink.address}/{manifest} says something else than the parts.\nNext: remove it.")
    unlike = {"versions of packages": _differing(versions), "devices": " / ".join(devices) if len(devices) > 1 else ""}
    for what, which in unlike.items():
        if which:
            text = f"The parts were computed with different {what}, so that rows may differ: {which}; see {manifest}."
            report(Note(text=text, loud=True))
    if unreadable:
        text = f"{counted(unreadable, 'file')} of {parts.images:,} could not be read: the column `error` says why."
        report(Note(text=text, loud=True))
    return BulkResult(
        out=str(sink.address),
        task=job.task,
        images=parts.images,
        unreadable=unreadable,
        parts=tuple(each.name for each in ordered),
        computed=computed,
        manifest=manifest,
    )


def _differing(versions: Iterable[Sequence[str]]) -> str:
    """`torch 2.9.0 / 2.10.0, zoo-registry 0.1.0 / none`: the packages of which there are several versions."""
    columns = [dict(text.split(" ", 1) for text in each) for each in dict.fromkeys(map(tuple, versions)) if each]
    found = {name: list(dict.fromkeys(each.get(name, "none") for each in columns)) for each in columns for name in each}
    return ", ".join(f"{name} {' / '.join(found[name])}" for name in sorted(found) if len(found[name]) > 1)


def refuse_small(name: str, value: int | None) -> None:
    """Raise OptionError for a number below 1."""
    if value is not None and value < 1:
        raise OptionError(f"--{name} must be at least 1, got {value}.\nNext: leave --{name} out, for the usual one.")
