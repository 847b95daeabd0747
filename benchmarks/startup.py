"""How fast looking is: zoo's light commands beside the same question put to timm, as whole processes.

    python -m benchmarks.startup [--rounds N]

The programs take turns, so that a machine that slows down slows all of them; medians and ratios are printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

PEER = ("python -c 'import timm; timm.list_models()'", [sys.executable, "-c", "import timm; timm.list_models()"])
ASKED = {
    "zoo list backbones": 12.0,
    "zoo --help": 15.0,
    "zoo list": None,
    "zoo list backbones --head gem --sort params": None,
    "zoo show resnet18": None,
    "import zoo": None,
}
"""Command -> how many times faster than the peer it must be, where that was promised."""


def command(name: str) -> list[str]:
    """The words of a process that does what `name` says."""
    if name == "import zoo":
        return [sys.executable, "-c", name]
    # As the installed script does it; its own start is the same for every program.
    return [sys.executable, "-m", *name.split()]


def seconds(words: Sequence[str]) -> float:
    """Of one whole process."""
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    programs = {PEER[0]: PEER[1], **{name: command(name) for name in ASKED}}
    for words in programs.values():  # once unmeasured: bytecode, disk
        seconds(words)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, words in programs.items():
            times[name].append(seconds(words))
    peer = statistics.median(times[PEER[0]])
    print(f"{'whole process, median of ' + str(rounds):<48} {'seconds':>8} {'ratio':>7}  asked")
    missed = 0
    for name, measured in times.items():
        median = statistics.median(measured)
        asked = ASKED.get(name)
        missed += asked is not None and peer / median < asked
        print(f"{name:<48} {median:>8.3f} {peer / median:>7.1f}  {asked or ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
