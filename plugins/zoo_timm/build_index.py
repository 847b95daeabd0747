"""Writes `index.json` from the installed timm: `python -m zoo_timm.build_index`.

It builds and runs every architecture on the meta device, in one process a core: a quarter of an hour on two.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
import zoo

from zoo_timm import upstream
from zoo_timm.catalogue import INDEX, Entry, spec
from zoo_timm.stored import index_text, stored_index


def measured(architecture: str) -> Entry:
    """What the index says of an architecture; it is built to be measured."""
    entry = upstream.entry(architecture)
    facts = zoo.measure(spec(architecture, entry))
    return replace(entry, facts=facts)


def measure_all(architectures: Sequence[str], *, processes: int) -> dict[str, Entry]:
    """The same for many; says on stderr how far it is."""
    began, entries = time.monotonic(), {}
    # Forked processes can hang in libraries that run threads of their own.
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for name, entry in zip(architectures, pool.map(measured, architectures, chunksize=4), strict=True):
            entries[name] = entry
            left = (time.monotonic() - began) / len(entries) * (len(architectures) - len(entries))
            print(f"\r{len(entries)} of {len(architectures)}, {left:.0f} s left  ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return entries


def main() -> None:
    """Measure and write everything."""
    entries = measure_all(upstream.names(), processes=os.cpu_count() or 1)
    INDEX.write_text(index_text(stored_index(entries)), encoding="utf-8")
    print(f"{INDEX}: {len(entries)} architectures, {INDEX.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
