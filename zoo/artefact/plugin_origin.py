"""Where the plugins that an artefact needs came from, and how they are installed again.

A package index is asked for the names alone of which it is known to have them: another name there may be a stranger's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.artefact.config import BackboneConfig, HeadConfig
from zoo.specs.plan import Plan
from zoo.storage.atomic import parse_json
from zoo.text import shell_word

_FOLDER, _FILE = "a folder", "a file"
_PLAN = "plan.json"


def shareable(installed_from: str | None) -> str | None:
    """Where a plugin came from, for a file that others read: of a path only what it leads to."""
    if installed_from is None or "://" in installed_from:
        return installed_from
    return _FILE if os.path.isfile(installed_from) else _FOLDER


def install_again(
    parts: Sequence[BackboneConfig | HeadConfig], folder: Path, *, packages: Mapping[str, str] | None = None
) -> str:
    """The `Next:` line that brings the plugins of these parts of an artefact.

    Args:
        parts: The parts of the artefact's config.
        folder: The artefact. Beside one that is still in its run lies the plan, which knows the paths.
        packages: Package of an index -> its version, for further ones that it needs.
    """
    pins = dict.fromkeys(f"'{part.distribution}=={part.version}'" for part in parts if part.installed_from is None)
    pins |= dict.fromkeys(f"'{name}=={version}'" for name, version in (packages or {}).items())
    steps = [f"pip install {' '.join(pins)}"] if pins else []
    steps += dict.fromkeys(_step(part, folder) for part in parts if part.installed_from is not None)
    return f"Next: {'; '.join(steps)}"


def _step(part: BackboneConfig | HeadConfig, folder: Path) -> str:
    what, origin = f"{part.distribution} {part.version}", part.installed_from or ""
    if "://" not in origin:
        path = _path_in_run(part, folder)
        if path is None:
            return f"ask whoever made this classifier for {what}: it was installed from {origin}, and not from an index"
        if not os.path.exists(path):
            return f"find {what} and install it again: it came from {path}, which is not there now"
        origin = path
    return f"install it again from where it came from: {shell_word(origin)} ({what})"


def _path_in_run(part: BackboneConfig | HeadConfig, folder: Path) -> str | None:
    try:
        plan = Plan.model_validate(parse_json((folder.parent / _PLAN).read_text("utf-8")))
    except (OSError, ValueError):
        return None
    of_plan = plan.head if isinstance(part, HeadConfig) else plan.backbone
    same = (of_plan.distribution, of_plan.version) == (part.distribution, part.version)
    return of_plan.installed_from if same else None
