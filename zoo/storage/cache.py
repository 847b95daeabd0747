"""The cache folder: where zoo stores what it can make again. Nothing here imports torch.

Here is where it lies, and small JSON files in it. `zoo.storage.feature_cache` has the rows of features, and
`zoo.storage.eviction` lists, evicts and clears what is there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import RunError
from zoo.storage.atomic import parse_json, write_text

VARIABLE = "ZOO_CACHE_DIR"


def cache_folder() -> Path:
    """The folder that `ZOO_CACHE_DIR` names, or `zoo` in the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("zoo")


_FOLDER = "kept"


def cached_json(name: str, make: Callable[[], Any], *, announce: str | None = None) -> Any:
    """Return JSON content from the cache folder, or make it and store it there.

    Args:
        name: A file name, which must change when the content does (say, with the version of what it was made from).
        make: Takes nothing and returns plain JSON types.
        announce: A line for stderr before `make` is called: what is made, why, and how long it takes.

    A damaged file is made again. A cache folder that cannot be written costs only the next call's time.
    """
    path = cache_folder() / _FOLDER / name
    try:
        return _read(path)
    except (OSError, ValueError):
        pass
    if announce is not None:
        print(announce, file=sys.stderr)
    content = make()
    try:
        # Only here: whoever reads alone leaves no folder behind.
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, ensure_ascii=False))
    except (OSError, RunError) as error:
        print(f"It could not be stored for next time: {error}", file=sys.stderr)
    return content


def stored_json(name: str) -> Any:
    """The content that `cached_json` stored under a name, or None where there is none that can be read."""
    try:
        return _read(cache_folder() / _FOLDER / name)
    except (OSError, ValueError):
        return None


def _read(path: Path) -> Any:
    return parse_json(path.read_text("utf-8"))


kept_json = cached_json
"""The former name, which stays."""
