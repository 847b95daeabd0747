"""What listing shards costs: tar files of samples, and Parquet files that hold images.

    python -m benchmarks.scale_shards [--images 200_000]

Files of tiny members are made up in a temporary folder, each kind is listed by zoo's own code in a process of its own,
and the table of docs/scale.md is printed. What a member holds is not read, so its size changes nothing but how far the
list jumps in a tar.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

KINDS = ("tar", "parquet")
LEAST = 1_000
_IN_A_SHARD, _CLASSES, _ROW_GROUP = 10_000, 1_000, 1_000
_MEMBER = b"x" * 100


def write_tar(folder: Path, images: int) -> None:
    """Shards of webdataset's samples: for each image a file and its label."""
    for first in range(0, images, _IN_A_SHARD):
        with tarfile.open(folder / f"shard-{first // _IN_A_SHARD:05d}.tar", "w") as shard:
            for number in range(first, min(first + _IN_A_SHARD, images)):
                for kind, content in (("jpg", _MEMBER), ("cls", str(number % _CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{kind}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))


def write_parquet(folder: Path, images: int) -> None:
    """Files as the Hugging Face hub has them."""
    import pyarrow as pa
    from pyarrow import parquet

    parts = -(-images // _IN_A_SHARD)
    for part in range(parts):
        numbers = range(part * _IN_A_SHARD, min((part + 1) * _IN_A_SHARD, images))
        cells = [{"bytes": _MEMBER, "path": f"{number:09d}.jpg"} for number in numbers]
        table = pa.table({"image": cells, "label": [number % _CLASSES for number in numbers]})
        name = f"train-{part:05d}-of-{parts:05d}.parquet"
        parquet.write_table(table, folder / name, row_group_size=_ROW_GROUP)


def listed(folder: Path) -> dict[str, float]:
    """List a folder of shards -> CPU seconds, and bytes that the list holds and that it took at most."""
    import pyarrow.parquet  # noqa: F401 - what is imported counts for no image
    import zoo.data.listed_images  # noqa: F401
    from zoo.data.sources import find_data, read_dataset
    from zoo.events import silent
    from zoo.registry.registry import default_registry

    location = find_data(folder, default_registry(), silent)
    gc.collect()
    before, began = _resident(), time.process_time()
    dataset = read_dataset(location, seed=0)
    seconds = time.process_time() - began
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    images = sum(map(len, dataset.splits.values()))
    return {"images": images, "seconds": seconds, "held": _resident() - before, "peak": peak - before}


def measure(kind: str, images: int) -> dict[str, float]:
    """Make shards of a kind up, and list them in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="zoo-shards-") as folder:
        {"tar": write_tar, "parquet": write_parquet}[kind](Path(folder), images)
        command = [sys.executable, "-m", "benchmarks.scale_shards", "--list", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    assert found["images"] == images
    return found


def row(kind: str, found: dict[str, float]) -> str:
    """A row of the table: what an image costs, and ten million of them."""
    seconds, held, peak = (found[key] / found["images"] for key in ("seconds", "held", "peak"))
    ten = f"{seconds * 1e7 / 60:.0f} min | {held / 100:.1f} GB | {peak / 100:.1f} GB"
    return f"| {kind} | {1e6 * seconds:.0f} | {held:.0f} | {peak:.0f} | {ten} |"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.list is not None:
        print(json.dumps(listed(asked.list)))
        return 0
    if asked.images < LEAST:
        parser.error(f"--images must be at least {LEAST:,}, got {asked.images:,}: the start would be most of it.")
    print("| shards | CPU microseconds an image | bytes held | bytes at most | 10 million: CPU | held | at most |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        print(row(kind, measure(kind, asked.images)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
