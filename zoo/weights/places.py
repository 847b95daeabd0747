"""Where pretrained weights lie on this machine: torchvision's checkpoint folder and the hub's cache."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from zoo.specs import HubFile, UrlFile
from zoo.weights.download import basename


def checkpoint(source: UrlFile) -> Path:
    """Where torchvision, too, looks for it."""
    return checkpoint_folder() / basename(source.url)


def checkpoint_folder() -> Path:
    """torch's, without the seconds that its import takes."""
    if "torch.hub" in sys.modules:
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME", f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def hub_folder() -> Path:
    """The hub library's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def in_hub_cache(source: HubFile) -> Path | None:
    """The first of its files that the hub's cache holds."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(source.repo_id, file, revision=source.revision) for file in source.filenames)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def has_digest(path: Path, sha256: str | None) -> bool:
    """Whether a file's SHA-256 begins with `sha256`; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return not sha256 or hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256.lower())
    except OSError:
        return False
