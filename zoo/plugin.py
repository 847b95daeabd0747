"""What authors of plugins need: specs, hooks, events and the functions that build with them.

Every name stands in `zoo` as well. Importing this module imports no torch: a name is imported when it is first used.
The names stand in `plugin.pyi`, which type checkers and editors read too.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

_load, _names, __all__ = lazy_loader.attach_stub(__package__ or "zoo", __file__)


def __getattr__(name: str) -> Any:
    value = _load(name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return _names()
