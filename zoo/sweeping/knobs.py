"""What a sweep varies: the knobs that there are, and the values that are given for them.

A list is tried value by value. A range `a..b` is drawn from: on a logarithmic scale where `a` is above zero and `b` at
least `LOGARITHMIC` times `a`, evenly elsewhere.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsIndex

from zoo.errors import OptionError, either, nearest
from zoo.specs.recipe import SET_AS_A_WHOLE, Stage

LOGARITHMIC = 10.0
"""How many times `a` a positive range must reach to be drawn from on a logarithmic scale."""
DIGITS = 4
"""Significant digits of a drawn number: as many as any knob needs, and the same on every machine."""
OF_RUN = ("backbone", "weights", "head", "recipe", "epochs", "batch_size", "input_size")
"""Knobs that are options of `zoo finetune`."""
HEAD_OPTION = "head_option."
_WHOLE_OF_RUN = ("epochs", "batch_size", "input_size")
_NO_KNOBS = {
    "seed": "seeds are trials of the same candidate: --seeds 3",
    "data": "all trials are compared on the same images: --data PATH",
    "device": "it changes no settings: --device, for all trials",
    "precision": "trials must not differ in it: --precision, for all trials",
    "out": "each trial has a place of its own",
    "seeds": "each candidate is tried with all of them: --seeds 3",
    "trials": "it is how many there may be at most: --trials 60",
}
_RANGE = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*\.\.\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """All numbers from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def logarithmic(self) -> bool:
        """Whether it is drawn from on a logarithmic scale."""
        return self.low > 0 and self.high / self.low >= LOGARITHMIC

    def draw(self, key: str, *, whole: bool) -> str:
        """The number that a key draws, as text: the same on every machine, whatever was drawn before.

        Whole numbers are drawn so that each has its share: from `low` to `high`, both included.
        """
        # A generator for each draw: one for all would make a draw depend on how many came before it.
        share = random.Random(key).random()
        # Rounding gives the numbers at both ends half a share, unless the range reaches half beyond them.
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        if self.logarithmic:
            low = self.low if not whole else max(low, 0.5)  # zero has no logarithm
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        if whole:
            return str(int(min(max(round(value), self.low), self.high)))
        # Rounded to few digits, a number near an end may lie beyond it.
        return f"{min(max(float(f'{value:.{DIGITS}g}'), self.low), self.high):.15g}"

    def __str__(self) -> str:
        # Every digit that counts: a sweep is resumed with what this says.
        return "..".join(repr(each).removesuffix(".0") for each in (self.low, self.high))


Values = tuple[str, ...] | ValueRange
"""What a knob takes, as text: values one by one, or a range."""


def parse_over(assignments: Sequence[str]) -> dict[str, Values]:
    """`["head=linear,cosine", "head.lr=1e-4..1e-2"]` -> the values of each knob. Raises OptionError."""
    found: dict[str, Values] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = named(name)
        if not (name and equals and text.strip()):
            raise OptionError(
                f"--over {assignment!r} names no values of a knob.\n"
                "Next: write KNOB=VALUE,VALUE or KNOB=LOW..HIGH, such as --over head=linear,cosine or "
                "--over head.lr=1e-4..1e-2."
            )
        if name in found:
            raise OptionError(f"--over {name} is given twice.\nNext: give all values at once: --over {name}=A,B")
        found[name] = parse_values(name, text)
    return found


def named(text: str) -> str:
    """A knob's name as it is stored: `batch-size` and `head-option.p` are meant as `batch_size`, `head_option.p`."""
    name = text.strip()
    head, dot, rest = name.partition(".")
    # Only what zoo itself names: a recipe may name a stage with a dash.
    head = head.replace("-", "_") if head.replace("-", "_") in (*OF_RUN, "head_option", "choose_by") else head
    return f"{head}{dot}{rest}"


def as_over(message: str) -> str:
    """A message about a trial's settings in the words of a sweep: what a run is given with `--set`, it gives so."""
    return _AS_GIVEN_TO_A_RUN.sub(lambda found: _OF_A_SWEEP[found[0]], message)


_OF_A_SWEEP = {
    "--set": "--over",
    "--epochs": "--over epochs",
    "--batch-size": "--over batch_size",
    "--input-size": "--over input_size",
    "--weights": "--over weights",
}
"""Options of `zoo finetune` that a sweep does not have, and how it takes the same."""
# With a look at what follows, so that no longer option is taken for one of these.
_AS_GIVEN_TO_A_RUN = re.compile(rf"(?:{'|'.join(_OF_A_SWEEP)})(?![\w-])")


def parse_values(name: str, given: object) -> Values:
    """The values of a knob: a text `a,b` or `a..b`, a list of single values, or one value. Raises OptionError."""
    if isinstance(given, str):
        found = _RANGE.fullmatch(given)
        if found is not None:
            return _range(name, given.strip(), found[1], found[2])
        texts = _split(given)
    elif isinstance(given, (list, tuple)):
        texts = [_text(name, each) for each in given]
    else:
        texts = [_text(name, given)]
    if not texts or not all(texts):
        raise OptionError(
            f"{name} has {'an empty value' if texts else 'no values'}: the grid would be empty.\n"
            f"Next: give at least one value, such as {name}={_example(name)}, or leave {name} out."
        )
    for text in texts:
        if _RANGE.fullmatch(text) and len(texts) > 1:
            raise OptionError(
                f"{name}: {text} is a range and stands alone; a list has single values.\n"
                f"Next: --over {name}={text}, or a list without it."
            )
    twice = [text for index, text in enumerate(texts) if _same(text) in map(_same, texts[:index])]
    if twice:
        raise OptionError(
            f"{name} has the value {twice[0]} twice: the same trials would run twice.\nNext: leave one of them out."
        )
    # A range in a list of its own, as in TOML: `"head.lr" = ["1e-4..1e-2"]`.
    if len(texts) == 1 and (found := _RANGE.fullmatch(texts[0])):
        return _range(name, texts[0], found[1], found[2])
    return tuple(texts)


def check_name(name: str, stages: Mapping[str, Sequence[str]]) -> None:
    """Raise OptionError, with the nearest name, for a knob that does not exist or that not every trial has.

    Args:
        name: The knob.
        stages: The names of the stages of each recipe of the sweep.
    """
    if name in OF_RUN or name in SET_AS_A_WHOLE or name.startswith(HEAD_OPTION):
        return
    stage, dot, key = name.partition(".")
    every = {each for of_recipe in stages.values() for each in of_recipe}
    keys = [each for each in Stage.model_fields if each != "name"]
    if not dot:
        raise OptionError(f"--over {name}: {_unknown(name, every)}")
    if stage not in every:
        close = nearest(name, [f"{each}.{own}" for each in sorted(every) for own in keys], count=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise OptionError(
            f"--over {name}: no recipe of this sweep has a stage {stage!r}.{hint}\nNext: name one of their stages: "
            f"{', '.join(sorted(every))}."
        )
    lacking = [recipe for recipe, of_recipe in stages.items() if stage not in of_recipe]
    if lacking:
        raise OptionError(
            f"--over {name}: recipe {lacking[0]!r} has no stage {stage!r}, so {name} would do nothing there, and the "
            "same trial would run several times.\n"
            f"Next: a sweep for each recipe, or leave {name} or {lacking[0]!r} out."
        )
    if key not in keys:
        close = nearest(key, keys)
        step = (
            f"--over {stage}.{close[0]}=VALUE,VALUE"
            if close
            else f"take one of {', '.join(keys)}; an option of a head is written {HEAD_OPTION}{key}."
        )
        hint = f" Did you mean {either([f'{stage}.{each}' for each in close])}?" if close else ""
        raise OptionError(f"--over {name}: a stage has no knob {key!r}.{hint}\nNext: {step}")


def is_whole(name: str, option_types: Mapping[str, Any]) -> bool:
    """Whether a knob takes whole numbers. Raises OptionError for one that takes no numbers, given as a range.

    `option_types`: the type of each option of the head, by name.
    """
    if name in _WHOLE_OF_RUN:
        return True
    kind = (
        option_types.get(name.removeprefix(HEAD_OPTION))
        if name.startswith(HEAD_OPTION)
        else field.annotation
        if (field := Stage.model_fields.get(name.partition(".")[2])) is not None
        else None
    )
    if kind in (int, float):
        return kind is int
    if name.endswith(".lr"):  # a number, or `auto`
        return False
    raise OptionError(
        f"--over {name} takes no range, for its values are no numbers.\nNext: list them: {name}={_example(name)}"
    )


def _unknown(name: str, stages: set[str]) -> str:
    if name in _NO_KNOBS:
        return f"{name} is not varied: {_NO_KNOBS[name]}.\nNext: leave it out."
    if name in Stage.model_fields:
        of_stages = either([f"{each}.{name}" for each in sorted(stages)])
        return f"{name} is a knob of a stage.\nNext: say of which: {of_stages}."
    close = nearest(name, [*OF_RUN, *SET_AS_A_WHOLE])
    if close:
        return f"there is no knob {name!r}. Did you mean {either(close)}?\nNext: --over {close[0]}=VALUE,VALUE"
    known = ", ".join([*OF_RUN, *SET_AS_A_WHOLE])
    return f"there is no knob {name!r}.\nNext: take {known}, STAGE.KEY as for --set, or {HEAD_OPTION}NAME."


def _range(name: str, text: str, low: str, high: str) -> ValueRange:
    try:
        found = ValueRange(float(low), float(high))
    except ValueError:
        raise OptionError(f"{name}: {text} is no range.\nNext: write LOW..HIGH, such as {name}=1e-4..1e-2.") from None
    if found.low == found.high:
        raise OptionError(f"{name}: {text} is a range of one value.\nNext: {name}={low}")
    if not found.low < found.high:
        raise OptionError(f"{name}: {text} is empty, for its end is not above its beginning.\nNext: {high}..{low}")
    return found


def _split(text: str) -> list[str]:
    """Split at commas that are not inside of brackets: `[head,last:1],[all]` are two values."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text)]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Real):  # of numpy as well, whose own texts say their type
        return repr(value.__index__() if isinstance(value, SupportsIndex) else float(value))
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(name, each) for each in value)}]"
    raise OptionError(
        f"{name} has the value {value!r}, which is no text, number or list.\n"
        f"Next: give values such as {name}={_example(name)}."
    )


def _same(text: str) -> object:
    """What two texts of one value have in common: `0.001` and `1e-3`."""
    try:
        return float(text)
    except ValueError:
        return text


def _example(name: str) -> str:
    examples = {"head": "linear,cosine", "recipe": "head_only,staged", "backbone": "resnet18,resnet50"}
    return examples.get(name, "1e-4..1e-2" if name.endswith("lr") else "A,B")
