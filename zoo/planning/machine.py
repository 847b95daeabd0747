"""What makes this machine compute as fast as it does, and to the bits that it does."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine_facts(device: str) -> list[str]:
    """What speed and the last bits depend on beside the model: device, processor, torch, threads, system."""
    named = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return [device, named, torch.__version__, str(torch.get_num_threads()), platform.system()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return "\n".join(told.get(key, "") for key in ("model name", "cpu family", "model", "flags", "Features"))
