"""Content that took a while to make, kept in zoo's cache folder for next time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from zoo.caches import cache_folder
from zoo.errors import RunError
from zoo.files import parse_json, write_text

_FOLDER = "kept"


def kept_json(name: str, make: Callable[[], Any], *, announce: str | None = None) -> Any:
    """JSON content made once: read from the cache folder, else `announce` goes to stderr, and it is made and kept.

    Args:
        name: A file name that changes when the content must (say, with the version of what it was made from).
        make: Returns plain JSON types.
        announce: One line: what is being made, why, and how long it takes.

    A damaged file is made again. A cache folder that cannot be written costs only the next call's time.
    """
    path = cache_folder() / _FOLDER / name
    try:
        return parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        pass
    if announce is not None:
        print(announce, file=sys.stderr)
    content = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, ensure_ascii=False))
    except (OSError, RunError) as error:
        print(f"It could not be kept: {error}", file=sys.stderr)
    return content
