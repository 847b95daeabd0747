"""Write `index.json` for the installed timm: `python -m zoo_timm.build_index`.

This builds and runs every architecture on the meta device, in one process per core: a quarter of an hour on two cores.
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
from zoo_timm.catalogue import INDEX, spec
from zoo_timm.index import Entry, index_text, stored_index


def measured(architecture: str) -> Entry:
    """Build an architecture and return its index entry with the measured facts."""
    entry = upstream.entry(architecture)
    return replace(entry, facts=zoo.measure(spec(architecture, entry)))


def measure_all(architectures: Sequence[str], *, processes: int) -> dict[str, Entry]:
    """Measure many architectures in parallel, and show the progress on stderr."""
    began, entries = time.monotonic(), {}
    # Not forked: a forked process can hang in libraries that have started threads.
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for name, entry in zip(architectures, pool.map(measured, architectures, chunksize=4), strict=True):
            entries[name] = entry
            left = (time.monotonic() - began) / len(entries) * (len(architectures) - len(entries))
            print(f"\r{len(entries)} of {len(architectures)}, {left:.0f} s left  ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return entries


def main() -> None:
    """Measure every architecture and write the index."""
    entries = measure_all(upstream.names(), processes=os.cpu_count() or 1)
    INDEX.write_text(index_text(stored_index(entries)), encoding="utf-8")
    print(f"{INDEX}: {len(entries)} architectures, {INDEX.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
