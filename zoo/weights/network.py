"""Whether zoo may use the network."""

from __future__ import annotations

import os

from zoo.errors import OptionError

VARIABLE = "ZOO_OFFLINE"
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def switched_off(asked: bool, *, hub: bool) -> str | None:
    """What keeps zoo from the network: `--offline` where `asked`, `ZOO_OFFLINE`, and for the `hub` `HF_HUB_OFFLINE`;
    None where nothing does. Raises OptionError for a value of `ZOO_OFFLINE` that says neither yes nor no."""
    if asked:
        return "--offline"
    value = os.environ.get(VARIABLE, "")
    if value.strip().lower() in _YES:
        return VARIABLE
    if value.strip().lower() not in _NO:
        raise OptionError(f"{VARIABLE}={value!r} says neither yes nor no.\nNext: set it to 1, or unset it.")
    return "HF_HUB_OFFLINE" if hub and _hub_is_off() else None


def _hub_is_off() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
