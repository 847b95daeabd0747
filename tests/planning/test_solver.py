"""Where a solver fits the head, where gradient steps do, and what the plan says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from zoo.errors import OptionError, RecipeError
from zoo.planning import solver
from zoo.specs.plan import Plan, StagePlan

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "head": "linear", "weights": "random", "tune": False}
HEAD = '[[stages]]\nname = "head"\ntrain = ["head"]\n'
LBFGS = 'summary = "Solved."\n' + HEAD + 'solver = "lbfgs"\n'
AGAIN = HEAD.replace('"head"\n', '"again"\n', 1) + 'solver = "lbfgs"\n'
BY = "logistic regression, its strength by cross-validation"


def plan(data: Path, *settings: str, **arguments: Any) -> Plan:
    made = zoo.plan(**{**USUAL, **arguments}, data=data, set=settings)
    assert isinstance(made, Plan)
    return made


def stage_of(made: Plan, name: str = "head") -> StagePlan:
    return next(stage for stage in made.stages if stage.settings.name == name)


def recipe(folder: Path, text: str) -> str:
    path = folder / "my.toml"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("linear", BY),
        ("dropout_linear", f"{BY}; the penalty stands in for dropout, which acts in stages of gradient steps"),
    ],
)
def test_auto_is_the_solver_for_heads_of_one_linear_layer(few: Path, head: str, why: str) -> None:
    made = plan(few, head=head)
    stage = stage_of(made)
    assert (stage.solver, stage.solver_why, stage.steps, stage.rates, stage.epochs) == ("lbfgs", why, 0, {}, 1)
    assert stage.settings.solver == "auto" and stage.inputs == "features"
    for name in ("last", "all"):
        assert (stage_of(made, name).solver, stage_of(made, name).solver_why) == ("gradient", "")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("mlp", "gradient steps, because this head is more than one linear layer"),
        ("cosine", "gradient steps, because this head is more than one linear layer"),
        ("arcface", "gradient steps, because this head brings its own loss"),
        ("prototype", ""),
    ],
)
def test_auto_is_gradient_steps_for_other_heads(few: Path, head: str, why: str) -> None:
    stage = stage_of(plan(few, head=head, recipe="head_only"))
    assert (stage.solver, stage.solver_why) == ("gradient", why)
    assert bool(stage.rates) == (head != "prototype")


def test_auto_is_gradient_steps_where_there_are_too_many_features(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(solver, "MOST_WORK", 1000)
        stage = stage_of(plan(few))
        assert stage.solver == "gradient"
        assert stage.solver_why.endswith("of features and 2 classes the solver would take longer")
    monkeypatch.setattr(solver, "MOST_BYTES", 1000)
    stage = stage_of(plan(few))
    assert stage.solver == "gradient" and "the solver takes up to 1.0 kB" in stage.solver_why
    # Who asks for the solver by name gets it.
    assert stage_of(plan(few, "head.solver=lbfgs")).solver == "lbfgs"


@pytest.mark.parametrize(
    ("settings", "asks"),
    [
        (["head.lr=1e-2"], "--set head.lr"),
        (["head.epochs=2", "head.lr=1e-2"], "--set head.epochs"),
        (["head.sampling=balanced"], "--set head.sampling"),
        (["head.solver=gradient"], "--set head.solver"),
    ],
)
def test_a_knob_of_gradient_steps_asks_for_them(few: Path, settings: list[str], asks: str) -> None:
    stage = stage_of(plan(few, *settings))
    assert (stage.solver, stage.solver_why) == ("gradient", f"gradient steps, because {asks} asks for them")
    assert stage.settings.solver == "gradient" and stage.steps > 0


def test_knobs_that_the_solver_honours_leave_it(few: Path) -> None:
    settings = ["head.class_weights=balanced", "head.label_smoothing=0.1", "head.augment=flip", "head.views=3"]
    stage = stage_of(plan(few, *settings))
    assert stage.solver == "lbfgs" and stage.views == 3
    # A knob of another stage asks for nothing here.
    assert stage_of(plan(few, "last.lr=1e-3")).solver == "lbfgs"


def test_auto_beside_a_knob_means_it_for_heads_that_cannot_be_solved(few: Path) -> None:
    settings = ["head.solver=auto", "head.lr=1e-2"]
    assert stage_of(plan(few, *settings)).solver == "lbfgs"
    other = stage_of(plan(few, *settings, head="mlp"))
    assert (other.solver, other.rates) == ("gradient", {"head": 1e-2})


def test_a_recipe_may_leave_out_what_the_solver_does_not_need(few: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path, LBFGS)
    assert stage_of(plan(few, recipe=file)).solver == "lbfgs"
    with pytest.raises(RecipeError) as raised:
        plan(few, "head.solver=gradient", recipe=file)
    assert raised.value.faults == (
        "stages[0].epochs (--set head.epochs): missing",
        "stages[0].lr (--set head.lr): missing",
    )
    assert stage_of(plan(few, "head.solver=gradient", "head.epochs=3", "head.lr=1e-3", recipe=file)).steps == 3
    # Any other solver needs them, `auto` for the heads that it trains by steps.
    for text in (LBFGS.replace("lbfgs", "auto"), LBFGS.replace('solver = "lbfgs"\n', "")):
        with pytest.raises(RecipeError) as raised:
            plan(few, recipe=recipe(tmp_path, text))
        assert raised.value.faults == ("stages[0].epochs: missing", "stages[0].lr: missing")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (LBFGS, {"head": "mlp"}, "stages[0].solver: 'lbfgs' cannot be, this head is more than one linear layer"),
        (LBFGS, {"head": "arcface"}, "stages[0].solver: 'lbfgs' cannot be, this head brings its own loss"),
        (LBFGS, {"head": "prototype"}, "stages[0].solver: 'lbfgs' cannot be, this head is fitted in closed form"),
        (
            LBFGS.replace('["head"]', '["all"]'),
            {},
            "stages[0].solver: 'lbfgs' cannot be, this stage trains the backbone",
        ),
        (
            LBFGS + "batch_size = 8\n",
            {},
            "stages[0].batch_size: would do nothing, solver 'lbfgs' takes no gradient steps",
        ),
        (LBFGS + "ema = 0.9\n", {}, "stages[0].ema: would do nothing, solver 'lbfgs' takes no gradient steps"),
        (LBFGS + 'sampling = "balanced"\n', {}, "stages[0].sampling: would do nothing, solver 'lbfgs' takes no"),
        (LBFGS + AGAIN + "abandon = true\n", {}, "stages[1].abandon: would do nothing, solver 'lbfgs' takes no"),
    ],
)
def test_what_the_solver_cannot_do_is_refused(
    few: Path, tmp_path: Path, text: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        plan(few, recipe=recipe(tmp_path, text), **arguments)
    assert any(fault.startswith(said) for fault in raised.value.faults)


@pytest.mark.parametrize("remedy", ["auto", "linear"])
def test_the_way_out_of_a_head_that_cannot_be_solved_works(few: Path, remedy: str) -> None:
    with pytest.raises(RecipeError, match="set it to 'auto', or take --head linear"):
        plan(few, "head.solver=lbfgs", head="mlp")
    made = plan(few, "head.solver=auto", head="mlp") if remedy == "auto" else plan(few, "head.solver=lbfgs")
    assert stage_of(made).solver == ("gradient" if remedy == "auto" else "lbfgs")


def test_a_knob_on_the_command_line_that_the_solver_would_ignore_is_refused(few: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        plan(few, "head.solver=lbfgs", "head.lr=1e-2")
    assert raised.value.faults == (
        "stages[0].lr (--set head.lr): would do nothing, solver 'lbfgs' takes no gradient steps; leave it out, or "
        "--set head.solver=gradient",
    )
    assert stage_of(plan(few, "head.solver=gradient", "head.lr=1e-2")).rates == {"head": 1e-2}
    assert stage_of(plan(few, "head.solver=lbfgs")).solver == "lbfgs"


def test_a_recipe_file_that_sets_other_knobs_beside_auto_means_gradient_steps(few: Path, tmp_path: Path) -> None:
    text = LBFGS.replace("lbfgs", "auto") + "epochs = 3\nlr = 1e-2\nbatch_size = 4\n"
    assert stage_of(plan(few, recipe=recipe(tmp_path, text))).solver == "lbfgs"
    stage = stage_of(plan(few, recipe=recipe(tmp_path, text + 'sampling = "balanced"\n')))
    assert (stage.solver, stage.solver_why) == ("gradient", "gradient steps, because the recipe sets sampling")
    again = AGAIN.replace("lbfgs", "auto") + "epochs = 3\nlr = 1e-2\n"
    made = plan(few, recipe=recipe(tmp_path, text + again + "abandon = true\n"))
    assert stage_of(made, "again").solver_why == "gradient steps, because the recipe sets abandon"
    assert stage_of(plan(few, recipe=recipe(tmp_path, text + again)), "again").solver == "lbfgs"


@pytest.mark.parametrize(("epochs", "expected"), [(3, (60, 3, 3)), (10, (200, 10, 10)), (1, (20, 1, 1))])
def test_epochs_are_those_of_the_longest_stage_that_trains_the_backbone(
    few: Path, epochs: int, expected: tuple[int, int, int]
) -> None:
    made = plan(few, recipe="staged", epochs=epochs)
    assert tuple(stage.settings.epochs for stage in made.stages) == expected
    assert [stage.epochs for stage in made.stages] == [1, *expected[1:]]
    assert stage_of(made).solver == "lbfgs"
    by_steps = plan(few, recipe="staged", epochs=epochs, head="mlp")
    assert tuple(stage.epochs for stage in by_steps.stages) == expected


@pytest.mark.parametrize(
    ("shorthand", "asks"), [({"epochs": 5}, "--epochs"), ({"batch_size": 4}, "--batch-size"), ({}, "")]
)
def test_where_the_head_alone_trains_a_shorthand_asks_for_gradient_steps(
    few: Path, shorthand: dict[str, int], asks: str
) -> None:
    stage = stage_of(plan(few, recipe="head_only", **shorthand))
    if not asks:
        assert stage.solver == "lbfgs"
        return
    assert stage.solver_why == f"gradient steps, because {asks} asks for them"
    assert all(getattr(stage.settings, key) == value for key, value in shorthand.items())


def test_a_batch_size_for_other_stages_leaves_the_solver(few: Path) -> None:
    made = plan(few, recipe="staged", batch_size=4)
    assert stage_of(made).solver == "lbfgs" and stage_of(made, "last").settings.batch_size == 4


@pytest.mark.parametrize("shorthand", ["epochs", "batch_size"])
def test_a_shorthand_for_no_stage_is_refused(few: Path, tmp_path: Path, shorthand: str) -> None:
    file = recipe(tmp_path, LBFGS)
    with pytest.raises(OptionError, match=rf"solver lbfgs fits every stage(.|\n)*Next: leave {shorthand} out"):
        plan(few, recipe=file, **{shorthand: 3})
    assert stage_of(plan(few, recipe=file)).solver == "lbfgs"


@pytest.mark.parametrize(("copies", "named"), [(1, "b"), (3, "b, in 3 copies")])
def test_a_class_with_one_image_is_told(few: Path, tmp_path: Path, copies: int, named: str) -> None:
    alone = tmp_path / "data"
    for file in few.rglob("*.jpg"):
        target = alone / file.relative_to(few)
        if "/b/" not in f"/{target.relative_to(alone).as_posix()}" or "train" not in target.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    one = sorted((few / "train" / "b").iterdir())[0]
    (alone / "train" / "b").mkdir(parents=True)
    for number in range(copies):
        (alone / "train" / "b" / f"{number}.jpg").write_bytes(one.read_bytes())
    said = [warning for warning in plan(alone).warnings if "cross-validation" in warning]
    assert len(said) == 1 and said[0].startswith(f"1 class has a single training image ({named})")
    assert not [warning for warning in plan(few).warnings if "cross-validation" in warning]


def test_the_plan_says_it_in_words(few: Path, zoo_inside: Zoo) -> None:
    words = ["plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few]
    shown = zoo_inside(*words).stdout
    assert "solver lbfgs, to the minimum" in " ".join(shown.split())
    assert f"head: {BY}; the penalty stands in for dropout" in shown
    shown = zoo_inside(*words, "--set", "head.lr=1e-2").stdout
    assert "head: gradient steps, because --set head.lr asks for them" in shown
