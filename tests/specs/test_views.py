"""Which views are refused, and of which class names they are doubted."""

from __future__ import annotations

from typing import Any

import pytest
from zoo.errors import OptionError, Refused
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.views import PASSES, check_views, doubt, passes, refuse_views

CROPPED = Preprocessing(input_size=(3, 224, 224), resize_size=(256, 256), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
WHOLE = Preprocessing(
    input_size=(3, 224, 224), resize_size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="exact"
)


@pytest.mark.parametrize(
    ("asked", "meant"), [("flipp", "flip"), ("hflip", "flip"), ("TTA", "flip"), ("fife", "five"), ("five-crop", "five")]
)
def test_an_unknown_name_is_refused_with_one_that_is_accepted(asked: str, meant: str) -> None:
    with pytest.raises(OptionError, match=rf"--views '{asked}' .* Did you mean '{meant}'\?"):
        check_views(asked)
    assert check_views(meant) == meant and check_views(None) is None
    assert [passes(None), *map(passes, PASSES)] == [1, 2, 5]


@pytest.mark.parametrize("asked", [True, 5, ["flip"], ""])
def test_what_is_no_name_is_refused_too(asked: Any) -> None:
    with pytest.raises(OptionError, match="is not one of flip, five"):
        check_views(asked)


@pytest.mark.parametrize(
    "classes",
    [
        ("turn_left", "turn_right", "stop"),
        ("Left", "Right"),
        ("linksabbiegen", "rechtsabbiegen"),
        ("counterclockwise", "clockwise"),
        ("hand right", "hand LEFT"),
    ],
)
def test_classes_that_a_mirror_exchanges_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match=r"mirrors images, and the mirror image of .*\nNext: --views five"):
        refuse_views("flip", classes, CROPPED)
    refuse_views("five", classes, CROPPED)
    with pytest.raises(Refused, match=r"\nNext: leave --views out"):
        refuse_views("flip", classes, WHOLE)


@pytest.mark.parametrize(
    ("name", "doubted"),
    [
        ("left_shoe", True),
        ("turnRight", True),
        ("rechts", True),
        ("clockwise", True),
        ("bright", False),
        ("upright piano", False),
        ("tulip", False),
        ("portrait", False),
    ],
)
def test_a_name_that_speaks_of_a_side_is_doubted(name: str, doubted: bool) -> None:
    refuse_views("flip", (name, "other"), CROPPED)
    assert bool(doubt("flip", (name, "other"))) == doubted
    assert doubt("five", (name, "other")) == ""


def test_crops_are_refused_where_nothing_is_cropped() -> None:
    with pytest.raises(Refused, match=r"crops nothing: all five would be the same\.\nNext: --views flip"):
        refuse_views("five", ("a", "b"), WHOLE)
    refuse_views("flip", ("a", "b"), WHOLE)
    refuse_views("five", ("a", "b"), CROPPED)
