"""A head's options: a frozen dataclass, filled from text or values, checked, and stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zoo.errors import OptionError, either, nearest


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option, for people."""

    name: str
    type: str
    default: Any


def describe_options(options: type[Any]) -> list[OptionInfo]:
    """The fields of an options dataclass with their types and defaults."""
    infos = []
    for field in fields(options):
        default = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
        name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        infos.append(OptionInfo(field.name, name, default))
    return infos


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """`["p=0.3"]` -> `{"p": "0.3"}`. Raises OptionError for anything else and for an option given twice."""
    values: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not (key and equals):
            raise OptionError(f"--head-option {assignment!r}: write it as KEY=VALUE, for example p=0.3.")
        if key in values:
            raise OptionError(f"--head-option {key} is given twice: {values[key]!r} and {value!r}.")
        values[key] = value
    return values


def build_options(head: str, options: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `options` from text or Python values.

    Raises OptionError naming every unknown option, wrong type and value out of range.
    """
    known = [field.name for field in fields(options)]
    faults = []
    for key in values:
        if key not in known:
            close = nearest(key, known)
            hint = f"did you mean {either(close)}?" if close else f"known: {', '.join(known) or 'none'}"
            faults.append(f"{key}: unknown option; {hint}")
    accepted = {key: value for key, value in values.items() if key in known}
    try:
        built = TypeAdapter(options).validate_python(accepted)
    except ValidationError as error:
        faults += [_fault(each["loc"], each["msg"], each["input"]) for each in error.errors()]
    except (TypeError, ValueError) as error:
        faults.append(str(error))
    if faults:
        raise OptionError(f"Options of head {head!r}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return built


def options_to_dict(options: Any) -> dict[str, Any]:
    """Plain JSON types, as `build_options` reads them back."""
    dumped = TypeAdapter(type(options)).dump_python(options, mode="json")
    return dict(dumped)


def _fault(path: Sequence[Any], message: str, given: Any) -> str:
    text = message.removeprefix("Value error, ")
    return f"{path[0]}: {text[0].lower()}{text[1:]}, got {given!r}" if path else text
