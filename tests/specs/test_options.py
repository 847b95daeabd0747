"""A head's options: from the command line's text to a checked dataclass, and to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import pytest
import zoo
from zoo.errors import OptionError, PluginError
from zoo.registry.registry import default_registry
from zoo.specs.options import build_options, describe_options, options_to_dict, parse_assignments

if TYPE_CHECKING:
    from decimal import Decimal

STEP = "Next: correct these; zoo show HEAD lists the options."
HEADS = {found.spec.name: found.spec for found in default_registry().heads() if found.plugin.own}


@dataclass(frozen=True, kw_only=True, slots=True)
class Every:
    """One option of each type that a head is likely to have."""

    p: float = 0.1
    layers: int = 2
    bias: bool = True
    width: int | None = None
    sizes: tuple[int, ...] = (256, 128)
    pool: Literal["avg", "max"] = "avg"
    label: str = "x"

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p must be at least 0 and below 1, got {self.p}")
        if self.layers > 9:
            raise TypeError("layers above 9")


@dataclass(frozen=True)
class Unreadable:
    """A type that exists for type checkers only."""

    p: Decimal | None = None


def faults_of(options: type[Any], values: dict[str, Any]) -> list[str]:
    with pytest.raises(OptionError) as raised:
        build_options("every", options, values)
    title, *faults, step = str(raised.value).splitlines()
    assert step == STEP
    assert title == "Options of head 'every':" and raised.value.exit_code == 2
    return [fault.strip() for fault in faults]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("p", "0.25", 0.25),
        ("p", "0", 0.0),
        ("p", "1e-3", 0.001),
        ("layers", "3", 3),
        ("bias", "false", False),
        ("bias", "yes", True),
        ("width", "64", 64),
        ("width", "none", None),
        ("sizes", "[64,32]", (64, 32)),
        ("sizes", "[]", ()),
        ("pool", "max", "max"),
        ("label", "none", "none"),
        ("label", "[1]", "[1]"),
        ("label", "a=b", "a=b"),
    ],
)
def test_text_of_the_command_line_becomes_the_options_type(key: str, text: str, value: object) -> None:
    built = build_options("every", Every, parse_assignments([f"{key}={text}"]))
    assert getattr(built, key) == value and type(getattr(built, key)) is type(value)
    assert build_options("every", Every, {key: value}) == built


def test_all_faults_are_told_together_with_the_nearest_option() -> None:
    values = {
        "lyers": "3",
        "zzz": "1",
        "p": "half",
        "layers": "2.5",
        "bias": "perhaps",
        "sizes": "64,32",
        "pool": "sum",
    }
    assert faults_of(Every, values) == [
        "lyers: unknown option; did you mean 'layers'?",
        "zzz: unknown option; known: p, layers, bias, width, sizes, pool, label",
        "p: should be a valid number, got 'half'",
        "layers: should be a valid integer, got '2.5'",
        "bias: should be a valid boolean, got 'perhaps'",
        "sizes: should be a list, such as [1,2], got '64,32'",
        "pool: should be 'avg' or 'max', got 'sum'",
    ]


@pytest.mark.parametrize("text", ["1", "-0.1", "1.5", "nan", "inf"])
def test_values_out_of_range_are_refused_in_the_heads_own_words(text: str) -> None:
    (fault,) = faults_of(Every, {"p": text})
    assert fault == f"p must be at least 0 and below 1, got {float(text)}"


def test_a_type_error_of_the_heads_own_check_is_a_fault_as_well() -> None:
    assert faults_of(Every, {"layers": "10"}) == ["layers above 9"]


def test_an_option_of_a_head_without_options_is_refused() -> None:
    assert faults_of(zoo.NoOptions, {"p": "1"}) == ["p: unknown option; known: none"]


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["p"], "--head-option 'p' is not KEY=VALUE"),
        (["=1"], "--head-option '=1' is not KEY=VALUE"),
        (["p=1", "p=2"], "--head-option p is given twice: '1' and '2'"),
    ],
)
def test_assignments_that_cannot_be_are_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_assignments(assignments)
    assert said in str(raised.value)


def test_options_that_zoo_cannot_read_are_the_plugins_fault() -> None:
    with pytest.raises(PluginError, match=r"test_options\.Unreadable have a type that zoo cannot read"):
        build_options("unreadable", Unreadable, {})


def test_description_has_types_and_defaults_as_the_command_line_takes_them() -> None:
    described = {each.name: (each.type, each.default) for each in describe_options(Every)}
    assert described["sizes"] == ("tuple[int, ...]", [256, 128])
    assert described["width"] == ("int | None", None)
    again = {
        name: default if isinstance(default, str) else json.dumps(default) for name, (_, default) in described.items()
    }
    assert build_options("every", Every, again) == Every()


@pytest.mark.parametrize("name", HEADS)
def test_options_of_every_head_survive_being_stored_as_json(name: str) -> None:
    options = HEADS[name].options
    defaults = {field.name: getattr(options(), field.name) for field in fields(options)}
    changed = {key: type(value)(value / 2) for key, value in defaults.items() if isinstance(value, (int, float))}
    for built in (options(), build_options(name, options, changed)):
        stored = json.loads(json.dumps(options_to_dict(built)))
        assert build_options(name, options, stored) == built
        assert stored.keys() == {field.name for field in fields(options)}


@pytest.mark.parametrize(
    ("name", "assignment", "said"),
    [
        ("dropout_linear", "p=1", "p must be at least 0 and below 1, got 1.0"),
        ("dropout_linear", "p=-0.1", "p must be at least 0 and below 1, got -0.1"),
        ("mlp", "p=nan", "p must be at least 0 and below 1, got nan"),
        ("gem", "p=-1", "p must be above 0 and finite, got -1.0"),
        ("mlp", "hidden=0", "hidden must be at least 1, got 0"),
        ("mlp", "hiden=8", "hiden: unknown option; did you mean 'hidden'?"),
        ("linear", "p=0.5", "p: unknown option; known: none"),
    ],
)
def test_ranges_of_the_bundled_heads(name: str, assignment: str, said: str) -> None:
    with pytest.raises(OptionError) as raised:
        build_options(name, HEADS[name].options, parse_assignments([assignment]))
    assert str(raised.value) == f"Options of head '{name}':\n  {said}\n{STEP}"
