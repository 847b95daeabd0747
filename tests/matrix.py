"""The support matrix: every backbone with every head, built and run on the meta device.

    python -m tests.matrix            check it, and that docs/support.md says the same
    python -m tests.matrix --write    write docs/support.md

Each backbone is built once for its default weights; its tensors and modules must be what zoo takes for granted
(tests/structure.py); images go through it, and every head gets what comes out.
What the index says of it must be what is found. Where the outputs of groups are read, larger images tell: with --write
of every backbone, else of the first of each class, by which those of the others must come out the same. Then real runs:
timm's tiny models with one head that gets pooled features and one that gets a map, and the smallest of each family of
torchvision with either, but for the pairs that `pytest -m long tests/test_numeric.py` runs. One process a core.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import zoo
from tests.numeric import FAMILIES, TINY, draw_few, drawn, faults_of_a_run, pairs
from tests.structure import faults_of_a_pass, faults_of_tensors
from torch import Tensor
from zoo.model.build import build_backbone
from zoo.model.groups import Partition, partition
from zoo.model.layers import (
    IMAGES,
    NoLayers,
    OutputLayout,
    choose_by_layout,
    larger_pass,
    layer_means,
    layout_of,
    watch_pass,
)
from zoo.model.model import with_layers
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry, default_registry
from zoo.specs.backbone import Backbone, BackboneSpec, FeatureShape, GroupOutput
from zoo.specs.head import HeadSpec

DOCUMENT = Path(__file__).parents[1] / "docs" / "support.md"
PROVIDERS = {"torchvision": 80, "timm": 1371}
_CLASSES, _IMAGES = 5, IMAGES
_DIFFERENTIATED: set[type] = set()
_COMPUTED: set[type] = set()
"""Classes of backbones for one of which the features of all layers were computed."""
_EXAMINED = itertools.count()
_LAYOUTS: dict[tuple[Any, ...], OutputLayout] = {}
"""(class of the backbone, class of a module in it, for each tensor that it returns whether its first dimension is that
of the images and which others are 1) -> what the dimensions are."""


@dataclass(kw_only=True)
class Row:
    """What was found of one backbone."""

    name: str
    parameters: int = 0
    pooled: int = 0
    map: tuple[int, ...] | None = None
    groups: int = 0
    layers: int = 0
    """L of the features[N, L] of all layers; 0 where there are none."""
    without_output: tuple[str, ...] = ()
    """The groups that have no output of their own."""
    input_size: tuple[int, int] = (0, 0)
    heads: dict[str, str] = field(default_factory=dict)
    """Head -> why it cannot work; empty where it does."""
    faults: list[str] = field(default_factory=list)
    """What must not be: an exception, a wrong shape, an index that says something else."""


def examine(spec: BackboneSpec, heads: Sequence[Contribution[HeadSpec]], *, thorough: bool = False) -> Row:
    """Build a backbone, run it, and put every head on what comes out; `thorough` as `--write` does it."""
    row = Row(name=spec.name)
    tag = next(iter(spec.tags), None)
    _, height, width = spec.preprocessing_for(tag).input_size
    row.input_size = height, width
    try:
        with torch.device("meta"), torch.no_grad(), zoo.skip_init():
            built = spec.build(tag=tag, state=None)
            built.module.eval()
            images = torch.empty(_IMAGES, 3, height, width)
            _look_at_backbone(built, images, row)
            reasons = {"map": built.no_map, "layers": ""}
            outputs: tuple[GroupOutput, ...] = ()
            _differentiate(built, images, row)
            _run_once(built.module)
            try:
                outputs = _outputs(spec, tag, built, images, row, thorough=thorough)
            except NoLayers as error:
                reasons["layers"] = str(error)
            features = {"pooled": built.pool(built.module, images)}
            row.faults += _wrong_shape("pooled", features["pooled"], (_IMAGES, built.shape.pooled))
            if built.map is not None:
                features["map"] = built.map(built.module, images)
                row.map = tuple(features["map"].shape[1:])
                row.faults += _wrong_map(features["map"], built)
            if outputs:
                row.layers = row.pooled + sum(each.width for each in outputs)
                features["layers"] = torch.empty(_IMAGES, row.layers)
            for head in heads:
                _look_at_head(head.spec, with_layers(built.shape, outputs), features, reasons, row)
    except Exception as error:  # whatever a library raises is a line in the table, not the end of it
        row.faults.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    row.faults += _differences(spec, row)
    return row


def _look_at_backbone(built: Backbone, images: Tensor, row: Row) -> None:
    row.parameters = sum(parameter.numel() for parameter in built.module.parameters())
    groups = partition(built.module, built.groups, backbone=row.name)
    row.groups = len(groups.names)
    row.faults += faults_of_tensors(built.module, groups)
    row.pooled = built.shape.pooled


def _run_once(module: Any) -> None:
    """timm's models pool what `forward_features` returns and their maps are made of it: once serves both."""
    if hasattr(module, "forward_features"):
        module.forward_features = functools.cache(module.forward_features)


def _differentiate(built: Backbone, images: Tensor, row: Row) -> None:
    """A pass, and a backward pass, as a plan makes one to find what takes no part; once for each class of models in a
    process."""
    if type(built.module) in _DIFFERENTIATED:
        return
    _DIFFERENTIATED.add(type(built.module))
    built.module.requires_grad_(True)
    pooled: list[Tensor] = []
    with torch.enable_grad():
        run = functools.partial(built.pool, built.module, images)
        row.faults += faults_of_a_pass(built.module, lambda: pooled.append(run()), len(images))
        torch.autograd.grad(pooled[0].sum(), list(built.module.parameters()), allow_unused=True)


def _outputs(
    spec: BackboneSpec, tag: str | None, built: Backbone, images: Tensor, row: Row, *, thorough: bool
) -> tuple[GroupOutput, ...]:
    """Where the groups' outputs are read. Raises NoLayers."""
    size = row.input_size
    groups = partition(built.module, built.groups, backbone=spec.name)
    passed = watch_pass(built, images)

    @functools.cache
    def larger() -> Any:
        return larger_pass(functools.partial(_build_at, spec, tag), size)

    new = False

    def layout(name: str) -> OutputLayout:
        nonlocal new
        shapes = passed.once(name)
        # A table of positions may have as many dimensions as tokens; its first one is not that of the images.
        kinds = tuple((shape[:1] == (IMAGES,), *(size == 1 for size in shape[1:])) for shape in shapes)
        key = (type(built.module), type(built.module.get_submodule(name)), kinds)
        if thorough or key not in _LAYOUTS:
            new = True
            _LAYOUTS[key] = layout_of(shapes, larger().once(name))
        return _LAYOUTS[key]

    outputs = choose_by_layout(groups, passed, layout)
    row.without_output = tuple(name for name in groups.names if name not in {each.group for each in outputs})
    if thorough or (new and type(built.module) not in _COMPUTED):
        _COMPUTED.add(type(built.module))
        row.faults += _wrong_layers(spec, tag, built.shape.pooled, outputs, size, groups)
    return outputs


def _build_at(spec: BackboneSpec, tag: str | None, size: tuple[int, int]) -> Backbone:
    native = spec.preprocessing_for(tag).input_size[1:]
    return build_backbone(spec.build, tag=tag, state=None, input_size=size if size != native else None)


def _wrong_layers(
    spec: BackboneSpec,
    tag: str | None,
    pooled: int,
    outputs: Sequence[GroupOutput],
    size: tuple[int, int],
    groups: Partition,
) -> list[str]:
    """Compute the features of all layers, on a backbone that nothing was done to."""
    built = _build_at(spec, tag, size)
    built.module.eval()
    found = layer_means(built.pool, outputs)(built.module, torch.empty(_IMAGES, 3, *size))
    return _wrong_shape("features of all layers", found, (_IMAGES, pooled + sum(each.width for each in outputs)))


def _look_at_head(
    spec: HeadSpec, shape: FeatureShape, features: dict[str, Tensor], reasons: dict[str, str], row: Row
) -> None:
    if spec.needs not in features:
        row.heads[spec.name] = reasons[spec.needs] or "no reason given"
        row.faults += [] if reasons[spec.needs] else [f"{spec.name}: refused without a reason"]
        return
    module = spec.build(shape, _CLASSES, spec.options()).eval()
    logits = module(features[spec.needs])
    row.faults += [f"{spec.name}: {fault}" for fault in _wrong_shape("logits", logits, (_IMAGES, _CLASSES))]
    row.heads[spec.name] = ""


def _wrong_shape(what: str, found: Tensor, expected: tuple[int, ...]) -> list[str]:
    fits = tuple(found.shape) == expected and found.dtype == torch.float32
    return [] if fits else [f"{what} are {found.dtype} {list(found.shape)}, expected float32 {list(expected)}"]


def _wrong_map(found: Tensor, built: Backbone) -> list[str]:
    shape = tuple(found.shape)
    fits = len(shape) == 4 and shape[:2] == (_IMAGES, built.shape.map) and found.dtype == torch.float32
    return [] if fits else [f"the map is {found.dtype} {list(shape)}, expected [{_IMAGES}, {built.shape.map}, H, W]"]


def _differences(spec: BackboneSpec, row: Row) -> list[str]:
    if spec.facts is None:
        return ["not in the index"]
    said = (spec.facts.parameters, spec.facts.pooled, spec.facts.map, spec.facts.groups)
    found = (row.parameters, row.pooled, row.map, row.groups)
    return [] if said == found else [f"the index says {said}, found {found}"]


def specs(registry: Registry) -> Iterator[BackboneSpec]:
    """Of every architecture of zoo's own providers."""
    for held, catalogue in registry.backbones().catalogue():
        if held.plugin.own:
            yield from (held.spec.resolve(architecture) for architecture in sorted(catalogue))


def own_heads(registry: Registry) -> list[Contribution[HeadSpec]]:
    return [each for each in registry.heads() if each.plugin.own]


def _examine_named(name: str, thorough: bool = False) -> Row:
    registry = default_registry()
    row = examine(registry.backbone(name).spec, own_heads(registry), thorough=thorough)
    # Modules hold one another. Collecting whenever Python likes to is a tenth of the time.
    if next(_EXAMINED) % 8 == 0:
        gc.collect()
    return row


def _start_worker() -> None:
    torch.set_num_threads(1)
    default_registry()
    gc.disable()
    gc.freeze()


def examine_all(names: Sequence[str], *, processes: int, thorough: bool = False) -> list[Row]:
    """One row for each backbone, in the order of `names`; says on stderr how far it is."""
    began, rows = time.monotonic(), []
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker) as pool:
        for row in pool.map(functools.partial(_examine_named, thorough=thorough), names, chunksize=4):
            rows.append(row)
            left = (time.monotonic() - began) / len(rows) * (len(names) - len(rows))
            if len(rows) % 50 == 0 or row.faults:
                print(f"{len(rows)} of {len(names)}, {left:.0f} s left", file=sys.stderr)
    return rows


def run_all(processes: int) -> list[str]:
    """Faults of the real runs."""
    # Of the families, which take longer, every other one with a head that gets a map, and all without the rest.
    of_families = list(pairs(FAMILIES))
    elsewhere, lean = set(drawn()), set(of_families)
    every = [pair for pair in (*pairs(TINY), *of_families[::4], *of_families[3::4]) if pair not in elsewhere]
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        data = draw_few(Path(folder) / "data")
        runs = [(*pair, data, Path(folder) / str(number), pair in lean) for number, pair in enumerate(every)]
        with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            for (backbone, head), found in zip(every, pool.map(_run, runs), strict=True):
                faults += [f"{backbone} with {head}: {fault}" for fault in found]
    print(f"{len(every)} real runs, {len(faults)} faults")
    return faults


def _run(arguments: tuple[str, str, Path, Path, bool]) -> list[str]:
    *what, out, lean = arguments
    try:
        return faults_of_a_run(*what, out, lean=lean)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(out, ignore_errors=True)  # some hold half a gigabyte


def document(rows: Sequence[Row], heads: Sequence[Contribution[HeadSpec]]) -> str:
    """docs/support.md."""
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in PROVIDERS)
    lines = [
        "# What works with what",
        "",
        "Generated by `python -m tests.matrix --write`; CI runs `python -m tests.matrix`, which builds all of it anew "
        "and compares.",
        f"Every backbone was built for its default weights with {versions}, run on images on the meta device, and",
        f"every head was put on what came out, for {_CLASSES} classes.",
        "",
        "| head | needs | works on |",
        "|---|---|---|",
        *(_head_line(each.spec, rows) for each in heads),
        "",
        *_gaps(rows),
        "",
        *_without_output(rows),
        "",
        "`map` is that of one image of the input size given: channels x height x width. `layers` is the number of",
        "features that the head `layers` gets. Parameters are without the classifier. Groups are what recipes freeze,",
        "from input to output.",
        "",
    ]
    for provider in PROVIDERS:
        of_provider = [row for row in rows if row.name.startswith(f"{provider}/")]
        lines += [f"## {provider}: {len(of_provider):,} architectures", "", *_table(of_provider), ""]
    return "\n".join(lines)


def _head_line(spec: HeadSpec, rows: Iterable[Row]) -> str:
    counted = []
    for provider in PROVIDERS:
        of_provider = [row for row in rows if row.name.startswith(f"{provider}/")]
        works = sum(row.heads.get(spec.name) == "" for row in of_provider)
        counted.append(f"{works:,} of {len(of_provider):,} of {provider}")
    return f"| `{spec.name}` | {spec.needs} | {', '.join(counted)} |"


def _gaps(rows: Iterable[Row]) -> list[str]:
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        refused = tuple(head for head, reason in row.heads.items() if reason)
        reasons = {reason for reason in row.heads.values() if reason}
        for reason in sorted(reasons):
            by_reason.setdefault((reason, *refused), []).append(row.name.partition("/")[2])
    return [
        f"**{', '.join(heads)}**: not on {', '.join(f'`{name}`' for name in names)}: {reason}."
        for (reason, *heads), names in by_reason.items()
    ] or ["There are no gaps."]


def _without_output(rows: Iterable[Row]) -> list[str]:
    by_groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.without_output:
            by_groups.setdefault(row.without_output, []).append(row.name.partition("/")[2])
    if not by_groups:
        return ["Every group has an output, of which the head `layers` takes the mean."]
    return [
        "Groups that have no output of their own (it is not clear which of its dimensions is that of the channels, or "
        "nothing in the group is called once) are left out by the head `layers`:",
        "",
        *(
            f"- {', '.join(groups)} of {', '.join(f'`{name}`' for name in names)}"
            for groups, names in by_groups.items()
        ),
    ]


def _table(rows: Iterable[Row]) -> list[str]:
    lines = [
        "| architecture | input | parameters | pooled | map | layers | groups |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        grid = "x".join(map(str, row.map)) if row.map else "none"
        size = f"{row.input_size[0]}x{row.input_size[1]}"
        name = row.name.partition("/")[2]
        layers = row.layers or "none"
        lines.append(f"| {name} | {size} | {row.parameters:,} | {row.pooled} | {grid} | {layers} | {row.groups} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/support.md")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    registry = default_registry()
    began = time.monotonic()
    names = [spec.name for spec in specs(registry)]
    rows = examine_all(names, processes=arguments.processes, thorough=arguments.write)
    heads = own_heads(registry)
    faults = [f"{row.name}: {fault}" for row in rows for fault in row.faults]
    print(f"{len(rows):,} backbones x {len(heads)} heads, {len(faults)} faults, {time.monotonic() - began:.0f} s")
    faults += run_all(arguments.processes)
    print(f"{time.monotonic() - began:.0f} s in all")
    for fault in faults:
        print(f"  {fault}")
    text = document(rows, heads)
    if arguments.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    elif not faults and DOCUMENT.read_text("utf-8") != text:
        print(f"{DOCUMENT.name} says something else. Next: python -m tests.matrix --write, and look at the difference")
        return 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
