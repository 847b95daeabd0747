"""Check an artefact on its own, without training data, pretrained weights or a network."""

from __future__ import annotations

from pathlib import Path

from zoo.artefact.config import GOLDEN, TENSORS, ArtefactConfig
from zoo.artefact.golden import GREY_LEVELS, Difference, Golden, Match, compare_images, compare_logits, read_golden
from zoo.artefact.read import changed_versions, install_versions, read_config, read_model
from zoo.errors import ArtefactError, DeviceError
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.model.devices import available_devices
from zoo.registry.registry import Registry
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.run_result import Check, Verdict
from zoo.storage.tensors import file_digest

_VERDICTS: dict[Match, Verdict] = {"same": "passed", "close": "warning", "other": "failed"}
_NO_GOLDEN = f"it has none: an earlier zoo made it, which wrote no {GOLDEN}; whether its logits changed is unknown"


def artefact_checks(folder: Path, registry: Registry) -> list[Check]:
    """Check digests, config, class names, and the preprocessing and logits of the golden pictures.

    A fault is a failed check, not an exception.
    """
    try:
        config = read_config(folder)
        golden = read_golden(folder, config)
        file = _check_file(folder, config)
    except (ArtefactError, OSError) as error:
        return [Check(name="saved_file", verdict="failed", summary=str(error))]
    if file.verdict == "failed":
        return [file]
    if golden is None:
        return [file, Check(name="golden_logits", verdict="warning", summary=_NO_GOLDEN)]
    return [
        file,
        _check_classes(golden, config),
        _check_preprocessing(golden, config),
        _check_logits(folder, golden, config, registry),
    ]


def _check_file(folder: Path, config: ArtefactConfig) -> Check:
    digest = file_digest(folder / TENSORS)
    same = digest == config.digest
    return Check(
        name="saved_file",
        verdict="passed" if same else "failed",
        summary=f"{TENSORS} has the digest that config.json records"
        if same
        else f"{TENSORS} is damaged or was replaced: SHA-256 {digest[:16]}..., recorded {config.digest[:16]}...",
    )


def _check_classes(golden: Golden, config: ArtefactConfig) -> Check:
    same = golden.classes == config.classes
    # One list may be the beginning of the other; then no pair differs, and their lengths are what is said.
    first = next((pair for pair in zip(config.classes, golden.classes, strict=False) if pair[0] != pair[1]), None)
    differing = f"{first[0]!r} instead of {first[1]!r}" if first else f"there were {len(golden.classes)}"
    return Check(
        name="class_names",
        verdict="passed" if same else "failed",
        summary=f"{len(config.classes)} names in the order of the logits"
        if same
        else f"config.json names other classes than the logits were made with: {differing}",
        evidence={"then": list(golden.classes), "now": list(config.classes)},
    )


def _check_preprocessing(golden: Golden, config: ArtefactConfig) -> Check:
    levels = compare_images(golden, Preprocessing.from_dict(config.preprocessing))
    # Another release of the decoder or the resize may change a pixel by a grey level or two.
    verdict: Verdict = "passed" if levels == 0 else "warning" if levels <= GREY_LEVELS else "failed"
    count = len(golden.pictures)
    return Check(
        name="golden_preprocessing",
        verdict=verdict,
        summary=f"{count} golden pictures are preprocessed to the same bits"
        if levels == 0
        else f"golden pictures are preprocessed differently than before, by up to {levels:.3g} of 255 grey levels "
        f"({GREY_LEVELS:g} are allowed)",
        evidence={"pictures": count, "largest_difference": levels},
    )


def _check_logits(folder: Path, golden: Golden, config: ArtefactConfig, registry: Registry) -> Check:
    assert config.golden is not None
    # On the kind of device that they were made on if there is one: other kinds differ in the last bits.
    kind = config.golden.device.partition(":")[0]
    device, full = kind if kind in available_devices() else "cpu", ""
    try:
        try:
            difference = _compared(folder, golden, config, registry, device)
        except DeviceError:
            if device == "cpu":
                raise
            # Others may use it, and to verify no device can be chosen. The tolerance allows for another kind.
            device, full = "cpu", f"; {device} has no memory free for them"
            difference = _compared(folder, golden, config, registry, device)
    except ArtefactError as error:
        return Check(name="golden_logits", verdict="failed", summary=str(error))
    count = len(golden.images)
    return Check(
        name="golden_logits",
        verdict=_VERDICTS[difference.match],
        summary=f"{count} golden images give the same logits, bit for bit{full}"
        if difference.match == "same"
        else f"golden images give other logits than before, {difference}; computed on {config.golden.device} then, "
        f"on {device} now{full}{_other_versions(folder, config, registry)}",
        evidence={
            "images": count,
            "largest_difference": difference.largest,
            "largest_logit": difference.scale,
            "tolerance": difference.tolerance,
            "device": device,
            "precision": config.precision,
        },
    )


def _other_versions(folder: Path, config: ArtefactConfig, registry: Registry) -> str:
    """What may be the reason for other logits, and how to bring it back; empty where all versions are the same."""
    changed = changed_versions(config, registry)
    if not changed:
        return ""
    return f". It was made with {' and '.join(changed)}.\n{install_versions(config, registry, folder)}"


def _compared(folder: Path, golden: Golden, config: ArtefactConfig, registry: Registry, device: str) -> Difference:
    """The difference between the golden logits and those of the model on a device. Raises DeviceError where it is full.

    The model is read for it, so that what one device could not take whole is not asked of another one.
    """
    model, _ = read_model(folder, registry)
    with out_of_memory_as_error(f"golden logits on {device}", step="free memory, then zoo verify again."):
        return compare_logits(model.to(device), golden, config)
