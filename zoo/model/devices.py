"""Choose the device of a run, and describe the machine: what its speed and the last bits of its results depend on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from zoo.errors import DeviceError, OptionError, nearest

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that let torch use less than the processor has."""


def choose_device(asked: str) -> str:
    """Return the best available device for `auto`; check any other name and return it as it is.

    Raises OptionError for a name that is not a device name, DeviceError for a device that this machine does not have.
    """
    asked = str(asked)  # a torch.device, too
    if asked == "auto":
        return next((name for name in ("cuda", "mps") if name in available_devices()), "cpu")
    kind, colon, index = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not index.isdecimal()):
        here = available_devices()
        # Who writes `gpu` means an accelerator, though `cpu` is spelt most like it.
        close = here[1:][-1:] if kind.lower() == "gpu" else nearest(kind, ["auto", *here], count=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise OptionError(
            f"--device {asked!r} is not a valid device; give auto, cpu, cuda, cuda:N or mps.{hint}\n"
            f"Next: leave --device out to use the best available device; here are {', '.join(here)}."
        )
    if kind not in available_devices():
        reason = (
            "this torch was built without CUDA" if kind == "cuda" and torch.version.cuda is None else "none was found"
        )
        raise DeviceError(
            f"--device {asked}: there is no {kind} device here ({reason}). "
            f"Available: {', '.join(available_devices())}.\n"
            "Next: leave --device out to use the best available device; zoo doctor shows what was found."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {asked}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0.\n"
            "Next: --device cuda:0, or one of the others; zoo doctor shows what was found."
        )
    if kind == "cpu" and index and int(index):
        raise DeviceError(f"--device {asked}: the processor has no numbers.\nNext: --device cpu.")
    # Its name alone is compared with, and there is only one.
    return "cpu" if kind == "cpu" else asked


def available_devices() -> list[str]:
    """List the kinds of device that work on this machine, the best last: `cpu`, then `mps` or `cuda`."""
    kinds = ["cpu"]
    if torch.backends.mps.is_available():
        kinds.append("mps")
    if torch.cuda.is_available():
        kinds.append("cuda")
    return kinds


def machine_facts(device: str) -> list[str]:
    """List what speed and the last bits depend on beside the model: device, processor, torch, threads, system.

    Where variables let torch use less than the processor has, they follow: other kernels add in another order.
    """
    processor = torch.cuda.get_device_name(device) if device.startswith("cuda") else _describe_processor()
    facts = [device, processor, torch.__version__, str(torch.get_num_threads()), platform.system()]
    return [*facts, *(f"{name}={value}" for name in LIMITS if (value := os.environ.get(name)))]


def processor_fields() -> dict[str, str]:
    """What the system says of the processor, by its own names; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}


def _describe_processor() -> str:
    fields = processor_fields()
    if not fields:
        return platform.processor() or platform.machine()
    # The flags say which instructions the kernels of torch choose, and with them the order of additions.
    return "\n".join(fields.get(key, "") for key in ("model name", "cpu family", "model", "flags", "Features"))
