"""What a sweep is asked for, from a TOML file or from arguments: checked, stored, and compared when it is resumed.

Which knobs there are, and how their values are read, is in `zoo.sweeping.knobs`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import COPY_FOLDER, OptionError, Refused, RunError, either, nearest
from zoo.planning.request import check_seed
from zoo.storage.atomic import parse_json
from zoo.sweeping.knobs import ValueRange, Values, named, parse_values
from zoo.text import shell_word

FORMAT = 1
MOST = 10_000
"""Most trials that a sweep has unless `--trials` asks for more."""
_KEYS = ("data", "backbone", "head", "recipe", "seeds", "trials", "seed", "device", "precision", "over")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """Everything that the trials of a sweep are a function of, beside the images."""

    data: str
    """The data as the user named them."""
    over: Mapping[str, Values]
    """The values of every knob that is given, `backbone` among them, in the order in which they were given."""
    seeds: int = 1
    """Trials of each candidate, with the seeds 0, 1, ..."""
    trials: int | None = None
    """Most trials. None: all of the grid."""
    seed: int = 0
    """Draws candidates, values of ranges, and the images that nobody selects on."""
    device: str = "auto"
    precision: str = "float32"
    offline: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {name: str(each) if isinstance(each, ValueRange) else list(each) for name, each in self.over.items()}
        return {"format": FORMAT, **asdict(self), "over": values}


def settings_of(
    arguments: Mapping[str, Any], over: Mapping[str, Values], file: Path | None = None, *, offline: bool = False
) -> SweepSettings:
    """Put a file and arguments together; an argument, and a knob of `over`, replaces what the file says of it.

    Args:
        arguments: By the names of the file's keys; None for those that were not given.
        over: Values of knobs, as `parse_over` gives them.
        file: The TOML file.
        offline: Whether the network is off limits.

    Raises:
        OptionError: Unknown keys, an empty grid, numbers that cannot be, or neither data nor a backbone.
    """
    content = _read(file) if file is not None else {}
    given = {key: value for key, value in arguments.items() if value is not None}
    knobs = {**_of_file(content), **{key: parse_values(key, given[key]) for key in _AS_KNOBS if key in given}}
    for name in over:
        if name in _AS_KNOBS and name in given:
            raise OptionError(f"--over {name} and --{name} are both given.\nNext: give all values with one of them.")
    knobs.update(over)
    if "backbone" not in knobs:
        raise OptionError(
            "A sweep needs a backbone, or several: --backbone NAME,NAME, or backbone = [...] in the file.\n"
            "Next: zoo list backbones; or zoo shortlist, which ranks them by probes."
        )
    simple = {key: value for key, value in {**content, **given}.items() if key not in (*_AS_KNOBS, "over")}
    if not simple.get("data"):
        raise OptionError('A sweep needs images.\nNext: --data PATH, or data = "PATH" in the file. See docs/data.md.')
    simple["data"] = str(simple["data"])  # a Path from Python; `settings.json` has plain types
    _check_numbers(simple)
    knobs.update({name: _with_whole_paths(name, knobs[name]) for name in _WITH_FILES if name in knobs})
    # Whichever way the backbone was given, the same sweep has the same order of knobs, on which the grid's order rests.
    first = ("backbone", *(name for name in knobs if name != "backbone"))
    return SweepSettings(**simple, offline=offline, over={name: knobs[name] for name in first})


def settings_beside(stored: SweepSettings, arguments: Mapping[str, Any], over: Mapping[str, Values]) -> SweepSettings:
    """What is asked for beside a sweep that is resumed: what is given, and all else as the sweep has it.

    `arguments` and `over` are those of `settings_of`. Raises OptionError as it does.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    plain = {key: getattr(stored, key) for key in _KEYS if key not in (*_AS_KNOBS, "over")}
    rest = {name: values for name, values in stored.over.items() if name not in given and name not in over}
    asked = settings_of({**plain, **given}, {**rest, **over}, offline=stored.offline)
    # What is given comes last in `asked`. It is no other sweep for that: the order of the stored one is kept.
    order = dict.fromkeys([*(name for name in stored.over if name in asked.over), *asked.over])
    return replace(asked, over={name: asked.over[name] for name in order})


_WITH_FILES = ("backbone", "weights", "recipe")
"""Knobs whose values may name files."""
_WORDS = ("default", "random")
"""Weights that are no file, whatever lies in the working folder."""
_AS_KNOBS = ("backbone", "head", "recipe")
"""Knobs that have a key and an option of their own."""


def stored_settings(folder: Path) -> tuple[SweepSettings, dict[str, Any]]:
    """Read the settings of a sweep's folder -> (settings, all that was stored). Raises RunError."""
    path = folder / SETTINGS
    if not path.is_file():
        what = "is no folder of a sweep: it has no" if folder.is_dir() else "does not exist; it would hold"
        siblings = [each.parent.name for each in folder.absolute().parent.glob(f"*/{SETTINGS}")]
        close = nearest(folder.name, siblings, count=1)
        hint = f" Did you mean {str(folder.with_name(close[0]))!r}?" if close else ""
        raise RunError(f"{folder} {what} {SETTINGS}.{hint}\nNext: check the path, or start the sweep without --resume.")
    try:
        content = parse_json(path.read_text("utf-8"))
        if content["format"] > FORMAT:
            # No error that is caught below: the file is whole, this zoo is too old for it.
            raise RunError(
                f"{path} has format {content['format']}, this zoo reads {FORMAT}.\nNext: update zoo-registry."
            )
        asked = {key: value for key, value in content["settings"].items() if key != "format"}
        asked["over"] = {name: parse_values(name, values) for name, values in asked["over"].items()}
        return SweepSettings(**asked), content
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}.\n{COPY_FOLDER}") from None


SETTINGS = "settings.json"
"""The file of a sweep's folder that holds what was asked for."""


def digests_of_files(settings: SweepSettings) -> dict[str, str]:
    """SHA-256 of every file that the values name: recipes and weights. Raises OptionError for one that is not there."""
    found = {}
    for name in _WITH_FILES:
        values = settings.over.get(name, ())
        for value in values if isinstance(values, tuple) else ():
            path = Path(value.partition("=")[2] if name == "backbone" else value)
            # A file has its whole path by now (`_with_whole_paths`); what has none is a name.
            if path.is_absolute():
                try:
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
                except OSError as error:
                    raise OptionError(
                        f"{name}={value} cannot be read: {path}: {error.strerror}.\n"
                        "Next: correct the path, or make the file readable."
                    ) from None
    return found


def refuse_changed_files(folder: Path, settings: SweepSettings, digests: Mapping[str, str]) -> None:
    """Raise Refused where a recipe or weights file is another than when the sweep began."""
    changed = [name for name, digest in digests_of_files(settings).items() if digests.get(name) != digest]
    if changed:
        raise Refused(
            f"{changed[0]} has changed since the sweep in {folder} began. Trials before and after would not be "
            "comparable.\nNext: restore the file, or start a new sweep."
        )


def refuse_other_sweep(folder: Path, stored: SweepSettings, asked: SweepSettings) -> None:
    """Raise Refused, naming the differences, where a folder belongs to another sweep than the one asked for."""
    then, now = stored.to_dict(), asked.to_dict()
    differing = [
        f"  {key}: {then[key]} there, {now[key]} now"
        for key in then
        # `over` is told knob by knob below; without the network the trials are the same.
        if key not in ("over", "offline") and then[key] != now[key]
    ]
    for name in dict.fromkeys([*then["over"], *now["over"]]):
        there, here = then["over"].get(name, "not given"), now["over"].get(name, "not given")
        if there != here:
            differing.append(f"  {name}: {there} there, {here} now")
    if list(then["over"]) != list(now["over"]) and not differing:
        differing.append(f"  order of the knobs: {', '.join(then['over'])} there, {', '.join(now['over'])} now")
    if differing:
        raise Refused(
            f"{folder} belongs to another sweep:\n" + "\n".join(differing) + "\n"
            f"Next: zoo sweep --resume {shell_word(folder)} goes on with its own settings; "
            "leave --resume out for a new sweep."
        )


def _with_whole_paths(name: str, values: Values) -> Values:
    """Values that name files, with their whole paths: a sweep may be resumed in another folder."""
    if isinstance(values, ValueRange):
        return values
    return tuple(_with_whole_path(name, value) for value in values)


def _with_whole_path(name: str, value: str) -> str:
    before, equals, file = value.partition("=") if name == "backbone" else ("", "", value)
    path = Path(file).expanduser()
    # As a run reads them: what is a word there is none less for a file that happens to have its name.
    word = path.suffix != ".toml" if name == "recipe" else file in _WORDS
    if (name == "backbone" and not equals) or word or not path.is_file():
        return value
    return f"{before}{equals}{path.absolute()}"


def _read(file: Path) -> dict[str, Any]:
    try:
        # With or without a byte order mark, which editors on Windows write and TOML does not know.
        content = tomllib.loads(file.expanduser().read_text("utf-8-sig"))
    except OSError as error:
        beside = [each.name for each in file.expanduser().absolute().parent.glob("*.toml")]
        close = nearest(file.name, beside, count=1) if isinstance(error, FileNotFoundError) else ()
        hint = f" Did you mean {str(file.with_name(close[0]))!r}?" if close else ""
        raise OptionError(
            f"The sweep file {str(file)!r} cannot be read: {error.strerror}.{hint}\nNext: check the path."
        ) from None
    except UnicodeDecodeError:
        raise OptionError(
            f"The sweep file {str(file)!r} cannot be read: it is not UTF-8 text.\nNext: save it as UTF-8."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(
            f"The sweep file {str(file)!r} is not TOML: {error}.\n"
            'Next: write names with a dot in quotes: "head.lr" = "1e-4..1e-2".'
        ) from None
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        close = nearest(unknown[0], _KEYS)
        hint = f"Did you mean {either(close)}?" if close else f"There are: {', '.join(_KEYS)}."
        step = f"write {close[0]}, or leave it out" if close else "leave it out; knobs to vary stand below [over]"
        raise OptionError(f"The sweep file {str(file)!r} has the unknown key {unknown[0]!r}. {hint}\nNext: {step}.")
    return content


def _of_file(content: Mapping[str, Any]) -> dict[str, Values]:
    given: dict[str, Any] = {key: content[key] for key in _AS_KNOBS if key in content}
    over = content.get("over", {})
    if not isinstance(over, Mapping):
        raise OptionError(
            f"over should be a table, and is {over!r}.\n"
            'Next: [over], then KNOB = [values] or KNOB = "LOW..HIGH", one a line.'
        )
    for name, values in _flat(over):
        name = named(name)
        if name in given:
            raise OptionError(f"The sweep file gives {name} twice, above [over] and in it.\nNext: give it once.")
        given[name] = values
    return {name: parse_values(name, values) for name, values in given.items()}


def _flat(over: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Knobs of nested tables, which `head.lr = ...` without quotes makes in TOML."""
    found: list[tuple[str, Any]] = []
    for name, values in over.items():
        whole = f"{above}{name}"
        # An empty table gives no values, which is refused like an empty list: left out, it would vary nothing.
        inside = _flat(values, f"{whole}.") if isinstance(values, Mapping) else [(whole, values)]
        found += inside or [(whole, [])]
    return found


def _check_numbers(given: Mapping[str, Any]) -> None:
    least: Sequence[tuple[str, int]] = (("seeds", 1), ("trials", 1))
    for name, lowest in least:
        value = given.get(name)
        # In Python a bool is an int, and `seeds = true` in a file would be one seed.
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
            raise OptionError(
                f"--{name} must be a whole number, at least {lowest}, got {value!r}.\nNext: --{name} {max(3, lowest)}"
            )
    if given.get("seed") is not None:
        check_seed(given["seed"])
    trials, seeds = given.get("trials"), given.get("seeds", 1)
    if trials is not None and trials < seeds:
        raise OptionError(
            f"--trials {trials} is less than --seeds {seeds}, and every candidate is tried with all seeds.\n"
            f"Next: --trials {seeds} or more, or fewer seeds."
        )
    if given.get("precision", "float32") not in PRECISIONS:
        raise OptionError(
            f"--precision {given['precision']!r} is none of {either(PRECISIONS)}. (auto is not among them: what is "
            f"measured on a busy machine differs from trial to trial.)\nNext: --precision {PRECISIONS[0]}"
        )
