"""A stopped run looked up again from its plan, and compared with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from zoo.errors import Refused, RunError, nearest
from zoo.events import Report
from zoo.files import parse_json
from zoo.planning.plan import FORMAT, Plan
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved, resolve
from zoo.recipes import RecipeSpec
from zoo.registry import Registry
from zoo.training.run_folder import PLAN, RESULT

_SHOWN = 10


def read_plan(run: Path) -> Plan:
    """The plan of a run folder. Raises RunError for what is no run or a plan that cannot be read."""
    path = run / PLAN
    if not run.is_dir():
        raise RunError(
            f"There is no run folder {str(run)!r}.{_meant(run)} A run that was stopped before its plan was made leaves "
            "none.\nNext: check the path, or start the run again."
        )
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run} is no run folder: it has no {PLAN}.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise RunError(f"{path} has format {stated}, this zoo reads up to {FORMAT}. Next: update zoo-registry.")
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is no plan that this zoo can read: {where}: {first['msg']}") from None


def refuse_finished(run: Path) -> None:
    """Raise Refused for a run with a result."""
    if (run / RESULT).exists():
        raise Refused(
            f"{run} is finished: there is nothing to resume.\n"
            f"Next: zoo predict {run} IMAGE, zoo report {run}, or zoo finetune with other options and another --out."
        )


def resolve_again(plan: Plan, registry: Registry, report: Report, *, offline: bool = False) -> Resolved:
    """Look up what a plan names, as when it was made; `offline` is no part of a plan. Raises ZooError."""
    # The number of threads changes bits.
    torch.set_num_threads(plan.threads)
    recipe = RecipeSpec(
        name="stored", summary=plan.recipe_summary, keep=plan.keep, stages=tuple(each.settings for each in plan.stages)
    )
    resolved = resolve(_request(plan, offline), registry, report, recipe=(recipe, plan.recipe))
    return replace(resolved, dataset=replace(resolved.dataset, source=plan.data.source))


def differences(stored: Plan, found: Plan) -> list[str]:
    """Every value in which two plans differ, `path: then, now`; how many threads decode is none of them, nor what is
    only said about a plan, nor what is computed once, in which a run follows its stored plan."""
    # Pydantic takes sets and dictionaries.
    ignored: Any = {
        "workers": True,
        "warnings": True,
        "estimate": True,
        "stages": {"__all__": {"inputs", "cut", "kept_bytes", "why"}},
    }
    return _differences(stored.model_dump(mode="json", exclude=ignored), found.model_dump(mode="json", exclude=ignored))


def refuse_differences(run: Path, stored: Plan, found: Plan) -> None:
    """Raise Refused, with what differs, where a run would not go on as it began."""
    differing = differences(stored, found)
    if not differing:
        return
    listed = "\n".join(f"  {each}" for each in differing[:_SHOWN])
    more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    raise Refused(
        f"{run} cannot go on as it began; its plan says one thing and this machine another:\n{listed}{more}\n"
        "Next: put that back, or start a new run."
    )


def refuse_other_plan(checkpoint: Path, of_checkpoint: Mapping[str, Any], plan: Plan) -> None:
    """Raise Refused, with what differs, for a checkpoint that was written under another plan."""
    differing = _differences(of_checkpoint, plan.model_dump(mode="json"))
    if differing:
        listed = "\n".join(f"  {each}" for each in differing[:_SHOWN])
        raise Refused(
            f"{checkpoint} is of another plan:\n{listed}\n"
            f"Next: put back the plan that it was written under, or remove {checkpoint} to begin from this one."
        )


def _meant(run: Path) -> str:
    """The run beside it whose name is most like it, as a question."""
    beside = [each.parent.name for each in run.parent.glob(f"*/{PLAN}")]
    close = nearest(run.name, beside, count=1)
    return f" Did you mean {str(run.with_name(close[0]))!r}?" if close else ""


def _request(plan: Plan, offline: bool) -> Request:
    weights = {"tag": plan.weights.label, "random": "random", "file": plan.weights.path or ""}[plan.weights.kind]
    _, height, width = plan.preprocessing["input_size"]
    return Request(
        backbone=plan.backbone.asked,
        head=plan.head.name,
        classes=len(plan.classes),
        data=None if plan.data.sample else Path(f"{plan.data.reader}:{plan.data.path}"),
        weights=weights,
        head_options=plan.head.options,
        input_size=(height, width),
        seed=plan.seed,
        device=plan.device,
        workers=plan.workers,
        offline=offline,
    )


def _differences(stored: Any, found: Any, path: str = "") -> list[str]:
    if isinstance(stored, Mapping) and isinstance(found, Mapping):
        keys = [*stored, *(key for key in found if key not in stored)]
        return [
            line
            for key in keys
            for line in _differences(stored.get(key), found.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        return [
            line
            for index, (one, other) in enumerate(zip(stored, found, strict=True))
            for line in _differences(one, other, f"{path}[{index}]")
        ]
    return [] if stored == found else [f"{path}: {_short(stored)} then, {_short(found)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
