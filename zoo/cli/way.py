"""`zoo show BACKBONE --head HEAD`: the way of an image to the logits."""

from __future__ import annotations

import json
from dataclasses import asdict

from zoo.cli import console
from zoo.errors import OptionError
from zoo.model.build import build_outline
from zoo.model.way import Step, way_of_an_image
from zoo.options import build_options
from zoo.planning.input_size import refuse_input_size
from zoo.planning.pairs import refuse_pair
from zoo.registry import Registry
from zoo.registry.names import qualified_name


def show_way(
    backbone: str, head: str, classes: int, input_size: tuple[int, int] | None, registry: Registry, *, as_json: bool
) -> None:
    """Print shape, dtype and parameters at each step. Raises Refused for a pair or a size that cannot work."""
    if classes < 2:
        raise OptionError(f"--classes must be at least 2, got {classes}.")
    resolved = registry.backbone(backbone)
    found = registry.head(head)
    refuse_pair(resolved, found, registry)
    options = build_options(found.spec.name, found.spec.options, {})
    if input_size is not None:
        refuse_input_size(resolved, resolved.tag, input_size)
    names = tuple(f"class{number}" for number in range(classes))
    outline = build_outline(resolved, found, options, classes=names, tag=resolved.tag, input_size=input_size)
    steps = way_of_an_image(outline)
    if as_json:
        content = {
            "backbone": resolved.qualified,
            "head": qualified_name(found),
            "classes": classes,
            "steps": [asdict(step) for step in steps],
        }
        print(json.dumps(content, indent=2))
        return
    print(f"{resolved.qualified} with {qualified_name(found)}, {classes} classes; one image:")
    screen = console.out()
    console.show(screen, console.table(None, ["step", "comes out", "dtype", "parameters"], [*map(_row, steps)]))
    total = sum(step.parameters for step in steps)
    print(f"{total:,} parameters. Recipes freeze and train by these groups: zoo show staged")


def _row(step: Step) -> list[str]:
    shape = "(not on the way)" if step.shape is None else f"[{', '.join(map(str, step.shape))}]"
    return [step.name, shape, step.dtype, f"{step.parameters:,}" if step.parameters else ""]
