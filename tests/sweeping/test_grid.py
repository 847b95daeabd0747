"""Trials laid out from settings: lists, ranges, draws without repeats, the same on any machine and in any order."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from zoo.errors import OptionError, ZooError
from zoo.registry.registry import default_registry
from zoo.sweeping.checked_trials import trials_of
from zoo.sweeping.grid import SweepTrial, lay_out, request_of
from zoo.sweeping.knobs import ValueRange, as_over, parse_over, parse_values
from zoo.sweeping.settings import SweepSettings, settings_of


def asked(*over: str, file: Path | None = None, **given: Any) -> SweepSettings:
    return settings_of({"data": "photos", "backbone": "timm/test_resnet", **given}, parse_over(over), file)


def laid_out(*over: str, **given: Any) -> tuple[SweepTrial, ...]:
    return trials_of(asked(*over, **given), default_registry())


def test_a_grid_of_lists_is_every_combination_with_every_seed() -> None:
    trials = laid_out("head=linear,cosine", "head.epochs=5,10,20", seeds=2, recipe="head_only")
    assert len(trials) == 12 and [trial.number for trial in trials] == list(range(1, 13))
    points = {(trial.settings["head"], trial.settings["head.epochs"], trial.seed) for trial in trials}
    assert len(points) == 12
    assert {trial.candidate for trial in trials} == set(range(1, 7))


@pytest.mark.parametrize("wanted", [1, 7, 30, 59])
def test_fewer_trials_than_the_grid_has_are_drawn_without_repeats(wanted: int) -> None:
    over = ("head.epochs=1,2,3,4,5", "head.lr=1e-4,1e-3,1e-2", "head.clip=0,1,2,3")
    trials = laid_out(*over, trials=wanted, recipe="head_only")
    assert len({tuple(trial.settings.items()) for trial in trials}) == len(trials) == wanted
    assert trials == laid_out(*over, trials=wanted, recipe="head_only"), "a function of the settings"
    other = laid_out(*over, trials=wanted, recipe="head_only", seed=1)
    assert wanted in (1, 59) or trials != other


def test_a_range_is_drawn_on_a_logarithmic_scale_where_it_spans_a_factor_of_ten() -> None:
    drawn = [float(ValueRange(1e-5, 1e-1).draw(f"key/{number}", whole=False)) for number in range(400)]
    assert all(1e-5 <= value <= 1e-1 for value in drawn)
    assert 0.4 < statistics.mean(value < 1e-3 for value in drawn) < 0.6, "half of them below the geometric mean"
    evenly = [float(ValueRange(1, 9).draw(f"key/{number}", whole=False)) for number in range(400)]
    assert 0.4 < statistics.mean(value < 5 for value in evenly) < 0.6
    below_zero = [float(ValueRange(-1, 1).draw(f"key/{number}", whole=False)) for number in range(400)]
    assert 0.4 < statistics.mean(value < 0 for value in below_zero) < 0.6


def test_whole_numbers_are_drawn_with_both_ends() -> None:
    drawn = [ValueRange(2, 5).draw(f"key/{number}", whole=True) for number in range(200)]
    assert {"2", "3", "4", "5"} == set(drawn)
    wide = [int(ValueRange(1, 1000).draw(f"key/{number}", whole=True)) for number in range(200)]
    assert min(wide) >= 1 and max(wide) <= 1000 and statistics.median(wide) < 100


def test_what_a_trial_draws_does_not_depend_on_how_many_there_are_or_on_other_knobs() -> None:
    few, many = (laid_out("head.lr=1e-4..1e-1", trials=count, recipe="head_only") for count in (3, 30))
    assert [trial.settings["head.lr"] for trial in few] == [trial.settings["head.lr"] for trial in many[:3]]
    assert len({trial.settings["head.lr"] for trial in many}) == 30
    more = laid_out("head.lr=1e-4..1e-1", "head.clip=0..1", trials=3, recipe="head_only")
    assert [trial.settings["head.lr"] for trial in more] == [trial.settings["head.lr"] for trial in few]


def test_drawn_values_are_these_on_every_machine() -> None:
    trials = laid_out("head.lr=1e-4..1e-2", "head.epochs=5..50", trials=3, recipe="head_only")
    found = [(trial.settings["head.lr"], trial.settings["head.epochs"]) for trial in trials]
    assert found == [("0.0003452", "7"), ("0.001836", "10"), ("0.00117", "6")]


def test_lists_take_turns_beside_a_range() -> None:
    trials = laid_out("head=linear,cosine", "head.lr=1e-4..1e-2", trials=20, seeds=2, recipe="head_only")
    heads = [trial.settings["head"] for trial in trials if trial.seed == 0]
    assert len(heads) == 10 and heads.count("linear") == heads.count("cosine") == 5


def test_a_range_of_few_whole_numbers_gives_each_once() -> None:
    trials = laid_out("head.epochs=1..3", trials=20, recipe="head_only")
    assert sorted(trial.settings["head.epochs"] for trial in trials) == ["1", "2", "3"]


def test_a_trial_is_a_request_for_finetune() -> None:
    settings = asked(
        "head=dropout_linear", "head-option.p=0.3", "epochs=3", "keep=last", "all.train=[head,last:1],[all]"
    )
    trials = lay_out(settings, lambda name: False)
    request = request_of(trials[0], settings, "table:x.csv")
    assert request.head_options == {"p": "0.3"} and request.epochs == 3
    assert request.set == ("keep=last", "all.train=[head,last:1]")
    assert request_of(trials[1], settings, "x").set == ("keep=last", "all.train=[all]")
    other = asked(backbone="timm/test_resnet=weights.pth")
    assert request_of(lay_out(other, lambda name: False)[0], other, "x").weights == "weights.pth"


def test_a_file_says_the_same_as_options_which_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'data = "photos"\nbackbone = ["timm/test_resnet"]\nrecipe = "head_only"\nseeds = 3\ntrials = 30\n'
        '[over]\nhead = ["linear", "cosine"]\n"head.lr" = "1e-4..1e-2"\n"head.epochs" = [5, 10]\n'
    )
    of_file = settings_of({}, {}, file)
    over = ["head=linear,cosine", "head.lr=1e-4..1e-2", "head.epochs=5,10"]
    assert of_file == asked(*over, recipe="head_only", seeds=3, trials=30)
    replaced = settings_of({"seeds": 2}, parse_over(["head.epochs=7"]), file)
    assert replaced.seeds == 2 and replaced.over["head.epochs"] == ("7",)
    file.write_text(
        'data = "photos"\nbackbone = "a,b"\n[over]\nhead.lr = [0.1, 1e-3]\n'
    )  # without quotes: a table in TOML
    assert settings_of({}, {}, file).over == {"backbone": ("a", "b"), "head.lr": ("0.1", "0.001")}


def test_the_name_of_a_file_of_weights_may_have_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lr=0.1.pth").touch()
    monkeypatch.chdir(tmp_path)
    settings = settings_of({"data": "photos", "backbone": "resnet18,timm/test_resnet=lr=0.1.pth"}, {}, None)
    given = lay_out(settings, lambda name: False)[1]
    assert settings.over["backbone"] == ("resnet18", f"timm/test_resnet={tmp_path}/lr=0.1.pth")
    assert request_of(given, settings, "photos").weights == f"{tmp_path}/lr=0.1.pth"


@pytest.mark.parametrize(
    ("over", "given", "said"),
    [
        (["head.lrr=1"], {}, "Next: --over head.lr="),
        (["haed.lr=1"], {}, "Did you mean 'head.lr'"),
        (["lr=1e-3"], {}, "say of which: 'head.lr'"),
        (["heads=linear"], {}, "Did you mean 'head'"),
        (["head.p=0.1"], {}, "head_option.p"),
        (["seed=1,2"], {}, "--seeds"),
        (["all.lr=1e-3"], {}, "no recipe of this sweep has a stage 'all'"),
        (["all.lr=1e-3"], {"recipe": "head_only,full"}, "recipe 'head_only' has no stage 'all'"),
        (["head_option.p=0.1"], {"head": "linear,dropout_linear"}, "head 'linear' has no option 'p'"),
        (["head_option.pp=0.1"], {"head": "dropout_linear"}, "Did you mean 'head_option.p'"),
        (["head.lr=1e-2..1e-4"], {"trials": 3}, "Next: 1e-4..1e-2"),
        (["head.lr=1e-3..1e-3"], {"trials": 3}, "Next: head.lr=1e-3"),
        (["head.lr=1e-4..1e-2"], {}, "--trials"),
        (["head.epochs=1.5..3"], {"trials": 3}, "whole numbers"),
        (["head.augment=1..3"], {"trials": 3}, "takes no range"),
        (["head=1..3"], {"trials": 3}, "takes names"),
        (["head.lr=1e-3,0.001"], {}, "twice"),
        (["head.lr="], {}, "KNOB=VALUE"),
        (["head.lr=1,,2"], {}, "empty value"),
        (["head"], {}, "KNOB=VALUE"),
        (["head.lr=1", "head.lr=2"], {}, "given twice"),
        (["head=linear"], {"head": "cosine"}, "both given"),
        (["head.lr=1..2,3"], {"trials": 3}, "stands alone"),
        ([], {"seeds": 3, "trials": 2}, "--trials 3 or more"),
        ([], {"seeds": 0}, "at least 1"),
        ([], {"head": "liner"}, "Did you mean 'linear'"),
        ([], {"recipe": "heads_only"}, "Did you mean 'head_only'"),
        ([], {"precision": "auto"}, "'float32' or 'bfloat16'"),
        (
            [f"head.clip={','.join(map(str, range(101)))}", f"head.lr={','.join(f'1e-{n}' for n in range(101))}"],
            {},
            "--trials N",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_meant(over: list[str], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ZooError, match=said.replace("(", r"\(")) as refused:
        trials_of(asked(*over, **{"recipe": "head_only", **given}), default_registry())
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('dta = "x"', "Did you mean 'data'"),
        ("lr = 3", r"below \[over\]"),
        ("data = ", "not TOML"),
        ("over = 3", "should be a table"),
        ("[over]\nhead = []", "the grid would be empty"),
        ('head = "a"\n[over]\nhead = "b"', "twice"),
        ('backbone = "a"', "needs images"),
        ('data = "x"', "needs a backbone"),
        ('data = "x"\nbackbone = "a"\nseeds = "three"', "whole number"),
        ('data = "x"\nbackbone = "a"\n[over]\n"head.lr" = [{a = 1}]', "no text, number or list"),
        ('data = "x"\nbackbone = "a"\n[over.head]\n[over.all]\nlr = 1', "head has no values: the grid would"),
        ('data = "x"\nbackbone = "a"\n[over]\n"head.lr" = {}', r"head\.lr has no values"),
    ],
)
def test_a_file_with_faults_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(OptionError, match=said) as refused:
        settings_of({}, {}, file)
    assert "\nNext: " in str(refused.value)
    with pytest.raises(OptionError, match=r"Did you mean .*sweep\.toml"):
        settings_of({}, {}, tmp_path / "swep.toml")


def test_messages_about_a_run_name_what_a_sweep_has() -> None:
    assert as_over("Next: lower it, for example --set all.lr=0.1.") == "Next: lower it, for example --over all.lr=0.1."
    assert as_over("--epochs changes it; --epochs-like stays") == "--over epochs changes it; --epochs-like stays"


def test_values_are_split_at_commas_outside_of_brackets() -> None:
    assert parse_values("all.train", "[head,last:1],[all]") == ("[head,last:1]", "[all]")
    assert parse_values("head.lr", [0.1, 1e-5]) == ("0.1", "1e-05")
    assert parse_values("head.lr", "1e-4..1e-2") == ValueRange(1e-4, 1e-2)
    assert math.isclose(ValueRange(1e-4, 1e-2).low, 1e-4)
    # As it is stored, from which a sweep is resumed.
    for low, high in ((0.12345678901, 5.0), (1e-7, 123456789.5)):
        assert parse_values("head.lr", str(ValueRange(low, high))) == ValueRange(low, high)
