"""A head's options: a frozen dataclass, filled from text or values, checked, and stored as JSON.

It is apart from `zoo.specs.head` so that reading specs needs no pydantic, which takes time to import.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from zoo.errors import OptionError, PluginError, either, nearest, plain


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """An option of a head, as it is shown to people."""

    name: str
    type: str
    default: Any
    """The default in plain JSON types."""


def describe_options(options: type[Any]) -> list[OptionInfo]:
    """The fields of an options dataclass with their types and defaults."""
    defaults = options_to_dict(options())
    return [OptionInfo(field.name, _type_name(options, field), defaults[field.name]) for field in fields(options)]


def _type_name(options: type[Any], field: Field[Any]) -> str:
    """A type as people read it: `float`, `int | None`; for a Literal its values, `cosine | euclidean`."""
    try:
        hint = get_type_hints(options)[field.name]
    except NameError:  # a type imported for type checkers alone; using the option says so
        hint = field.type
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint)


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """`["p=0.3"]` -> `{"p": "0.3"}`. Raises OptionError for anything else and for an option given twice."""
    values: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not (key and equals):
            raise OptionError(
                f"--head-option {assignment!r} is not KEY=VALUE.\nNext: write it so; zoo show HEAD lists the options."
            )
        if key in values:
            raise OptionError(
                f"--head-option {key} is given twice: {values[key]!r} and {value!r}.\nNext: leave one of the two out."
            )
        values[key] = value
    return values


def build_options(head: str, options: type[Any], values: Mapping[str, Any]) -> Any:
    """Make an instance of the dataclass `options` from Python values or from text. Lists in text are read as JSON.

    Raises OptionError that names every unknown option, wrong type and value out of range.
    """
    # All faults together, as for recipes: nobody should mend one to be told of the next.
    known = [field.name for field in fields(options)]
    faults = []
    for key in values:
        if key not in known:
            close = nearest(key, known)
            hint = f"did you mean {either(close)}?" if close else f"known: {', '.join(known) or 'none'}"
            faults.append(f"{key}: unknown option; {hint}")
    accepted = {key: value for key, value in values.items() if key in known}
    built, wrong = _built(options, accepted)
    # As JSON only what was refused as it is: a text that looks like a list may be meant as a text.
    decoded = {key: _decoded(accepted[key]) for key in {str(error["loc"][0]) for error in wrong if error["loc"]}}
    if any(value is not accepted[key] for key, value in decoded.items()):
        built, wrong = _built(options, {**accepted, **decoded})
    faults += [_fault(error, accepted) for error in wrong]
    if faults:
        listed = "".join(f"  {fault}\n" for fault in faults)
        raise OptionError(f"Options of head {head!r}:\n{listed}Next: correct these; zoo show HEAD lists the options.")
    return built


def options_to_dict(options: Any) -> dict[str, Any]:
    """The options in plain JSON types, which `build_options` reads back."""
    dumped = _adapter(type(options)).dump_python(options, mode="json")
    return dict(dumped)


def _adapter(options: type[Any]) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter(options)
        adapter.rebuild()  # only this notices a type that does not exist at runtime
        return adapter
    except (PydanticUserError, NameError) as error:
        raise PluginError(
            f"The options {options.__module__}.{options.__qualname__} have a type that zoo cannot read: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _built(options: type[Any], values: Mapping[str, Any]) -> tuple[Any, list[ErrorDetails]]:
    try:
        return _adapter(options).validate_python(values), []
    except ValidationError as error:
        return None, error.errors()
    except TypeError as error:  # raised by the dataclass's own check
        return None, [ErrorDetails(type="value_error", loc=(), msg=str(error), input=values)]


def _decoded(value: Any) -> Any:
    # `[256, 128]` or `none` on the command line, for an option that is a list or may be absent.
    if not isinstance(value, str) or not (value.startswith(("[", "{")) or value.lower() in ("none", "null")):
        return value
    try:
        return json.loads(value) if value.startswith(("[", "{")) else None
    except ValueError:
        return value


def _fault(error: ErrorDetails, given: Mapping[str, Any]) -> str:
    text = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return text
    key = str(error["loc"][0])
    if error["type"] == "value_error":
        return f"{key}: {text}"
    text = "should be a list, such as [1,2]" if error["type"] in ("tuple_type", "list_type") else plain(text)
    return f"{key}: {text}, got {given[key]!r}"
