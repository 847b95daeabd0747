"""Which device a run uses."""

from __future__ import annotations

import torch

from zoo.errors import DeviceError, OptionError


def choose_device(asked: str) -> str:
    """`auto` -> the best that is there; anything else is checked.

    Raises OptionError for what is no device name, DeviceError for a device that this machine does not have.
    """
    if asked == "auto":
        return next((name for name in ("cuda", "mps") if name in available_devices()), "cpu")
    kind, _, index = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise OptionError(f"--device {asked!r} is no device; give auto, cpu, cuda, cuda:N or mps.")
    if kind not in available_devices():
        reason = (
            "this torch was built without CUDA" if kind == "cuda" and torch.version.cuda is None else "none was found"
        )
        raise DeviceError(
            f"--device {asked}: there is no {kind} device here ({reason}). "
            f"Available: {', '.join(available_devices())}.\n"
            "Next: leave --device out to take the best one; zoo doctor shows what was found."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {asked}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0."
        )
    return asked


def available_devices() -> list[str]:
    """Kinds of device that work here, best last."""
    kinds = ["cpu"]
    if torch.backends.mps.is_available():
        kinds.append("mps")
    if torch.cuda.is_available():
        kinds.append("cuda")
    return kinds
