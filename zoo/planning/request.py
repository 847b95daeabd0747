"""A request for a run: its arguments, checked and with their defaults. Nothing here imports torch."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, get_args

from zoo.errors import OptionError, meant
from zoo.specs.preprocessing import Decode

SAMPLE_CLASSES = 5
EXAMINED, _FEWEST = 1000, 10
"""Most images that are opened before a plan is shown, by default; the fewest that may be asked for."""
AUTO = "auto"
"""The backbone of a request that leaves the choice to zoo."""
_INPUTS = range(8, 8193)
_SEEDS = range(2**64)
"""What torch's generators take, without the negative numbers: torch reads those as others of these."""
_NUMBERS = ("classes", "epochs", "batch_size", "seed", "workers", "examine")
# Both letters for 10^9: people write either.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
DEFAULT_RECIPE, CLOSED_FORM_RECIPE = "staged", "head_only"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `zoo plan`, `zoo finetune`, `zoo.plan` and `zoo.finetune`; every default is here."""

    backbone: str
    """`[provider/]architecture[.tag]`, or `auto`: the best of a shortlist."""
    head: str = "dropout_linear"
    classes: int | None = None
    """Number of classes. None: as many as the data has, or 5 for the sample set."""
    recipe: str | None = None
    """A registered name, or the path of a TOML file. None: `staged`, or `head_only` for a closed-form head."""
    data: Path | None = None
    """Folder, file or pattern of files. None: the generated sample set."""
    weights: str = "default"
    """`default`, a tag, `random`, or the path of a file."""
    head_options: Mapping[str, Any] = field(default_factory=dict)
    set: tuple[str, ...] = ()
    """`STAGE.KEY=VALUE`, each over a value of the recipe."""
    epochs: int | None = None
    batch_size: int | None = None
    input_size: tuple[int, int] | None = None
    """(height, width) in pixels. None: the size that the weights were made for."""
    decode: Decode = "exact"
    """`exact`: every pixel of an image file; `fast`: large JPEG files at a part of their size."""
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: the faster one here, where it is at least 1.2 times faster."""
    tune: bool = True
    """Whether the fastest precision and memory layout are measured, once per machine and model."""
    workers: int | None = None
    """Number of decoding threads. None: one per core, at most eight."""
    budget: float | None = None
    """Most seconds for choosing the backbone, where it is `auto`. None: a fifth of an estimated run, at least a
    minute."""
    folds: int | None = None
    """Number of folds in place of a validation split: every image is trained on, and predicted by a fit without it."""
    every_stage: bool = False
    """Whether folds may repeat stages that train the backbone, which takes about as many times longer as there are."""
    examine: int = EXAMINED
    """Most images that are opened before the plan is shown, drawn by the seed. A run opens the others after that."""
    shard_backbone: bool = False
    """Whether each of several processes holds a part of the layers that train, of gradients and optimizer state."""
    offline: bool = False
    """Whether the network is off limits. Weights that are not on this machine are an error then, on the samples too."""


def make_request(**arguments: Any) -> Request:
    """The one place where arguments become a request: paths are expanded, sizes checked, sequences made tuples.

    Args:
        arguments: By the names of `Request`'s fields; those that are left out have their defaults.

    Raises:
        OptionError: No backbone, or an input size, a budget or a number that cannot be; head options without names.
    """
    if not arguments.get("backbone"):
        raise OptionError("A backbone is needed: [provider/]architecture[.tag].\nNext: zoo list backbones")
    if arguments.get("budget") is not None:
        arguments["budget"] = parse_duration("--budget", arguments["budget"])
    # A shell expands `~` at the beginning of a word alone: `--data=~/pets`, and every call in Python, come as they are.
    for name in ("data", "out"):
        if arguments.get(name) is not None:
            arguments[name] = Path(arguments[name]).expanduser()
    if "set" in arguments:
        assignments = arguments["set"]
        # One text is one assignment; as a sequence it would be its letters.
        arguments["set"] = (assignments,) if isinstance(assignments, str) else tuple(assignments)
    if arguments.get("input_size") is not None:
        arguments["input_size"] = check_input_size(arguments["input_size"])
    for name in _NUMBERS:
        if arguments.get(name) is not None:
            arguments[name] = _whole(name, arguments[name])
    check_seed(arguments.get("seed", 0))
    if arguments.get("decode", "exact") not in get_args(Decode):
        asked = arguments["decode"]
        raise OptionError(
            f"--decode {asked!r} is not exact or fast.{meant(str(asked), get_args(Decode), count=1)}\n"
            "Next: leave --decode out, and every pixel is decoded."
        )
    options = arguments.get("head_options", {})
    if not isinstance(options, Mapping):
        raise OptionError(
            f"head_options={options!r} has no names.\nNext: head_options={{'p': 0.3}}; zoo show HEAD lists the options."
        )
    if (examine := arguments.get("examine")) is not None and examine < _FEWEST:
        raise OptionError(
            f"--examine must be at least {_FEWEST}, got {examine}: fewer images tell nothing.\n"
            f"Next: leave --examine out, for {EXAMINED:,}; a number above that of all images opens all."
        )
    # Not by `_whole`: `_refuse_folds` has better words for what is no number of folds.
    if isinstance(folds := arguments.get("folds"), SupportsIndex) and not isinstance(folds, bool):
        arguments["folds"] = operator.index(folds)
    _refuse_folds(arguments.get("folds"), every_stage=arguments.get("every_stage", False))
    return Request(**arguments)


def given_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """The names of the arguments that differ from their defaults. An empty list or mapping is no argument."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(Request).parameters.items()}
    # In the signature, `backbone` has no default, and a mapping's is a marker of the dataclass.
    defaults |= {"backbone": None, "head_options": {}}
    return [
        name
        for name, value in arguments.items()
        if value != defaults[name] and not (isinstance(value, (Sequence, Mapping)) and not value)
    ]


def parse_input_size(text: str) -> tuple[int, int]:
    """`384` or `384x512` (height x width) -> (height, width) in pixels. Raises OptionError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) in _INPUTS for side in sides):
        raise _no_size(text)
    return int(sides[0]), int(sides[-1])


def parse_count(option: str, text: str | int) -> int:
    """`25M`, `1.5b`, `300000` -> a number. `option` is named in the error. Raises OptionError."""
    parsed = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbg]?)", str(text).strip().replace("_", "").lower())
    if parsed is None:
        raise OptionError(f"{option} {str(text)!r} is not a count.\nNext: write it as 25M, 1.5B, 300k or 25000000.")
    count = round(float(parsed.group(1)) * _UNITS[parsed.group(2)])
    if not count > 0:
        raise OptionError(f"{option} must be above 0, got {text}.\nNext: leave {option} out, for no limit.")
    return count


def parse_duration(option: str, text: str | float, *, unit: str = "s", example: str = "90s, 10m or 2h") -> float:
    """`90s`, `10m`, `1.5h`, `20ms` or a number -> seconds. Raises OptionError, which names `option` and the `example`.

    `unit` is that of a number alone; empty: such a text is refused, for nobody knows what was meant.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?", str(text).strip().lower())
    seconds = float(found[1]) * _SECONDS.get(found[2] or unit, 0.0) if found else 0.0
    if not seconds > 0:
        raise OptionError(f"{option} {str(text)!r} is not a time.\nNext: write it as {example}.")
    return seconds


def check_input_size(size: object) -> tuple[int, int]:
    """(height, width) in pixels, one number for a square, or either as a text -> a tuple. Raises OptionError."""
    if isinstance(size, str):
        return parse_input_size(size)
    given = list(size) if isinstance(size, (tuple, list)) else [size, size]
    sides = [operator.index(side) for side in given if isinstance(side, SupportsIndex) and not isinstance(side, bool)]
    if len(sides) != 2 or len(given) != 2 or not all(side in _INPUTS for side in sides):
        raise _no_size("x".join(map(str, given)) if isinstance(size, (tuple, list)) else str(size))
    return sides[0], sides[1]


def check_seed(seed: object) -> None:
    """Raise OptionError for what is no seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed not in _SEEDS:
        raise OptionError(f"--seed must be a whole number from 0 to 2^64 - 1, got {seed!r}.\nNext: --seed 0")


def _whole(name: str, value: object) -> int:
    """A whole number of any kind, numpy's too, as Python's. Raises OptionError for a text, which is no number."""
    option = f"--{name.replace('_', '-')}"
    try:
        # To Python, True is the whole number 1. Here it is a slip.
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise OptionError(f"{option} must be a whole number, got {value!r}.\nNext: leave {option} out, for the usual one.")


def _refuse_folds(folds: object, *, every_stage: bool) -> None:
    if folds is None:
        if every_stage:
            raise OptionError(
                "--every-stage says that folds may repeat stages that train the backbone, and no folds are asked for.\n"
                "Next: leave --every-stage out, or add --folds 5."
            )
        return
    if not isinstance(folds, int) or isinstance(folds, bool) or folds < 2:
        raise OptionError(
            f"--folds must be a whole number from 2 on, got {folds!r}: each fold is predicted by a fit to the others.\n"
            "Next: --folds 5, the usual number; or leave it out to validate on a part of the images."
        )


def _no_size(text: str) -> OptionError:
    return OptionError(
        f"--input-size {text!r} is not a size from {_INPUTS.start} to {_INPUTS.stop - 1} pixels.\n"
        "Next: write 384, or 384x512 for height x width."
    )
