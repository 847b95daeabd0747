"""The parts of the benchmarks that decide what is compared with what."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.rows import Run, append_row, missing, read_rows, run_of
from benchmarks.splits import halve, read_used
from benchmarks.table import head_verdict, interval, tables


def test_halves_are_complete_disjoint_and_stratified(shapes: Path) -> None:
    dataset = read_used(shapes, skipped=["val/red/0.jpg"])
    halved = halve(dataset, seed=3)
    chosen, compared = ({file.relative for file in half} for half in (halved.selection, halved.comparison))
    assert not chosen & compared
    assert chosen | compared == {file.relative for file in dataset.splits["val"]}
    assert "val/red/0.jpg" not in chosen | compared
    # Classes in natural order: blue, green, red with one file less.
    assert halved.counts() == {"train": [12, 12, 12], "val": [3, 3, 2], "test": [3, 3, 3]}


def test_a_seed_always_draws_the_same_halves_and_another_seed_others(shapes: Path) -> None:
    dataset = read_used(shapes, skipped=[])
    assert halve(dataset, seed=1) == halve(dataset, seed=1)
    assert halve(dataset, seed=1).selection != halve(dataset, seed=2).selection


def test_zoo_reads_from_the_linked_folder_what_the_peers_are_given(shapes: Path, tmp_path: Path) -> None:
    halved = halve(read_used(shapes, skipped=[]), seed=0)
    linked = read_used(halved.link(shapes / "train", tmp_path / "linked"), skipped=[])
    task = halved.task(weights=tmp_path / "weights", seed=0)
    assert list(linked.classes) == task.classes
    for split, files in (("train", task.train), ("test", task.test)):
        found = [(str(file.path.resolve()), file.label) for file in linked.splits[split]]  # type: ignore[index]
        assert sorted(found) == sorted((file.path, file.label) for file in files)
    assert len(linked.splits["val"]) == len(halved.selection)


def test_the_interval_is_that_of_student() -> None:
    values = [0.90, 0.92, 0.94, 0.96, 0.98]
    assert interval(values) == pytest.approx(2.776 * statistics.stdev(values) / 5**0.5)
    assert interval([0.9]) is None
    assert interval([0.0, 1.0] * 50) == pytest.approx(1.96 * statistics.stdev([0.0, 1.0] * 50) / 10)


def test_runs_that_have_a_row_are_not_run_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    asked = [Run(program="zoo", data="flowers5", seed=seed, recipe="staged", head="cosine") for seed in range(3)]
    assert missing(asked, read_rows(results)) == asked
    append_row(results, asked[1], {"accuracy": 0.9})
    assert missing(asked, read_rows(results)) == [asked[0], asked[2]]
    changed = Run(
        program="zoo", data="flowers5", seed=1, recipe="staged", head="cosine", settings=("all.lr=1e-4",), label="lr"
    )
    assert missing([changed], read_rows(results)) == [changed]
    append_row(results, changed, {"accuracy": 0.8})
    assert [run_of(row) for row in read_rows(results)] == [asked[1], changed]


def test_a_row_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    first, second = (Run(program="plain", data="flowers5", seed=seed) for seed in range(2))
    append_row(results, first, {"accuracy": 0.9})
    with results.open("a") as file:
        file.write('{"run": {"progr')
    assert missing([first, second], read_rows(results)) == [second]
    append_row(results, second, {"accuracy": 0.8})
    assert [run_of(row) for row in read_rows(results)] == [first, second]


def test_the_tables_say_where_the_head_alone_was_better_than_what_was_kept() -> None:
    names = {"head": (0.92, True), "all": (0.9, False)}
    stages = [{"name": name, "accuracy": reached, "head_only": alone} for name, (reached, alone) in names.items()]
    run = asdict(Run(program="zoo", data="bees", seed=0, recipe="staged", head="cosine"))
    numbers = {"accuracy": 0.9, "seconds": 10.0, "process_seconds": 14.0, "peak_mb": 800.0}
    good = {"run": run, **numbers, "stages": stages, "selection_accuracy": 0.92, "kept": "head"}
    assert "In none of 1 runs" in head_verdict([good])
    bad = {"run": {**run, "seed": 1}, **numbers, "stages": stages, "selection_accuracy": 0.9, "kept": "all"}
    assert "bees, zoo, staged, cosine, seed 1: 0.920 > 0.900" in head_verdict([good, bad])
    assert "| zoo | staged | cosine | 2 | 0.900 ± 0.000 | 10 | 14 | 800 | head 1, all 1 |" in tables([good, bad])
