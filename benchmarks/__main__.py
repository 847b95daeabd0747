"""How fast zoo is, beside a well-written plain PyTorch loop and fastai.

    pip install -e '.[bench]'
    python -m benchmarks --list
    python -m benchmarks [--only NAME...] [--quick] [--results FILE.jsonl]
    python -m benchmarks --table
    python -m benchmarks floor --help          zoo's time as a share of the least that this machine allows

Works on real images need ZOO_TEST_DATA, a folder with `data/NAME` (train/ and val/) and
`weights/squeezenet1_1.safetensors`; all others draw their images and take random weights. Every run is a process of its
own; the programs of a work take turns, so that a machine that slows down slows all of them; repeat N has seed N - 1.

`training parts` is what a program does after its imports up to its result, decoding, features and validation included;
for zoo the checks of the proof and the saved classifier too. Each zoo run has an empty cache folder, so it measures
which precision is fastest and computes its features itself, unless its name says otherwise. Peers compute in float32,
as people write them; a second hand-written loop in bfloat16 and channels-last shows how much of a ratio is precision.

A run that has a row in the file of results is not run again; take a new file for other code. Leave the machine alone
meanwhile: other work falsifies it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from zoo.process import keep_freed_memory, share_the_processor
from zoo.storage.cache import cache_folder

from benchmarks.place import Place
from benchmarks.programs import Failed
from benchmarks.rows import Run, append_row, missing, read_rows
from benchmarks.speed_table import work_table
from benchmarks.works import WORKS, Peer, Work, Zoo, run_of


def measure(work: Work, place: Place, results: Path, *, repeats: int) -> int:
    """Carry out what has no row yet, the programs in turns -> how many runs failed."""
    reasons = {program.name: place.reason_to_skip(work, program) for program in work.programs}
    for name in (name for name, reason in reasons.items() if reason):
        print(f"{work.name}: {name}: skipped, {reasons[name]}", flush=True)
    failed = 0
    for seed in range(repeats):
        for program in work.programs:
            run = run_of(work, program, seed, smoke=place.smoke)
            if not reasons[program.name] and missing([run], read_rows(results)):
                failed += not _measured(work, program, run, place, results)
    place.discard(work)
    return failed


def _measured(work: Work, program: Zoo | Peer, run: Run, place: Place, results: Path) -> bool:
    named = f"{work.name}: {program.name}, repeat {run.seed + 1}"
    try:
        row = place.carry_out(work, program, run.seed)
    except Failed as error:
        print(f"{named}: failed\n{error}", file=sys.stderr, flush=True)
        return False
    append_row(results, run, {**row, "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"})
    ended = "refused" if "refused" in row else f"{row['seconds']:.1f} s, whole process {row['process_seconds']:.1f} s"
    print(f"{named}: {ended}", flush=True)
    return True


def main() -> int:
    if sys.argv[1:2] == ["floor"]:
        return _floor(sys.argv[2:])
    given = _arguments()
    chosen = [work for work in WORKS if work.name in given.only]
    if given.list:
        print("\n".join(f"{work.name:<30} {work.title}" for work in WORKS))
        return 0
    failed = 0
    if not given.table:
        named = os.environ.get("ZOO_TEST_DATA")
        place = Place(
            real=Path(named).resolve() if named else None,
            photos=cache_folder() / "benchmarks",
            fastai_python=given.fastai_python,
            smoke=given.smoke,
        )
        failed = sum(measure(work, place, given.results, repeats=given.repeats) for work in chosen)
    tables = [work_table(work, read_rows(given.results), smoke=given.smoke) for work in chosen]
    print("\n\n".join(filter(None, tables)))
    return 1 if failed else 0


def _floor(words: list[str]) -> int:
    # As the command does, before torch is imported.
    share_the_processor()
    keep_freed_memory()
    from benchmarks import floor

    return floor.main(words)


def _arguments() -> argparse.Namespace:
    names = [work.name for work in WORKS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME", help="works; see --list")
    parser.add_argument("--repeats", type=int, default=3, help="of every program; each has its own seed")
    parser.add_argument("--quick", dest="repeats", action="store_const", const=1, help="one repeat")
    parser.add_argument("--results", type=Path, default=Path("benchmarks.jsonl"), help="JSON lines; appended to")
    parser.add_argument("--table", action="store_true", help="print tables of the results, run nothing")
    parser.add_argument("--list", action="store_true", help="name the works, run nothing")
    parser.add_argument("--fastai-python", default=sys.executable, metavar="PATH", help="of an environment with fastai")
    parser.add_argument("--smoke", action="store_true", help="single epochs on few images: whether it runs, no times")
    given = parser.parse_args()
    unknown = [name for name in given.only if name not in names]
    if unknown:
        parser.error(f"there is no work {unknown[0]!r}; there are: {', '.join(names)}")
    if given.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {given.repeats}")
    return given


if __name__ == "__main__":
    sys.exit(main())
