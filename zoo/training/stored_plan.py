"""The stored plan of a run: read it, make it again on this machine, and compare the two."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import zoo.display.plan  # noqa: F401  (a notebook shows plans by it)
from zoo.errors import COPY_FOLDER, Refused, RunError, nearest
from zoo.events import Report
from zoo.planning.request import EXAMINED, Request
from zoo.planning.resolve import Resolved, resolve
from zoo.process import use_threads
from zoo.registry.registry import Registry
from zoo.registry.session import missing_objects, of_session
from zoo.specs.plan import FORMAT, Plan
from zoo.storage.atomic import parse_json
from zoo.text import shell_word
from zoo.training.run_folder import PLAN, SOUP, has_result

_SHOWN = 10
"""Differences that a message lists."""


def read_plan(run: Path, *, finished: bool = True) -> Plan:
    """Read the plan of a run folder.

    Args:
        run: The run folder.
        finished: Whether what is done with it needs its result, or needs that there is none; so that no other run is
            suggested that would be refused.

    Raises:
        RunError: There is no run, or no plan that can be read.
    """
    path = run / PLAN
    if not run.is_dir():
        raise RunError(
            f"There is no run folder {str(run)!r}.{_suggestion(run, finished)} A run that is stopped before its plan "
            "is made leaves no folder.\nNext: check the path, or start the run again."
        )
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        if (run / SOUP).exists():
            raise RunError(
                f"{run} is a soup of runs and no run: it has no {PLAN}. zoo predict, evaluate, export and verify take "
                f"it.\nNext: give one of the runs that it was made of, which {run / SOUP} names."
            ) from None
        raise RunError(f"{run} is no run folder: it has no {PLAN}.\nNext: give the folder of a run.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise RunError(
            f"{path} has format {stated}, this zoo reads formats up to {FORMAT}.\nNext: update zoo-registry."
        )
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is not a plan that this zoo can read: {where}: {first['msg']}\n{COPY_FOLDER}") from None


def refuse_finished(run: Path) -> None:
    """Raise Refused for a run that has its result."""
    if has_result(run):
        raise Refused(
            f"{run} is finished: there is nothing to resume.\n"
            f"Next: zoo predict {shell_word(run)} IMAGE, zoo report {shell_word(run)}, or zoo finetune with other "
            "options and another --out."
        )


def resolve_again(plan: Plan, registry: Registry, report: Report, *, offline: bool = False) -> Resolved:
    """Turn a stored plan back into a request and resolve it on this machine.

    `offline` is not stored in a plan: it says whether the network may be used now. Raises ZooError.
    """
    use_threads(plan.threads)
    missing = missing_objects(
        registry,
        backbone=plan.backbone.name,
        head=plan.head.name,
        whose="This run",
        call="zoo.resume(RUN",
        data=plan.data.reader,
    )
    if missing:
        raise Refused(missing)
    resolved = resolve(_request(plan, offline), registry, report, recipe=(plan.recipe_spec(), plan.recipe))
    # A plan that does not say what was taken is of a file without a choice, or was made when raw weights came first.
    weights = replace(resolved.model.weights, averages_first=plan.weights.taken is not None)
    return replace(
        resolved,
        model=replace(resolved.model, weights=weights),
        dataset=replace(resolved.dataset, source=plan.data.source),
    )


def differences(stored: Plan, current: Plan) -> list[str]:
    """Return every value in which two plans differ and by which results could, as `PATH: THEN then, NOW now`.

    Ignored are the numbers of decoding threads and of processes, and what each of these holds, warnings, estimates,
    what is known of earlier training, whence plugins, backbone and precision came, and which frozen outputs are
    cached: in the last a resumed run follows its stored plan, whatever this machine would choose.
    """
    cached = {"inputs", "cut", "kept_bytes", "kept_as", "window", "shards", "why"}
    # pydantic's type for `exclude` does not allow for this nesting.
    ignored: Any = {
        "workers": True,
        "processes": True,
        "shard_backbone": True,
        "warnings": True,
        "estimate": True,
        "shortlist": True,
        "compute_origin": True,
        "stages": {"__all__": cached | {"solver_why", "batch_norm_why"}},
        "weights": {"download", "download_bytes", "trained_on"},
        "backbone": {"installed_from"},
        "head": {"installed_from"},
    }
    if of_session(stored.data.reader):  # an object: its images are known by their digest, whatever holds them
        ignored["data"] = {"notes"}
    if stored.weights.taken is None:  # as in a plan that was made when zoo did not store it
        ignored["weights"].add("taken")
    return _differences(
        stored.model_dump(mode="json", exclude=ignored), current.model_dump(mode="json", exclude=ignored)
    )


def differing_values(one: Any, other: Any, *, words: tuple[str, str]) -> list[str]:
    """Return every value in which two contents of plain JSON types differ, as `PATH: ONE words[0], OTHER words[1]`."""
    return _differences(one, other, words=words)


def refuse_differences(run: Path, stored: Plan, current: Plan) -> None:
    """Raise Refused, listing the differences, where a resumed run would not continue as it began.

    Args:
        run: The run folder.
        stored: Its plan.
        current: The plan as this machine makes it now.
    """
    differing = differences(stored, current)
    if not differing:
        return
    listed = "\n".join(f"  {line}" for line in differing[:_SHOWN])
    more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise Refused(
        f"{run} cannot be resumed: its plan differs from the plan made on this machine now:\n{listed}{more}\n"
        "Next: restore these values, or start a new run."
    )


def refuse_other_plan(checkpoint: Path, of_checkpoint: Mapping[str, Any], plan: Plan) -> None:
    """Raise Refused, listing the differences, for a checkpoint that was written under another plan."""
    # Read as a plan, so that what plans did not say when it was written has the value that it had then.
    with contextlib.suppress(ValidationError):
        of_checkpoint = Plan.model_validate(dict(of_checkpoint)).model_dump(mode="json")
    differing = _differences(of_checkpoint, plan.model_dump(mode="json"))
    if differing:
        listed = "\n".join(f"  {line}" for line in differing[:_SHOWN])
        raise Refused(
            f"{checkpoint} belongs to another plan:\n{listed}\n"
            f"Next: restore the plan that it was written under, or remove {checkpoint} to start from this one."
        )


def _suggestion(run: Path, finished: bool) -> str:
    """Ask whether the run in the same folder with the most similar name was meant."""
    siblings = [path.parent for path in run.parent.glob(f"*/{PLAN}")]
    names = [sibling.name for sibling in siblings if has_result(sibling) == finished]
    close = nearest(run.name, names, count=1)
    return f" Did you mean {str(run.with_name(close[0]))!r}?" if close else ""


def _request(plan: Plan, offline: bool) -> Request:
    weights = {"tag": plan.weights.label, "random": "random", "file": plan.weights.path or "", "own": "default"}[
        plan.weights.kind
    ]
    _, height, width = plan.preprocessing["input_size"]
    # Not by `make_request`: the values were checked when the run began, and a native size may be outside its range.
    return Request(
        backbone=plan.backbone.asked,
        head=plan.head.name,
        classes=len(plan.classes),
        data=None if plan.data.sample else Path(f"{plan.data.reader}:{plan.data.path}"),
        weights=weights,
        head_options=plan.head.options,
        input_size=(height, width),
        decode=plan.preprocessing.get("decode", "exact"),
        seed=plan.seed,
        folds=plan.folds.count if plan.folds else None,
        every_stage=plan.folds.every_stage if plan.folds else False,
        device=plan.device,
        workers=plan.workers,
        examine=plan.data.examined.images if plan.data.examined else EXAMINED,
        shard_backbone=plan.shard_backbone,
        offline=offline,
    )


def _differences(stored: Any, current: Any, path: str = "", *, words: tuple[str, str] = ("then", "now")) -> list[str]:
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        keys = [*stored, *(key for key in current if key not in stored)]
        return [
            line
            for key in keys
            for line in _differences(
                stored.get(key), current.get(key), f"{path}.{key}" if path else str(key), words=words
            )
        ]
    if isinstance(stored, list) and isinstance(current, list) and len(stored) == len(current):
        return [
            line
            for index, (one, other) in enumerate(zip(stored, current, strict=True))
            for line in _differences(one, other, f"{path}[{index}]", words=words)
        ]
    return [] if stored == current else [f"{path}: {_short(stored)} {words[0]}, {_short(current)} {words[1]}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
