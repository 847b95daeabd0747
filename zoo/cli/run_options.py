"""The options that plan and finetune share, and the request that they make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from zoo.cli.options import (
    Backbone,
    BatchSize,
    Classes,
    Data,
    Device,
    Epochs,
    Head,
    HeadOption,
    InputSize,
    Json,
    NoTune,
    Out,
    Precision,
    Recipe,
    Seed,
    Set,
    Weights,
    Workers,
)
from zoo.errors import OptionError
from zoo.planning.request import Request, parse_input_size

_DEFAULT = Request(backbone="")


def _run_options(
    ctx: typer.Context,
    backbone: Backbone = _DEFAULT.backbone,
    head: Head = _DEFAULT.head,
    classes: Classes = _DEFAULT.classes,
    recipe: Recipe = _DEFAULT.recipe,
    data: Data = _DEFAULT.data,
    weights: Weights = _DEFAULT.weights,
    head_option: HeadOption = None,
    set_: Set = None,
    epochs: Epochs = _DEFAULT.epochs,
    batch_size: BatchSize = _DEFAULT.batch_size,
    input_size: InputSize = None,
    out: Out = _DEFAULT.out,
    seed: Seed = _DEFAULT.seed,
    device: Device = _DEFAULT.device,
    precision: Precision = _DEFAULT.precision,
    no_tune: NoTune = not _DEFAULT.tune,
    workers: Workers = _DEFAULT.workers,
    as_json: Json = False,
) -> None:
    """The options that plan and finetune share, declared once."""


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with `_run_options`, called with (the request that they make, the verbosity, whether JSON is asked).

    Its own keyword-only arguments are options beside them.
    """
    signature = inspect.signature(_run_options, eval_str=True)
    parameters = inspect.signature(command, eval_str=True).parameters
    own = {name: each for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}

    @functools.wraps(_run_options)
    def run(ctx: typer.Context, **given: Any) -> None:
        from zoo.options import parse_assignments

        resumed = given.get("resume")
        if resumed is not None:
            _refuse_beside_resume(ctx, resumed)
            command(None, ctx.obj, given["as_json"], **{name: given[name] for name in own})
            return
        if not given["backbone"]:
            raise OptionError("Missing option '--backbone': [provider/]architecture[.tag].\nNext: zoo list backbones")
        arguments = {
            name: value
            for name, value in given.items()
            if name in Request.__dataclass_fields__ and name != "input_size"
        }
        request = Request(
            **arguments,
            tune=not given["no_tune"],
            head_options=parse_assignments(given["head_option"] or []),
            set=tuple(given["set_"] or []),
            input_size=parse_input_size(given["input_size"]) if given["input_size"] is not None else None,
        )
        command(request, ctx.obj, given["as_json"], **{name: given[name] for name in own})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {**_run_options.__annotations__, **{name: each.annotation for name, each in own.items()}}
    *shared, as_json = signature.parameters.values()
    own_options = [each.replace(kind=each.POSITIONAL_OR_KEYWORD) for each in own.values()]
    run.__signature__ = signature.replace(parameters=[*shared, *own_options, as_json])  # type: ignore[attr-defined]
    return run


def _refuse_beside_resume(ctx: typer.Context, resumed: Path) -> None:
    given = [
        f"--{name.rstrip('_').replace('_', '-')}"
        for name in ctx.params
        if name not in ("resume", "no_report", "as_json", "observer", "offline") and _is_given(ctx, name)
    ]
    if given:
        raise OptionError(
            f"--resume goes alone, the plan is in {resumed}; also given: {', '.join(given)}.\n"
            f"Next: zoo finetune --resume {resumed}"
        )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
