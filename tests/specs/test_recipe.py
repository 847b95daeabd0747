"""Recipes as people write them: what parses, what is refused and in which words, what overrides do."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import zoo
from zoo.errors import OptionError, RecipeError
from zoo.registry.registry import default_registry
from zoo.specs.assignments import override
from zoo.specs.recipe import RecipeSpec, Stage, recipe_from_file, recipe_from_toml
from zoo.specs.selectors import select

BUNDLED = {found.spec.name: found.spec for found in default_registry().recipes() if found.plugin.own}
GROUPS = ("stem", "stage1", "stage2", "stage3")

STAGE = '[[stages]]\nname = "{name}"\ntrain = ["head"]\nepochs = {epochs}\nlr = 1e-3\n'
GOOD = 'summary = "Good."\n' + STAGE.format(name="head", epochs=4)


def three_stages(*epochs: int) -> RecipeSpec:
    stages = "".join(STAGE.format(name=f"s{index}", epochs=count) for index, count in enumerate(epochs))
    return recipe_from_toml('summary = "x"\n' + stages, "three")


def faults_of(text: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as raised:
        recipe_from_toml(text, "my.toml")
    assert raised.value.exit_code == 2
    *told, step = str(raised.value).splitlines()[1:]
    assert told == [f"  {fault}" for fault in raised.value.faults] and step.startswith("Next: ")
    return raised.value.faults


def stage(*train: str) -> Stage:
    return Stage(name="s", train=train, epochs=1, lr=0.1)


def test_every_bundled_recipe_file_is_registered() -> None:
    names = {each.name.removesuffix(".toml") for each in files("zoo_recipes").iterdir() if each.name.endswith(".toml")}
    assert names == set(BUNDLED) >= {"full", "head_only", "staged"}


@pytest.mark.parametrize("name", BUNDLED)
def test_a_recipe_written_with_its_defaults_reads_back_the_same(name: str) -> None:
    written = BUNDLED[name].to_toml()
    assert recipe_from_toml(written, name) == BUNDLED[name]
    assert all(written.count(f"{key} = ") == len(BUNDLED[name].stages) for key in Stage.model_fields)


def test_any_text_and_number_survives_being_written() -> None:
    awkward = 'quote " backslash \\ tab \t return \r newline \n bell \x07 delete \x7f café 図'
    recipe = RecipeSpec(name="r", summary=awkward, references=(awkward, "a, b"), stages=(stage("head", "last:1"),))
    tiny = recipe.model_copy(update={"stages": (stage("all").model_copy(update={"lr": 1e-12, "weight_decay": 0.0}),)})
    for each in (recipe, tiny):
        assert recipe_from_toml(each.to_toml(), "r") == each


def test_all_faults_of_a_file_are_told_together_with_their_key_paths() -> None:
    faults = faults_of(
        """
        name = "mine"
        lernrate = 3
        references = "arXiv:2202.10054"
        [[stages]]
        name = "first stage"
        train = ["head", "heed", "last", "group:"]
        epochs = 0
        lr = true
        [[stages]]
        name = "b"
        train = "head"
        epochs = 2.5
        lr = "fast"
        agument = "flip"
        augment = "zoom"
        [[stages]]
        name = "b"
        train = []
        batch_size = -1
        lr = nan
        layer_decay = 1.5
        warmup = 1
        """
    )
    selectors = "head, last:N, first:N, middle:N, group:NAME, norm, bias, adapters, all (N from 1)"
    assert sorted(faults) == sorted(
        [
            "name: a recipe is named by its file, leave this key out",
            "summary: missing",
            "lernrate: unknown key; known: summary, references, keep, choose_by, stages",
            'references: should be a list, such as ["arXiv:2202.10054"]',
            "stages[0].name: should be letters, digits, '_' and '-', got 'first stage'",
            f"stages[0].train[1]: 'heed' is not a valid selector: {selectors}; did you mean 'head'?",
            f"stages[0].train[2]: 'last' is not a valid selector: {selectors}; did you mean 'last:1'?",
            f"stages[0].train[3]: 'group:' is not a valid selector: {selectors}",
            "stages[0].epochs: should be at least 1, got 0",
            "stages[0].lr: should be a number, got true",
            'stages[1].train: should be a list, such as ["head", "last:1"]',
            "stages[1].epochs: should be a valid integer, got 2.5",
            "stages[1].lr: should be a valid number, got 'fast'",
            "stages[1].agument: unknown key; did you mean 'augment'?",
            "stages[1].augment: should be 'none', 'flip', 'crop' or 'rand', got 'zoom'",
            "stages[2].name: 'b' is already the name of stages[1]",
            "stages[2].train: should not be empty",
            "stages[2].epochs: missing",
            "stages[2].batch_size: should be at least 1, got -1",
            "stages[2].lr: should be a finite number, got nan",
            "stages[2].layer_decay: should be at most 1, got 1.5",
            "stages[2].warmup: should be less than 1, got 1",
        ]
    )


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (GOOD + STAGE.format(name="head", epochs=1), ["stages[1].name: 'head' is already the name of stages[0]"]),
        (GOOD.replace("[[stages]]", "[[stage]]"), ["stages: missing", "stage: unknown key; did you mean 'stages'?"]),
        (GOOD.replace("[[stages]]", "[stages]"), ["stages: write each stage as a table under its own line [[stages]]"]),
        ('summary = "x"\nstages = ["head"]', ["stages[0]: write each stage as a table under its own line [[stages]]"]),
        ('summary = ""\nstages = []', ["summary: should not be empty", "stages: should not be empty"]),
        ("", ["summary: missing", "stages: missing"]),
    ],
)
def test_faults_of_form_say_what_to_write(text: str, faults: list[str]) -> None:
    assert list(faults_of(text)) == faults


def test_text_that_is_not_toml_is_refused_with_its_place() -> None:
    (fault,) = faults_of('summary = "x"\nlr == 3\n')
    assert fault.startswith("not TOML: ") and "line 2" in fault


def test_a_recipe_made_in_python_is_checked_as_a_file_is() -> None:
    with pytest.raises(ValueError, match=r"stages\[1\]\.name: 's' is already the name of stages\[0\]"):
        RecipeSpec(name="r", summary="x", stages=(stage("head"), stage("all")))


def test_a_recipe_is_named_by_its_file(tmp_path: Path) -> None:
    for file, name in (("my recipe.toml", "my_recipe"), ("café.toml", "caf_"), ("_.toml", "recipe")):
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())  # as Notepad saves it
        assert recipe_from_file(tmp_path / file).name == name


def test_a_recipe_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('summary = "é"'.encode("latin-1"))
    for file, said in (("none.toml", "No such file"), ("latin.toml", "not UTF-8"), (".", "Is a directory")):
        with pytest.raises(OptionError, match=f"cannot be read: .*{said}"):
            recipe_from_file(tmp_path / file)


@pytest.mark.parametrize(
    ("given", "asked", "scaled"),
    [
        ((40, 4, 4), 2, (2, 1, 1)),
        ((40, 4, 4), 40, (40, 4, 4)),
        ((40, 4, 4), 80, (80, 8, 8)),
        ((3, 7, 5), 1, (1, 1, 1)),
        ((3, 7, 5), 3, (1, 3, 2)),
        ((1, 999, 1), 333, (1, 333, 1)),
    ],
)
def test_epochs_scale_the_stages_so_that_the_longest_has_as_many(
    given: tuple[int, ...], asked: int, scaled: tuple[int, ...]
) -> None:
    made = override(three_stages(*given), [], epochs=asked, batch_size=None)
    assert tuple(each.epochs for each in made.stages) == scaled


def test_batch_size_is_for_all_stages_and_an_assignment_wins_over_a_shorthand() -> None:
    made = override(three_stages(9, 9, 9), ["s1.batch_size=3", "s2.epochs=5"], epochs=2, batch_size=8)
    assert [(each.batch_size, each.epochs) for each in made.stages] == [(8, 2), (3, 2), (8, 5)]


def test_set_changes_one_value_of_any_type_and_nothing_else() -> None:
    recipe = three_stages(1, 1, 1)
    assignments = ["s0.lr=3e-4", "s1.train=[\"head\", 'last:2']", "s1.augment = crop", "s2.train=all", "s2.name=whole"]
    made = override(recipe, assignments, epochs=None, batch_size=None)
    expected = [
        recipe.stages[0].model_copy(update={"lr": 3e-4}),
        recipe.stages[1].model_copy(update={"train": ("head", "last:2"), "augment": "crop"}),
        recipe.stages[2].model_copy(update={"train": ("all",), "name": "whole"}),
    ]
    assert list(made.stages) == expected
    assert override(recipe, [], epochs=None, batch_size=None) == recipe


def test_all_bad_values_of_set_are_told_together_as_they_were_written() -> None:
    with pytest.raises(RecipeError) as raised:
        override(
            BUNDLED["staged"],
            ["head.lr=-1", "last.epohcs=3", "all.epochs=2.5", "last.train=head,heed"],
            epochs=None,
            batch_size=None,
        )
    assert raised.value.source == "staged with --set"
    assert [fault.split(", got")[0].split(": head,")[0] for fault in raised.value.faults] == [
        "stages[0].lr (--set head.lr): should be greater than 0",
        "stages[1].train[1] (--set last.train[1]): 'heed' is not a valid selector",
        "stages[1].epohcs (--set last.epohcs): unknown key; did you mean 'epochs'?",
        "stages[2].epochs (--set all.epochs): should be a valid integer",
    ]


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["hed.lr=1"], "--set hed.lr=1: recipe 'full' has no stage 'hed'. Its stages: all."),
        (["lr=1"], "--set 'lr=1' is not STAGE.KEY=VALUE.\nNext: write it so, for example --set all.lr=1"),
        (["lr"], "--set 'lr' is not STAGE.KEY=VALUE.\nNext: write it so, for example --set all.lr=1e-3"),
        (["all.lr"], "is not STAGE.KEY=VALUE"),
        ([".lr=1"], "is not STAGE.KEY=VALUE"),
        (["all.lr=1", "all.lr=2"], "--set all.lr is given twice: '1' and '2'."),
    ],
)
def test_an_assignment_that_fits_nowhere_is_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(OptionError) as raised:
        override(BUNDLED["full"], assignments, epochs=None, batch_size=None)
    assert said in str(raised.value)


@pytest.mark.parametrize("shorthand", ["epochs", "batch_size"])
def test_shorthands_start_at_one(shorthand: str) -> None:
    with pytest.raises(OptionError, match=f"--{shorthand.replace('_', '-')} must be at least 1, got 0"):
        override(BUNDLED["full"], [], **{"epochs": None, "batch_size": None, shorthand: 0})


@pytest.mark.parametrize(
    ("train", "groups", "head"),
    [
        (["head"], (), True),
        (["all"], GROUPS, True),
        (["last:1"], ("stage3",), False),
        (["head", "last:2"], ("stage2", "stage3"), True),
        (["first:2"], ("stem", "stage1"), False),
        (["last:4"], GROUPS, False),
        (["last:1", "group:stem", "first:1", "last:1"], ("stem", "stage3"), False),
        (["group:stage2", "group:stem"], ("stem", "stage2"), False),
    ],
)
def test_selectors_name_groups_in_the_order_of_the_backbone(
    train: list[str], groups: tuple[str, ...], head: bool
) -> None:
    selection, faults = select(train, GROUPS, path="stages[0]")
    assert (selection.groups, selection.head, faults) == (groups, head, [])


def test_selectors_that_match_nothing_are_all_told_with_the_groups_there_are() -> None:
    _, faults = select(["head", "group:stage4", "last:5", "group:conv"], GROUPS, path="stages[2]")
    assert faults == [
        "stages[2].train[1]: 'group:stage4' matches no group. Did you mean 'group:stage3', 'group:stage2' or "
        "'group:stage1'? "
        "The groups are: stem, stage1, stage2, stage3",
        "stages[2].train[2]: 'last:5' asks for 5 groups, this backbone has 4: stem, stage1, stage2, stage3",
        "stages[2].train[3]: 'group:conv' matches no group. The groups are: stem, stage1, stage2, stage3",
    ]


@pytest.mark.parametrize(
    "selector", ["last:0", "last:-1", "last:x", "last:1.5", "head:1", "all:2", "", "group", "norm:1", "adapters:2"]
)
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="is not a valid selector: head, last:N, first:N, middle:N, group:NAME, norm"):
        stage(selector)


def test_a_recipe_can_be_made_with_what_zoo_exports() -> None:
    assert isinstance(zoo.recipe_from_toml(GOOD, name="good"), zoo.RecipeSpec)
