"""An artefact used with other versions of the plugins than it was made with."""

from __future__ import annotations

from pathlib import Path

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.golden import compare_logits, read_golden
from zoo.errors import ArtefactError
from zoo.events import Note, Report
from zoo.model.model import ZooModel
from zoo.registry import Registry


def check_versions(model: ZooModel, folder: Path, config: ArtefactConfig, registry: Registry, report: Report) -> None:
    """Say which plugins have another version than stored, and try the golden logits with them; where all have the
    stored version, nothing is computed.

    Raises ArtefactError where the logits are others: the classifier is not the one that was judged.
    """
    changed = _changed(config, registry)
    if not changed:
        return
    said = f"{folder} was made with {' and '.join(changed)}"
    golden = read_golden(folder, config)
    if golden is None:
        report(Note(text=f"{said}. It has no golden logits, so nothing tells whether that matters.", loud=True))
        return
    difference = compare_logits(model, golden, config)
    if difference.match == "other":
        raise ArtefactError(
            f"{said}, and gives other logits with that than when it was made: {difference}.\n"
            f"Next: pip install {' '.join(_stored(config))}"
        )
    exact = difference.match == "same"
    found = "are the same, bit for bit" if exact else f"differ {difference}"
    report(Note(text=f"{said}. Its golden logits {found}.", loud=not exact))


def _changed(config: ArtefactConfig, registry: Registry) -> list[str]:
    found = (
        (config.head, registry.head(config.head.name).plugin),
        (config.backbone, registry.backbone(config.backbone.name).plugin),
    )
    changed = [
        f"{part.distribution} {part.version} (here is {plugin.distribution} {plugin.version})"
        for part, plugin in found
        if (part.distribution, part.version) != (plugin.distribution, plugin.version)
    ]
    return list(dict.fromkeys(changed))


def _stored(config: ArtefactConfig) -> list[str]:
    pinned = [f"'{part.distribution}=={part.version}'" for part in (config.head, config.backbone)]
    return list(dict.fromkeys(pinned))
