"""One real, small run of a backbone with a head, and what must hold of it: used by the tests and by the matrix."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import timm
import torch
import zoo
from PIL import Image
from safetensors.torch import load_file
from torchvision import models
from zoo.data.sample import sample_image
from zoo.registry.registry import default_registry

TINY = [f"timm/{name}" for name in timm.list_models("test_*")]
FAMILIES = [
    f"torchvision/{name}"
    for name in (
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
        *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
        *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32"),
    )
]
"""One architecture per family of torchvision, the smallest."""


def pairs(backbones: list[str]) -> Iterator[tuple[str, str]]:
    """Each backbone with one head that takes pooled features and one that takes a map or all layers, in turn."""
    heads = [each.spec for each in default_registry().heads() if each.plugin.own]
    pooled = cycle(each.name for each in heads if each.needs == "pooled")
    others = cycle(each.name for each in heads if each.needs != "pooled")
    for backbone in backbones:
        yield backbone, next(pooled)
        yield backbone, next(others)


def drawn() -> list[tuple[str, str]]:
    """The pairs that `pytest -m long` runs: every tiny model with one head in turn, so that every head has two."""
    tiny = list(pairs(TINY))
    return [*tiny[::2][:9], *tiny[1::2][9:], ("torchvision/mnasnet0_5", "gem")]


def draw_few(root: Path, *, train: int = 4, val: int = 2) -> Path:
    """Two classes, so many pictures of each to train on and to validate -> `root`."""
    for split, count in (("train", train), ("val", val)):
        for index, name in enumerate(("a", "b")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).save(folder / f"{number}.jpg", quality=90)
    return root


def draw_unequal(folder: Path) -> Path:
    """Two classes that a brightness hardly tells apart, one of them eleven times as large -> `folder`."""
    draw = random.Random(0)
    for split, counts in (("train", (88, 8)), ("val", (66, 6))):
        for brightness, name, count in zip((100, 140), "ab", counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                grey = round(draw.gauss(brightness, 25))
                Image.new("RGB", (32, 32), (grey, grey, number)).save(folder / split / name / f"{number}.png")
    return folder


def faults_of_a_run(backbone: str, head: str, data: Path, out: Path, *, lean: bool = False) -> list[str]:
    """Fine-tune from random weights, all stages, one epoch each; the proof covers freezing, gradients and the file.

    `lean` leaves out what costs whole passes and depends on neither: blends, and the pictures of the report.
    """
    result = zoo.finetune(
        backbone=backbone,
        head=head,
        weights="random",
        data=data,
        out=out,
        batch_size=None,
        epochs=_epochs(head),
        tune=False,
        report=not lean,
        set=["last.blend=[]", "all.blend=[]"] if lean else [],
    )
    checks = json.loads((result.path / "proof.json").read_text("utf-8"))
    checks = checks["checks"] if isinstance(checks, dict) else checks
    faults = [f"{check['name']}: {check['summary']}" for check in checks if check["verdict"] == "failed"]
    saved = load_file(result.path / "model" / "model.safetensors")
    own = {name.removeprefix("backbone.") for name in saved if name.startswith("backbone.")}
    upstream = upstream_keys(backbone)
    faults += [f"{name} is no key of upstream" for name in sorted(own - upstream)]
    faults += _differing_logits(result.path)
    return faults


def upstream_keys(backbone: str) -> set[str]:
    """State-dict keys of upstream's own whole model."""
    provider, _, architecture = backbone.partition("/")
    # torchvision's regnets cannot be built on the meta device.
    with torch.device("cpu" if "regnet" in architecture else "meta"):
        if provider == "timm":
            return set(timm.create_model(architecture).state_dict())
        arguments = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
        return set(models.get_model(architecture, weights=None, **arguments).state_dict())


def _differing_logits(path: Path) -> list[str]:
    """The artefact read twice must answer alike, bit for bit."""
    first, second = zoo.load(path), zoo.load(path)
    images = torch.randn(2, *first.model.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    one, two = first.logits(images), second.logits(images)
    if one.isfinite().all() and torch.equal(one, two) and one.shape == (2, len(first.classes)):
        return []
    return ["the saved model does not repeat its logits"]


def _epochs(head: str) -> int | None:
    # A closed form has no epochs.
    return None if default_registry().head(head).spec.fit else 1
