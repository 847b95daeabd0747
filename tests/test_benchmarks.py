"""The parts of the benchmarks of speed that decide what is compared with what, and what all benchmarks share."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import zoo
from benchmarks import abandoned, asked, checking, floor, flops, gpu, host_waits, programs
from benchmarks.__main__ import measure
from benchmarks.fixed_batch import features_flops, training_flops, training_rate
from benchmarks.peers.task import Stage, Task
from benchmarks.photos import SIZE, photos
from benchmarks.place import Place
from benchmarks.rows import Row, Run, append_row, missing, read_rows
from benchmarks.rows import run_of as run_from_row
from benchmarks.speed_table import work_table
from benchmarks.splits import labelled, read_used
from benchmarks.works import WORKS, Images, Work, Zoo, run_of
from PIL import Image


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
    assert [run_from_row(row) for row in read_rows(results)] == [asked[1], changed]


def test_a_row_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    first, second = (Run(program="plain", data="flowers5", seed=seed) for seed in range(2))
    append_row(results, first, {"accuracy": 0.9})
    with results.open("a") as file:
        file.write('{"run": {"progr')
    assert missing([first, second], read_rows(results)) == [second]
    append_row(results, second, {"accuracy": 0.8})
    assert [run_from_row(row) for row in read_rows(results)] == [first, second]


def _row(program: str, *, seconds: float, accuracy: float = 0.9, **more: object) -> Row:
    told = next((each for each in WORKS[0].programs if each.name == program), WORKS[0].programs[0])
    run = run_of(WORKS[0], told, seed=0)
    return {"run": asdict(run), "seconds": seconds, "process_seconds": seconds + 4, "accuracy": accuracy, **more}


def test_what_is_asked_is_asked_of_the_medians() -> None:
    results = {
        "zoo": [_row("zoo", seconds=each) for each in (2.0, 3.0, 90.0)],
        "plain": [_row("plain", seconds=each) for each in (60.0, 75.0, 76.0)],
    }
    assert asked.faster(25, "plain").found(results) == 25
    assert asked.faster(25, "plain").line(results).endswith("| at least 25 | 25 | yes |")
    assert "| 11.3 | **no** |" in asked.faster(12, "plain", quantity="whole process").line(results)
    assert asked.faster(2, "fastai").line(results).endswith("| not measured | |")


def test_half_a_point_of_accuracy_is_no_difference_and_more_is() -> None:
    plain = [_row("plain", seconds=1, accuracy=each) for each in (0.90, 0.92, 0.94)]
    for reached, met in ((0.915, True), (0.914, False), (0.96, True)):
        wanted = asked.as_accurate("plain")
        assert wanted.met(wanted.found({"plain": plain, "zoo": [_row("zoo", seconds=1, accuracy=reached)]})) is met


def test_a_share_is_of_the_same_run() -> None:
    def trained(rate: float, fixed: float) -> Row:
        return _row("zoo", seconds=1, stages=[{"images_per_second": rate}], fixed_images_per_second=fixed)

    wanted = asked.share(0.9, "images/s", "images/s, fixed batch")
    rows = [trained(95, 100), trained(19, 20), trained(10, 100)]
    assert wanted.found({"zoo": rows}) == pytest.approx(0.95)


def test_time_that_grows_with_the_images_beside_a_fixed_start_is_linear() -> None:
    counts = {"few": 250, "some": 1000, "many": 4000}
    wanted = asked.linear(1.1, counts)
    straight = {name: [_row(name, seconds=5 + count / 100)] for name, count in counts.items()}
    assert wanted.found(straight) == pytest.approx(1)
    bent = {name: [_row(name, seconds=(count / 100) ** 1.2)] for name, count in counts.items()}
    assert not wanted.met(wanted.found(bent))


def test_memory_is_compared_by_how_much_more_it_is() -> None:
    wanted = asked.no_more_than(200, "peak MB", program="many", over="few")
    results = {name: [_row(name, seconds=1, peak_mb=peak)] for name, peak in (("few", 900.0), ("many", 1101.0))}
    assert wanted.found(results) == pytest.approx(201)
    assert not wanted.met(wanted.found(results))


def test_everything_asked_names_programs_of_its_work() -> None:
    for work in WORKS:
        names = [program.name for program in work.programs]
        assert len(set(names)) == len(names)
        assert {name for each in work.asked for name in each.programs} <= set(names), work.name


def test_what_a_program_is_told_makes_its_key() -> None:
    keys = [run_of(work, program, seed) for work in WORKS for program in work.programs for seed in range(2)]
    assert len(set(keys)) == len(keys)
    work = WORKS[0]
    changed = replace(work.programs[0], stages=(Stage("head", 9),))  # type: ignore[call-arg]
    assert run_of(work, changed, 0) not in keys
    assert run_of(work, work.programs[0], 0, smoke=True) not in keys
    assert run_of(work, work.programs[0], 0) == run_from_row({"run": asdict(keys[0])}) == keys[0]


def test_works_that_cannot_be_run_here_say_why() -> None:
    place = Place(real=None, photos=Path("nowhere"))
    reasons = {work.name: place.reason_to_skip(work, work.programs[0]) for work in WORKS}
    assert "ZOO_TEST_DATA" in reasons["flowers5_default"]
    assert not reasons["linear"]
    unknown = replace(WORKS[-1], needs="no_such_key")
    assert "do not know the key 'no_such_key'" in place.reason_to_skip(unknown, unknown.programs[0])


def test_generated_photographs_are_complete_and_no_two_files_are_the_same(tmp_path: Path) -> None:
    folder = photos(tmp_path, 50, different=25)
    dataset = read_used(folder, skipped=[])
    assert [len(dataset.splits[split]) for split in ("train", "val")] == [40, 10]
    files = [path.read_bytes() for path in folder.rglob("*.jpg")]
    assert len(set(files)) == 50
    first, repeated = (Image.open(folder / name) for name in ("val/class0/00000.jpg", "val/class0/00005.jpg"))
    assert first.size == SIZE and first.tobytes() == repeated.tobytes()


def test_the_table_of_a_work_has_medians_and_what_was_asked() -> None:
    work = WORKS[0]
    rows = [_row("plain", seconds=each) for each in (80.0, 90.0, 85.0)]
    rows += [_row("zoo", seconds=each, parts={"features": 1.0}) for each in (3.0, 4.0, 2.0)]
    table = work_table(work, rows)
    assert "| plain | 3 | float32 | 0.900 | 85.0 | 89.0 |  |" in table
    assert "| zoo | 3 | float32 | 0.900 | 3.00 | 7.00 | 1.00 |" in table
    assert "| training parts: zoo, times faster than plain | at least 25 | 28.3 | yes |" in table
    assert work_table(work, []) == work_table(work, rows, smoke=True) == ""


@pytest.mark.long
def test_the_hand_written_loop_trains_each_stage_as_the_task_says(few: Path, tmp_path: Path) -> None:
    dataset = read_used(few, skipped=[])
    train, test = (labelled(dataset.splits[split]) for split in ("train", "val"))
    task = Task(
        classes=list(dataset.classes),
        train=train,
        test=test,
        weights="",
        seed=0,
        backbone="resnet18",
        stages=[Stage("head", 1), Stage("all", 1)],
        precision="bfloat16",
    )
    row = programs.peer("plain", task, temporary=tmp_path)
    assert row["recipe"] == "1 epochs head, 1 epochs all" and row["precision"] == "bfloat16"
    assert 0 <= row["accuracy"] <= 1 and 0 < row["seconds"] < row["process_seconds"]


@pytest.mark.long
def test_operations_of_a_step_are_three_times_those_of_features_where_everything_trains(few: Path) -> None:
    recipe = str(Path(gpu.__file__).with_name("gpu.toml"))
    plan = zoo.plan(backbone="timm/test_resnet", data=few, recipe=recipe, weights="random", tune=False, device="cpu")
    forward = features_flops(plan)
    head, last, everything = (training_flops(plan, stage) for stage in plan.stages)
    # The first convolution needs no gradient of its images.
    assert 2.5 * forward < everything < 3.05 * forward
    assert forward < head < 1.01 * forward < last < everything
    assert training_rate(plan, plan.stages[-1], seconds=0.01) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    assert gpu.main() == 1
    assert "torch sees no CUDA device" in capsys.readouterr().err


def _gpu_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", "--device", "cpu", "--small", *words])
    return gpu.main()


@pytest.mark.long
def test_the_benchmark_of_a_gpu_runs_on_a_cpu_and_its_numbers_can_be_true(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gpu_main(monkeypatch) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| timm/")]
    assert [row[2] for row in rows] == ["features", "head", "last", "all"] * 3
    assert all(float(row[9]) < 2 for row in rows if row[9])  # a CPU is asked once a step, and once an epoch


@pytest.mark.long
def test_the_benchmark_of_a_gpu_is_red_where_operations_are_miscounted_and_names_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gpu_main(monkeypatch, "--budget", "0.001") == 0
    assert "Left out for want of time: timm/test_resnet: run; " in capsys.readouterr().out
    counted = flops.counted
    monkeypatch.setattr(flops, "counted", lambda *arguments: 2 * counted(*arguments))
    assert _gpu_main(monkeypatch, "--budget", "0.001") == 1
    assert "Wrong: timm/test_vit: 3.006e+08 operations are counted, by formula there are 1.503e+08" in (
        capsys.readouterr().err
    )


def test_shares_above_the_possible_and_times_that_do_not_add_up_are_faults(capsys: pytest.CaptureFixture[str]) -> None:
    size = gpu.Size(backbones=(), images=25, batch=2, seconds=1, matrix=8, most=gpu.MOST)
    true = gpu.Measured(named=("net", "bfloat16", "all"), run=90, fixed=100, flops=1e9)
    assert list(true.faults(size, best=1e12)) == []
    assert true.line(best=1e12) == "| net | bfloat16 | all | 1.00 | 90 | 100 | 0.90 | 0.1 | 10.0% |  |  |"
    faster = replace(true, run=120)
    assert ["more than all of it" in fault for fault in faster.faults(size, best=5e10)] == [True, True]
    budget = gpu.Budget(10, began=gpu.time.perf_counter() - 9)
    assert gpu.end(budget, []) == 1  # nine seconds went to nothing
    assert "Wrong: the parts take 0.0 s, and the whole 9.0 s" in capsys.readouterr().err
    budget.spent["run"] = 8.9
    assert gpu.end(budget, []) == 0 and "9 s of 10: run 9 s" in capsys.readouterr().out


def test_what_python_asks_of_tensors_is_counted() -> None:
    with host_waits.HostReads() as reads:
        values = torch.arange(3.0)
        assert values.sum().item() == 3 and values.tolist()[1] == 1 and bool(values.any()) and float(values[2]) == 2
        values.square().sum()
    assert reads.count == 4


@pytest.mark.long
def test_the_check_of_data_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.checking", "--files", "25", "--rounds", "1"])
    assert checking.main() == 0
    assert capsys.readouterr().out.startswith("25 pictures: ")
    monkeypatch.setattr(sys, "argv", ["benchmarks.checking", "--files", "26"])
    with pytest.raises(SystemExit):
        checking.main()
    assert "26 pictures do not go into 5 classes" in capsys.readouterr().err


@pytest.mark.long
def test_a_work_is_measured_once_and_leaves_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = Zoo(recipe="head_only", epochs=2)
    fast = asked.at_most(1000, "training parts")
    work = Work(
        name="tiny",
        title="tiny",
        backbone="timm/test_vit",
        images=Images(count=25),
        programs=(program,),
        asked=(fast,),
    )
    place, results = Place(real=None, photos=tmp_path / "photos"), tmp_path / "results.jsonl"
    assert measure(work, place, results, repeats=1) == 0
    assert "tiny: zoo, repeat 1:" in capsys.readouterr().out
    assert measure(work, place, results, repeats=1) == 0  # there is a row
    (row,) = read_rows(results)
    assert run_from_row(row) == run_of(work, program, seed=0)
    assert row["images"] == {"train": [4] * 5, "val": [1] * 5}
    assert 0 < row["parts"]["features"] < row["seconds"] < row["process_seconds"]
    assert row["stages"][0]["images_per_second"] > 0
    assert "| at most 1,000 |" in work_table(work, [row])


def test_the_rule_for_giving_up_is_replayed_on_a_run(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", data=few, epochs=80)
    (tmp_path / "plan.json").write_text(plan.model_dump_json(), "utf-8")
    ends = {"head": [(0.8, 0.5)], "last": [(0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.9, 1.0)], "all": [(0.7, 1.1)] * 4}
    lines = [
        json.dumps({"stage": stage, "seconds": 2.0, "val": {"accuracy": accuracy, "macro_f1": 0.5, "loss": loss}})
        for stage, epochs in ends.items()
        for accuracy, loss in epochs
    ]
    (tmp_path / "history.jsonl").write_text("\n".join(lines), "utf-8")
    last, everything = abandoned.replay(tmp_path)
    assert (last.given_up, last.saved, last.wrong_by_accuracy, last.wrong_by_loss) == (2, 4.0, True, False)
    # `last` became the best, so it is what `all` has to beat.
    assert everything.rival == last.end and everything.given_up == 2 and not everything.wrong_by_accuracy
    assert abandoned.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "given up: 2; saved: 4 of 8 epochs, 8 of 16 s" in told and "wrong by accuracy: 1" in told
    with pytest.raises(SystemExit):
        abandoned.main([str(few)])
    assert "no run with plan.json and history.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(("backbone", "batch_norms"), [("timm/test_resnet", 15), ("timm/test_efficientnet", 13)])
def test_folded_batch_norms_give_the_same_features(backbone: str, batch_norms: int) -> None:
    model = zoo.create_model(backbone, classes=2, weights="random", input_size=(64, 64)).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -1, 1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model.features(images)
        assert floor.fold_batch_norms(model.backbone, images) == batch_norms
        after = model.features(images)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4) and not torch.equal(before, after)


def test_the_floor_is_the_fastest_of_each_and_misses_are_told() -> None:
    found = floor.Floor(
        images=400,
        decoding={"1 threads": 100.0, "2 threads": 200.0},
        forward={"float32, contiguous": 50.0, "bfloat16, channels_last": 100.0},
        warm_up=0.0,
        step={"float32, contiguous": 10.0},
        imports=2.0,
    )
    assert found.seconds == 400 / 200 + 400 / 100
    near, far = ({"parts": {"total": each, "data": 2.0}, "process_seconds": 1.4 * each} for each in (7.0, 8.0))
    assert "missed" not in "".join(floor.told(found, [near])) and "1.17 floors" in "".join(floor.told(found, [near]))
    lines = floor.told(found, [far])
    assert "training part: 1.33 floors (goal 1.25), missed" in lines
    assert "whole process: 11.20 s (goal 10.50 s), missed" in lines
    assert floor.told(found, [])[-1].startswith("floor of 400 images: 6.00 s")
