"""The packages of the extra `serve`. This module needs none of them, nor torch: what is missing is said at once."""

from __future__ import annotations

from importlib.util import find_spec

from zoo.errors import Refused

PACKAGES = ("starlette", "uvicorn", "python_multipart")


def refuse_without_packages() -> None:
    """Raise Refused where a package of the extra `serve` is missing."""
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise Refused(
            f"zoo serve needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.\n"
            "Next: pip install 'zoo-registry[serve]'"
        )
