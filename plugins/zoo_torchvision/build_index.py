"""Write `index.json` for the installed torchvision: `python -m zoo_torchvision.build_index`.

This builds and runs every architecture on the meta device, which takes a minute or two.
"""

from __future__ import annotations

import sys

import zoo

from zoo_torchvision import upstream
from zoo_torchvision.catalogue import INDEX, spec
from zoo_torchvision.index import Entry, index_text, stored_index


def measured(architecture: str) -> Entry:
    """Build an architecture and return its index entry with the measured facts."""
    entry = upstream.entry(architecture)
    return {**entry, "facts": zoo.measure(spec(architecture, entry)).to_dict()}


def main() -> None:
    """Measure every architecture and write the index."""
    entries = {name: measured(name) for name in upstream.names()}
    INDEX.write_text(index_text(stored_index(entries)), encoding="utf-8")
    print(f"{INDEX}: {len(entries)} architectures, {INDEX.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
