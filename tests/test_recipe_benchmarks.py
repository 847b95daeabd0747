"""The benchmark of recipes: who gets which images, what is asked, and what the tables make of it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import scipy.stats
import torch
import zoo
from benchmarks import recipes, sets
from benchmarks.campaign import FIRST, Asked
from benchmarks.paired import Pair, beside, better, interval, overall, paired
from benchmarks.peers.networks import Network, width
from benchmarks.rows import Row, Run, append_row, missing, read_rows, run_of
from benchmarks.splits import few, halve, read_used, unseen
from benchmarks.table import head_verdict, tables
from safetensors.torch import save_file

Told = Callable[..., int]
"""Words of the command line -> its exit status."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """`python -m benchmarks.recipes` in this process, without ZOO_TEST_DATA."""
    monkeypatch.delenv("ZOO_TEST_DATA", raising=False)

    def tell(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks.recipes", *map(str, words)])
        return recipes.main()

    return tell


def _names(files: Sequence[Any]) -> set[str]:
    return {file.relative for file in files}


def test_halves_are_complete_disjoint_and_stratified(shapes: Path) -> None:
    dataset = read_used(shapes, skipped=["val/red/0.jpg"])
    halved = halve(dataset, seed=3)
    chosen, compared = _names(halved.selection), _names(halved.comparison)
    assert not chosen & compared
    assert chosen | compared == _names(dataset.splits["val"])
    assert "val/red/0.jpg" not in chosen | compared
    # Classes in natural order: blue, green, red with one file less.
    assert halved.counts() == {"train": [12, 12, 12], "val": [3, 3, 2], "test": [3, 3, 3]}


def test_a_seed_always_draws_the_same_halves_and_another_seed_others(shapes: Path) -> None:
    dataset = read_used(shapes, skipped=[])
    assert halve(dataset, seed=1) == halve(dataset, seed=1)
    assert halve(dataset, seed=1).selection != halve(dataset, seed=2).selection


def test_fewer_images_a_class_are_among_more_of_them_and_another_seed_draws_others(shapes: Path) -> None:
    everything = halve(read_used(shapes, skipped=[]), seed=0)
    some, more = few(everything, 2, seed=0), few(everything, 7, seed=0)
    assert some.counts()["train"] == [2, 2, 2] and more.counts()["train"] == [7, 7, 7]
    assert _names(some.train) < _names(more.train) < _names(everything.train)
    assert (some.selection, some.comparison) == (everything.selection, everything.comparison)
    assert few(everything, 2, seed=1).train != some.train
    with pytest.raises(ValueError, match="13 training images a class were asked for; 'blue' has 12"):
        few(everything, 13, seed=0)


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Path:
    """A folder with train/ and test/, and no val/."""
    for split, there in (("train", "train"), ("test", "val")):
        (tmp_path / split).symlink_to(shapes / there)
    return tmp_path


def test_nobody_chooses_by_the_images_of_a_test_folder(folder: Path) -> None:
    drawn = unseen(read_used(folder, skipped=[]))
    assert drawn.counts() == {"train": [12, 12, 12], "test": [6, 6, 6]}
    assert drawn.are_used({"train": [9, 9, 9], "val": [3, 3, 3], "test": [6, 6, 6]})
    assert not drawn.are_used({"train": [9, 9, 8], "val": [3, 3, 3], "test": [6, 6, 6]})
    assert not drawn.are_used({"train": [9, 9, 9], "val": [3, 3, 3]})


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize("per_class", [0, 5])
def test_zoo_reads_from_the_linked_folder_what_the_peers_are_given(
    shapes: Path, folder: Path, halved: bool, per_class: int
) -> None:
    image_set = sets.ImageSet("shapes", shapes / "train", shapes / "val", halved)
    dataset = read_used(shapes if halved else folder, skipped=[])
    images = image_set.drawn(dataset, seed=0, per_class=per_class)
    linked = read_used(images.link(folder / "linked"), skipped=[])
    task = images.task(backbone="resnet18", weights="", seed=0)
    assert list(linked.classes) == task.classes
    assert images.are_used({split: counts for split, counts in linked.counts().items()})
    # Without images to choose by, zoo's are among those that the peers train on.
    trained = [*linked.splits["train"], *([] if halved else linked.splits["val"])]
    assert len(task.train) == 3 * (per_class or 12) and len(task.test) == (9 if halved else 18)
    for files, peers in ((trained, task.train), (linked.splits["test"], task.test)):
        found = [(str(file.path.resolve()), file.label) for file in files]
        assert sorted(found) == sorted((file.path, file.label) for file in peers)


@pytest.mark.long
def test_a_set_is_read_at_its_real_places_without_what_zoo_skips(shapes: Path, tmp_path: Path) -> None:
    train = tmp_path / "anywhere"
    copytree(shapes / "train", train)
    (train / "red" / "placeholder.gif").write_bytes(b"no picture")
    for image_set in (sets.given(train, shapes / "val"), sets.ImageSet("x", train, shapes / "val", halved=True)):
        dataset = image_set.read()
        judged = dataset.splits["val" if image_set.halved else "test"]
        assert {file.path for file in judged} == {path.resolve() for path in (shapes / "val").rglob("*.jpg")}
        everything = [file.path for files in dataset.splits.values() for file in files]
        assert len(everything) == 36 + 18 and train / "red" / "placeholder.gif" not in everything


def test_everything_is_combined_and_the_first_seed_comes_first() -> None:
    asked = Asked(
        backbones=["a", "b"],
        data=["x", "y"],
        programs=["zoo", "plain", "fastai"],
        seeds=[0, 1],
        per_class=[5, 0],
        variants=[("default", "default"), ("full", "default")],
        settings=("head.lr=1",),
        label="rate",
    )
    runs = asked.runs()
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 2 * 4
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {(run.program, run.recipe, run.label) for run in runs} == {
        ("plain", "", ""),
        ("fastai", "", ""),
        ("zoo", "default", "rate"),
        ("zoo", "full", "rate"),
    }
    assert len({(run.backbone, run.data, run.per_class, run.seed) for run in runs[:4]}) == 1


def test_recipes_may_name_their_own_head(shapes: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("")
    words = ["--train", f"{shapes}/train", "--test", f"{shapes}/test", "--weights", "random", "--programs", "zoo"]
    words += ["--recipes", f"default,head_only:prototype,{recipe},full:linear", "--heads", "cosine,default"]
    asked, _ = recipes.understood(recipes.parser().parse_args(words))
    assert asked.variants == [
        ("default", "cosine"),
        (str(recipe), "cosine"),
        ("default", "default"),
        (str(recipe), "default"),
        ("head_only", "prototype"),
        ("full", "linear"),
    ]


def test_rows_from_before_networks_were_named_are_of_the_first_one(tmp_path: Path) -> None:
    run = Run(program="fastai", data="flowers5", seed=0)
    old = {name: value for name, value in asdict(run).items() if name not in ("backbone", "weights", "per_class")}
    (tmp_path / "rows.jsonl").write_text("")
    rows: list[Row] = [{"run": old, "recipe": "fine_tune", "head": "own", "accuracy": 0.8, "seconds": 9.0}]
    asked = [replace(run, backbone=FIRST), replace(run, backbone="timm/other")]
    assert missing(asked, rows, backbone=FIRST) == asked[1:]
    assert run_of(rows[0]) == run
    rows[0] |= {"process_seconds": 12.0, "peak_mb": 900.0}
    assert f"### flowers5, {FIRST}" in tables(rows)
    assert "| fastai | fine_tune | own | 1 | 0.800 | 9 | 12 |  | 900 |  |" in tables(rows)


def _row(program: str, accuracy: float, *, seed: int = 0, seconds: float = 10.0, **about: Any) -> Row:
    told = {"recipe": "default", "head": "default"} if program == "zoo" else {}
    run = Run(**{"program": program, "data": "bees", "seed": seed, "backbone": "net", **told, **about})
    measured = {"seconds": seconds, "process_seconds": seconds + 4, "cpu_seconds": 2 * seconds, "peak_mb": 800.0}
    return {"run": asdict(run), "accuracy": accuracy, "judged": 50, "recipe": "staged", "head": "linear", **measured}


def test_the_interval_is_that_of_student() -> None:
    values = [0.90, 0.92, 0.94, 0.96, 0.98]
    assert interval(values) == pytest.approx(2.776 * statistics.stdev(values) / 5**0.5)
    assert interval([0.9]) is None
    for count in (2, 17, 32, 40, 100):
        values = [float(number % 3) for number in range(count)]
        quantile = scipy.stats.t.ppf(0.975, count - 1)
        assert interval(values) == pytest.approx(quantile * statistics.stdev(values) / count**0.5, rel=5e-4)


def test_variants_are_compared_on_the_seeds_that_both_have() -> None:
    ours = {seed: _row("zoo", 0.9 + seed / 100, seed=seed, seconds=3) for seed in range(3)}
    theirs = {seed: _row("plain", 0.8 + seed / 100, seed=seed) for seed in range(1, 4)}
    found = beside(ours, theirs)
    assert found is not None and set(found.differences) == {1, 2}
    assert found.mean == pytest.approx(0.1) and found.interval == pytest.approx(0, abs=1e-9)
    assert found.seconds == found.cpu_seconds == pytest.approx(0.3)
    assert not found.is_below
    reverse = beside(theirs, ours)
    assert reverse is not None and reverse.is_below
    assert beside({0: ours[0]}, {1: theirs[1]}) is None


def test_a_difference_within_its_interval_or_of_one_seed_is_not_below() -> None:
    theirs = {seed: _row("plain", 0.9, seed=seed) for seed in range(3)}
    ours = {seed: _row("zoo", reached, seed=seed) for seed, reached in enumerate((0.85, 0.91, 0.92))}
    noisy, single = beside(ours, theirs), beside({0: ours[0]}, theirs)
    assert noisy is not None and noisy.mean < 0 and not noisy.is_below
    assert single is not None and single.interval is None and not single.is_below


def test_the_better_peer_is_that_with_the_higher_mean_on_seeds_that_all_have() -> None:
    ours = {seed: _row("zoo", 0.9, seed=seed) for seed in range(2)}
    first = {0: _row("plain", 0.5), 1: _row("plain", 0.8, seed=1)}
    second = {1: _row("fastai", 0.7, seed=1), 2: _row("fastai", 0.99, seed=2)}
    assert better(ours, [first, second]) == {1: first[1]}


def test_every_pair_has_the_same_weight_and_the_interval_is_by_seed() -> None:
    def differing(*differences: float) -> Any:
        ours = {seed: _row("zoo", 0.8 + each, seed=seed) for seed, each in enumerate(differences)}
        return beside(ours, {seed: _row("plain", 0.8, seed=seed) for seed in range(5)})

    mean, half = overall([differing(0.02, 0.04, 0.06), differing(0.1, 0.1)])
    assert mean == pytest.approx((0.04 + 0.1) / 2)
    # The two seeds that both pairs have: 0.06 and 0.07.
    assert half == pytest.approx(12.706 * statistics.stdev([0.06, 0.07]) / 2**0.5)


def test_of_two_rows_about_the_same_run_the_later_counts() -> None:
    ((by_pair),) = paired([_row("zoo", 0.1), _row("zoo", 0.9)]).values()
    assert by_pair[Pair("net", "", "bees", 0)][0]["accuracy"] == 0.9


def test_the_tables_set_the_default_beside_every_peer_and_baseline() -> None:
    rows = []
    for seed in range(2):
        for backbone, ours in (("net", 0.90), ("web", 0.80)):
            about = {"seed": seed, "backbone": backbone}
            rows += [
                _row("zoo", ours, seconds=3, **about),
                _row("zoo", 0.85, seconds=1, recipe="head_only", label="today", **about),
                _row("plain", 0.86, **about),
                _row("fastai", 0.84, seconds=12, **about),
            ]
    found = tables(rows)
    assert "### bees, net (50 images)" in found and "### bees, web (50 images)" in found
    assert "| zoo | staged (default) | linear (default) | 2 | 0.900 ± 0.000 | 3 | 7 | 6 | 800 |  |" in found
    assert "### zoo default default beside the others, all training images" in found
    assert "| plain | 2 | -1.0 ± 0.0 | bees, web | -6.0 ± 0.0 | bees, web | 0.30 | 0.30 |" in found
    assert "| fastai | 2 | +1.0 ± 0.0 | bees, web | -4.0 ± 0.0 | bees, web | 0.25 | 0.25 |" in found
    assert "| zoo head_only default (today) | 2 | +0.0 ± 0.0 | bees, web | -5.0 ± 0.0 | bees, web | 3.00 |" in found
    assert "| the better peer | 2 | -1.0 ± 0.0 |" in found
    assert "| bees, net | 2 | 0.900 | +5.0 ± 0.0 | +4.0 ± 0.0 | +6.0 ± 0.0 | +4.0 ± 0.0 |" in found
    other = tables(rows, judge="zoo head_only default (today)")
    assert "### zoo head_only default (today) beside the others" in other
    with pytest.raises(LookupError, match="no row is of 'zoo full'; there are: zoo default default, "):
        tables(rows, judge="zoo full")


def test_few_images_a_class_have_a_summary_of_their_own() -> None:
    rows = [_row(name, 0.9, per_class=count) for name in ("zoo", "plain") for count in (0, 5)]
    found = tables(rows)
    assert "beside the others, all training images" in found
    assert "beside the others, 5 training images a class" in found
    assert "| plain | 1 | +0.0 | bees, 5 a class, net | +0.0 | nowhere | 1.00 | 1.00 |" in found


def test_the_tables_say_where_the_head_alone_was_better_than_what_was_kept() -> None:
    names = {"head": (0.92, True), "all": (0.9, False)}
    stages = [{"name": name, "accuracy": reached, "head_only": alone} for name, (reached, alone) in names.items()]
    about = {"recipe": "staged", "head": "cosine"}
    good = {**_row("zoo", 0.9, **about), "stages": stages, "selection_accuracy": 0.92, "kept": "head"}
    assert head_verdict([_row("plain", 0.9)]) == ""
    assert "In none of 1 runs" in head_verdict([good])
    bad = {**_row("zoo", 0.9, seed=1, **about), "stages": stages, "selection_accuracy": 0.9, "kept": "all"}
    assert "bees, net: zoo staged cosine, seed 1: 0.920 > 0.900" in head_verdict([good, bad])
    assert "| zoo | staged | cosine | 2 | 0.900 ± 0.000 | 10 | 14 | 20 | 800 | head 1, all 1 |" in tables([good, bad])


def test_a_variant_that_was_refused_says_why() -> None:
    row: Row = {"run": _row("zoo", 0.0, recipe="norms")["run"], "refused": "no normalisation layer"}
    assert "zoo norms default was refused: no normalisation layer" in tables([row])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "there are no sets. Next: --train and --test, or ZOO_TEST_DATA"),
        (["--train", "{shapes}/train"], "--train and --test name one set together"),
        (["--train", "{shapes}/train", "--test", "{shapes}/gone"], "gone is no folder"),
        (["--train", "{shapes}/train", "--test", "{shapes}/train/../train"], "to train on and to be judged on"),
        (["{set}", "--weights", "gone.safetensors"], "gone.safetensors is no file"),
        (["{set}", "--weights", "f", "--backbones", "a,b"], "--weights FILE is for one network"),
        (["{set}"], "no weights for squeezenet1_1: ZOO_TEST_DATA names no folder with weights/"),
        (["{set}", "--weights", "random", "--programs", "zoo,plane"], "no program 'plane'; there are: zoo, plain"),
        (["{set}", "--weights", "random", "--peers", "x"], "no peer 'x'"),
        (["{set}", "--weights", "random", "--peers", "plain", "--programs", "zoo"], "is --programs zoo,NAMES"),
        (["{set}", "--weights", "random", "--recipes", "stage"], "no recipe 'stage'; there are: default, "),
        (["{set}", "--weights", "random", "--heads", "line"], "no head 'line'; there are: default, "),
        (["{set}", "--weights", "random", "--recipes", "full:line"], "no head 'line'; there are: default, "),
        (["{set}", "--weights", "random", "--seeds", "0,one"], "'0,one' is not a list of whole numbers"),
        (["{set}", "--weights", "random", "--seeds", ""], "that is nothing to run"),
        (["{set}", "--weights", "random", "--zoo-set", "head.lr=1", "--peers", ""], "--zoo-set needs --label"),
        (["{set}", "--weights", "random", "--fastai-python", sys.executable], "has no fastai. Next: "),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    words: list[str], says: str, shapes: Path, tmp_path: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    if says.startswith("has no fastai") and recipes.programs.has_fastai(sys.executable):
        pytest.skip("it has fastai")
    of_set = ["--train", f"{shapes}/train", "--test", f"{shapes}/test"]
    given = [each.format(shapes=shapes) for word in words for each in (of_set if word == "{set}" else [word])]
    with pytest.raises(SystemExit):
        told("--results", tmp_path / "rows.jsonl", *given)
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_set_that_is_not_there_is_refused_with_those_that_are(
    shapes: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    monkeypatch.setenv("ZOO_TEST_DATA", str(tmp_path))
    with pytest.raises(SystemExit):
        told("--data", "shape")
    assert "data/shape has no folder train/; there are: shapes" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        told("--data", "shapes", "--backbone", "resnet18")
    assert "no weights for resnet18: there is no " in " ".join(capsys.readouterr().err.split())


def test_the_peers_have_the_weights_of_the_file_and_the_network_without_its_classifier(tmp_path: Path) -> None:
    for name, features in (("resnet18", 512), ("squeezenet1_1", 512), ("timm/test_resnet", 96)):
        network = Network(name)
        kept = {key: tensor.contiguous() for key, tensor in network.build("").state_dict().items()}
        file = tmp_path / "weights.safetensors"
        # As files are: matrices in half precision.
        save_file({key: each.half() if each.dim() > 1 else each for key, each in kept.items()}, file)
        module = network.features(str(file))
        loaded = module.state_dict()
        assert width(module, network.preprocessing.size) == features
        first, *_ = (tensor for tensor in loaded.values() if tensor.dim() > 1)
        expected, *_ = (tensor for tensor in kept.values() if tensor.dim() > 1)
        assert first.dtype == torch.float32 and torch.equal(first, expected.half().float())


def test_the_peers_judge_with_the_preprocessing_that_zoo_has(few: Path) -> None:
    for name in ("squeezenet1_1", "timm/tf_efficientnet_lite2"):
        plan = zoo.plan(backbone=name, data=few, weights="random", recipe="head_only", tune=False, device="cpu")
        wanted, ours = Network(name).preprocessing, plan.preprocessing
        assert [3, wanted.size, wanted.size] == list(ours["input_size"])
        assert (list(wanted.mean), list(wanted.std)) == (list(ours["mean"]), list(ours["std"]))
        assert wanted.interpolation.value == ours["interpolation"]


@pytest.mark.long
def test_one_command_judges_a_set_and_resumes(shapes: Path, tmp_path: Path, told: Told) -> None:
    results = tmp_path / "rows.jsonl"
    words = ["--train", shapes / "train", "--test", shapes / "val", "--backbone", "timm/test_resnet", "--seeds", "0"]
    words += ["--weights", "random", "--programs", "zoo,plain", "--per-class", "5", "--results", results]
    assert told(*words, "--recipes", "head_only") == 0
    peer, ours = read_rows(results)
    assert (peer["run"]["program"], ours["run"]["program"]) == ("plain", "zoo")
    assert peer["judged"] == ours["judged"] == 18
    assert ours["images"] == {"train": [4] * 3, "val": [1] * 3, "test": [6] * 3}
    assert (ours["recipe"], ours["head"]) == ("head_only", "dropout_linear")
    assert ours["cpu_seconds"] > 0 and peer["cpu_seconds"] > 0
    assert told(*words, "--recipes", "head_only") == 0
    assert len(read_rows(results)) == 2


def test_the_file_of_results_is_read_by_the_command(
    tmp_path: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "rows.jsonl"
    for row in (_row("zoo", 0.9), _row("plain", 0.8)):
        append_row(results, run_of(row), {key: value for key, value in row.items() if key != "run"})
    assert told("--table", "--results", results) == 0
    assert "| plain | 1 | +10.0 | bees, net | +10.0 | nowhere | 1.00 | 1.00 |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        told("--table", "--results", results, "--judge", "zoo x")
    assert "no row is of 'zoo x'" in capsys.readouterr().err
