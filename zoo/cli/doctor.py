"""`zoo doctor`: the facts that a bug report needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from zoo.cli.command_group import command_plugins
from zoo.cli.document import print_document
from zoo.display.wrapping import say
from zoo.registry.registry import default_registry
from zoo.storage.cache import VARIABLE, cache_folder


def print_doctor(zoo_commands: Collection[str], *, as_json: bool) -> None:
    """Print versions, devices, threads, caches, plugins, and the commands that plugins add to `zoo_commands`."""
    sections = _examine(zoo_commands)
    if as_json:
        print_document(json.dumps(sections, indent=2, ensure_ascii=False))
        return
    width = max(18, *(len(name) for facts in sections.values() for name in facts))
    for title, facts in sections.items():
        say(title)
        for name, value in facts.items():
            say(f"  {name:<{width}}  {value}")


def _examine(zoo_commands: Collection[str]) -> dict[str, dict[str, Any]]:
    from zoo.planning.versions import versions

    commands = {plugin.label: "; ".join([plugin.state, *plugin.notes]) for plugin in command_plugins(zoo_commands)}
    return {
        "versions": {**versions(), "system": platform.platform()},
        "devices": _devices(),
        "caches": _caches(),
        # All hooks are called for this: some plugins break only when they are asked for something.
        "plugins": {
            plugin.label: plugin.state + (f": {plugin.error}" if plugin.error else "")
            for plugin in default_registry().plugins()
        },
        **({"commands": commands} if commands else {}),
    }


def _devices() -> dict[str, Any]:
    import torch

    from zoo.model.devices import available_devices, choose_device

    facts: dict[str, Any] = {
        "auto means": choose_device("auto"),
        "available": ", ".join(available_devices()),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "CUDA of torch": torch.version.cuda or "none",
        "CPU": torch.backends.cpu.get_cpu_capability(),
    }
    for index in range(torch.cuda.device_count()):
        facts[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return facts


def _caches() -> dict[str, str]:
    import torch
    from huggingface_hub import constants

    folders = {
        f"zoo ({VARIABLE})": cache_folder(),
        "torch (TORCH_HOME)": Path(torch.hub.get_dir()),
        "hub (HF_HOME)": Path(constants.HF_HUB_CACHE),
    }
    return {name: _folder(path) for name, path in folders.items()}


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (does not exist yet)"
    return f"{path} ({shutil.disk_usage(path).free / 1e9:.0f} GB free)"
