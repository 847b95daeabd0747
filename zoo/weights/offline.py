"""The switches that keep zoo from using the network: `--offline`, `ZOO_OFFLINE`, `HF_HUB_OFFLINE`."""

from __future__ import annotations

import os

from zoo.errors import OptionError

VARIABLE = "ZOO_OFFLINE"
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def switched_off(asked: bool, *, hub: bool) -> str | None:
    """Name of the switch that turns the network off; None where it may be used.

    Args:
        asked: Whether `--offline` was given.
        hub: Whether the Hugging Face hub is to be asked; `HF_HUB_OFFLINE` then counts as well.

    Raises:
        OptionError: `ZOO_OFFLINE` has a value that means neither yes nor no.
    """
    if asked:
        return "--offline"
    value = os.environ.get(VARIABLE, "")
    if value.strip().lower() in _YES:
        return VARIABLE
    if value.strip().lower() not in _NO:
        raise OptionError(f"{VARIABLE}={value!r} means neither yes nor no.\nNext: set it to 1, or unset it.")
    return "HF_HUB_OFFLINE" if hub and _hub_is_off() else None


def _hub_is_off() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
