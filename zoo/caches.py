"""Where zoo keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ZOO_CACHE_DIR"


def cache_folder() -> Path:
    """`ZOO_CACHE_DIR`, or the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("zoo")
