"""zoo: any pretrained backbone, any head, any freezing recipe.

`import zoo` imports neither torch nor any plugin: a name is imported when it is first used. The public names stand in
`__init__.pyi`, which type checkers and editors read too.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

_load, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("zoo-registry")
    value = _load(name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
