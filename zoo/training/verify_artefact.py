"""An artefact looked at by itself: without training data, weights or network."""

from __future__ import annotations

from pathlib import Path

from zoo.artefact.config import GOLDEN, TENSORS, ArtefactConfig
from zoo.artefact.golden import GREY_LEVELS, Golden, Match, compare_images, compare_logits, read_golden
from zoo.artefact.read import read_config, read_model
from zoo.errors import ArtefactError
from zoo.model.build import file_digest
from zoo.planning.devices import available_devices
from zoo.preprocessing import Preprocessing
from zoo.registry import Registry
from zoo.training.memory import memory_suffices
from zoo.training.proof import Check, Verdict

_VERDICTS: dict[Match, Verdict] = {"same": "passed", "close": "warning", "other": "failed"}
_NO_GOLDEN = f"it has none: it was made by a zoo that wrote no {GOLDEN}; whether it still answers as then is not known"


def artefact_checks(folder: Path, registry: Registry) -> list[Check]:
    """Digests and config, class names, preprocessing and logits of the golden pictures. Raises nothing for a fault: a
    check says it."""
    try:
        config = read_config(folder)
        golden = read_golden(folder, config)
        file = _same_file(folder, config)
    except (ArtefactError, OSError) as error:
        return [Check(name="saved_file", verdict="failed", summary=str(error))]
    if file.verdict == "failed":
        return [file]
    if golden is None:
        return [file, Check(name="golden_logits", verdict="warning", summary=_NO_GOLDEN)]
    return [
        file,
        _same_classes(golden, config),
        _same_preprocessing(golden, config),
        _same_logits(folder, golden, config, registry),
    ]


def _same_file(folder: Path, config: ArtefactConfig) -> Check:
    found = file_digest(folder / TENSORS)
    same = found == config.digest
    return Check(
        name="saved_file",
        verdict="passed" if same else "failed",
        summary=f"{TENSORS} has the digest that config.json notes"
        if same
        else f"{TENSORS} is damaged or was replaced: SHA-256 {found[:16]}..., noted {config.digest[:16]}...",
    )


def _same_classes(golden: Golden, config: ArtefactConfig) -> Check:
    same = golden.classes == config.classes
    first = next((pair for pair in zip(config.classes, golden.classes, strict=False) if pair[0] != pair[1]), None)
    differing = f"{first[0]!r} where it was {first[1]!r}" if first else f"{len(golden.classes)} then"
    return Check(
        name="class_names",
        verdict="passed" if same else "failed",
        summary=f"{len(config.classes)} names in the order of the logits"
        if same
        else f"config.json names other classes than the logits were made with: {differing}",
        evidence={"then": list(golden.classes), "now": list(config.classes)},
    )


def _same_preprocessing(golden: Golden, config: ArtefactConfig) -> Check:
    levels = compare_images(golden, Preprocessing.from_dict(config.preprocessing))
    verdict: Verdict = "passed" if levels == 0 else "warning" if levels <= GREY_LEVELS else "failed"
    count = len(golden.pictures)
    return Check(
        name="golden_preprocessing",
        verdict=verdict,
        summary=f"{count} golden pictures come out bit for bit as then"
        if levels == 0
        else f"golden pictures come out differently than then, by up to {levels:.3g} of 255 grey levels "
        f"({GREY_LEVELS:g} are allowed)",
        evidence={"pictures": count, "largest_difference": levels},
    )


def _same_logits(folder: Path, golden: Golden, config: ArtefactConfig, registry: Registry) -> Check:
    assert config.golden is not None
    kind = config.golden.device.partition(":")[0]
    device = kind if kind in available_devices() else "cpu"
    try:
        model, _ = read_model(folder, registry)
        with memory_suffices("golden logits"):
            difference = compare_logits(model.to(device), golden, config)
    except ArtefactError as error:
        return Check(name="golden_logits", verdict="failed", summary=str(error))
    count = len(golden.images)
    same = difference.match == "same"
    return Check(
        name="golden_logits",
        verdict=_VERDICTS[difference.match],
        summary=f"{count} golden images give the same logits, bit for bit"
        if same
        else f"golden images give other logits than then, {difference}; computed on {config.golden.device} then, "
        f"on {device} now",
        evidence={
            "images": count,
            "largest_difference": difference.largest,
            "largest_logit": difference.scale,
            "tolerance": difference.tolerance,
            "device": device,
            "precision": config.precision,
        },
    )
