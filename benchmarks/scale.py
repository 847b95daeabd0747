"""What one, ten and a hundred million images cost, and which part of zoo gives first.

    python -m benchmarks.scale [--images N] [--write]
    python -m benchmarks.scale --kept

Three things, each in a process of its own:

- the simulation (`benchmarks.scale_parts`) of a tenth of N images and of N: names, digests and hashes are made up, and
  zoo's own code lists, splits, digests, compares and orders them. Time and peak memory of every part;
- the rates of one core here (`benchmarks.scale_rates`): reading, decoding, checking, computing, features read back;
- the costs: what follows from these rates for 1, 10 and 100 million images on one GPU, 8 and 64. `costs` is the whole
  arithmetic.

`--images 10_000_000` takes under ten minutes on two quiet cores. `--write` keeps what was measured beside this file and
puts the tables into docs/scale.md; `--kept` prints those of what was kept, and measures nothing. Ends with 1 where a
promise is broken: a peak of 4 GB, ten times the images in at most eleven times the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
KEPT = Path(__file__).with_name("scale.json")
SIZES = (1_000_000, 10_000_000, 100_000_000)
LEAST, MOST = 100_000, 100_000_000
"""Bounds of --images: fewer measure nothing, more fit into no test machine."""
MOST_MB, MOST_RATIO = 4000.0, 11.0
_MEMORY_MB, _PATIENCE = 64_000.0, 3600.0
"""Memory and time that the tables hold a part against: 64 GB, an hour."""

TRAIN_ONE, TRAIN_EIGHT, INFER = 2470.0, 16_600.0, 4300.0
"""Images a second: ResNet-50 trained on an A100 and on eight, and used on a 4090, in mixed precision; published."""
_PARAMETERS, _ROW = 25_600_000, 2048
"""Of ResNet-50: its parameters, and the numbers in a row of its features."""
_BATCH = 256
"""Images a step and GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What one core here does in a second."""

    photographs: str
    """`flowers5`, or `generated`."""
    photo_kb: float
    small_kb: float
    """Size of a photograph, and of the same with 256 pixels on its shorter side, in kB of 1,000 bytes."""
    read_mb: float
    """MB of image files read, from the operating system's memory."""
    decode: float
    """Photographs decoded and brought to the size that a backbone takes."""
    decode_small: float
    """The same, made smaller before."""
    check: float
    """Photographs opened by `zoo data check`: decoded, digested, hashed."""
    squeezenet: float
    lite0: float
    """Images through SqueezeNet 1.1 and EfficientNet-Lite0, float32."""
    features: float
    """Rows of 2,048 features read back from the cache, digests checked."""
    hashes: float
    """Hashes compared with all others, in the largest simulation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """Where the work is done. Disks and cores are assumed, not measured."""

    name: str
    gpus: int
    cores: int
    disk_mb: float
    """What the files are read with, MB/s, of all machines together."""

    @property
    def train(self) -> float:
        """ResNet-50 trained, images a second. Eight GPUs and more: each as fast as one of eight."""
        return TRAIN_ONE if self.gpus == 1 else TRAIN_EIGHT / 8 * self.gpus


MACHINES = (
    Machines(name="one GPU, 16 cores", gpus=1, cores=16, disk_mb=2000),
    Machines(name="8 GPUs, 128 cores", gpus=8, cores=128, disk_mb=5000),
    Machines(name="64 GPUs, 1,024 cores", gpus=64, cores=1024, disk_mb=20_000),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one pass over all images costs."""

    read_gb: float
    sent_gb: float
    """Between GPUs: gradients, by all of them together."""
    core_hours: float
    """Of decoding."""
    gpu_hours: float
    hours: Mapping[str, float]
    """Part -> hours, if it alone had to be waited for."""

    @property
    def first(self) -> str:
        """The part that gives first: all others wait for it."""
        return max(self.hours, key=self.hours.__getitem__)

    @property
    def longest(self) -> float:
        """Hours of the pass: its parts run beside one another."""
        return self.hours[self.first]


def costs(rates: Rates, images: int, machines: Machines, *, train: bool, small: bool = False) -> Cost:
    """What one pass over so many images costs.

    Args:
        rates: What one core does.
        images: How many there are.
        machines: Where it is done.
        train: Whether ResNet-50 is trained for an epoch. Else its features are computed, once.
        small: Whether the photographs were made smaller before.
    """
    kilobytes, decode = (rates.small_kb, rates.decode_small) if small else (rates.photo_kb, rates.decode)
    compute = machines.train if train else INFER * machines.gpus
    read_gb = images * kilobytes / 1e6
    # A ring of g GPUs sends 2 (g - 1) / g of the gradients for each of them, which is 2 (g - 1) in all.
    steps = images / (_BATCH * machines.gpus) if train else 0.0
    return Cost(
        read_gb=read_gb,
        sent_gb=steps * 2 * (machines.gpus - 1) * _PARAMETERS * 4 / 1e9,
        core_hours=images / decode / 3600,
        gpu_hours=images / compute * machines.gpus / 3600,
        hours={
            "reading": read_gb * 1e3 / min(machines.disk_mb, rates.read_mb * machines.cores) / 3600,
            "decoding": images / (decode * machines.cores) / 3600,
            "GPU": images / compute / 3600,
        },
    )


ADVICE = {
    "reading": "files gathered in shards, on disks of the machines themselves",
    "decoding": "photographs made smaller once, in shards; or decoded on the GPU",
    "GPU": "more GPUs, or the head alone, on features that are kept",
}
"""What to do about the part that gives first."""


def rates_table(rates: Rates) -> str:
    """The rates of one core."""
    rows = [
        ("bytes of image files read, MB/s, from the system's memory", f"{rates.read_mb:,g}"),
        (f"photographs decoded and resized ({rates.photographs}, {rates.photo_kb:g} kB each)", f"{rates.decode:,g}"),
        (f"the same at 256 pixels ({rates.small_kb:g} kB each)", f"{rates.decode_small:,g}"),
        ("photographs opened by `zoo data check`", f"{rates.check:,g}"),
        ("images through SqueezeNet 1.1", f"{rates.squeezenet:,g}"),
        ("images through EfficientNet-Lite0", f"{rates.lite0:,g}"),
        ("rows of 2,048 features read back from the cache", f"{rates.features:,g}"),
        ("hashes compared with all others", f"{rates.hashes:,g}"),
    ]
    return _table(["what one core here does in a second", "rate"], rows)


def sizes_table(rates: Rates) -> str:
    """What so many images are, wherever they are worked on."""
    rows = []
    for images in SIZES:
        hour = images / 3600
        rows.append(
            (
                _millions(images),
                _bytes(images * rates.photo_kb * 1e3),
                _bytes(images * rates.small_kb * 1e3),
                _bytes(images * _ROW * 4),
                _bytes(images * _ROW * 2),
                _hours(hour / rates.decode),
                _hours(hour / rates.check),
                _hours(hour / rates.hashes),
                _hours(hour / rates.squeezenet),
                _hours(hour / rates.lite0),
                _hours(hour / rates.features),
            )
        )
    head = "images|read, as they are|read, 256 pixels|features, float32|float16|decode|`zoo data check`|compare hashes"
    return _table([*head.split("|"), "SqueezeNet", "Lite0", "features read back"], rows)


def passes_table(rates: Rates, *, train: bool) -> str:
    """One pass over the images on each of the machines."""
    rows = []
    for images in SIZES:
        for machines in MACHINES:
            as_is, small = (costs(rates, images, machines, train=train, small=small) for small in (False, True))
            rows.append(
                (
                    _millions(images),
                    machines.name,
                    *([_bytes(as_is.sent_gb * 1e9) if as_is.sent_gb else "-"] if train else []),
                    _hours(as_is.core_hours),
                    _hours(as_is.gpu_hours),
                    *(_hours(as_is.hours[part]) for part in as_is.hours),
                    f"{as_is.first}, {_hours(as_is.longest)}",
                    ADVICE[as_is.first],
                    f"{small.first}, {_hours(small.longest)}",
                )
            )
    sent = ["sent"] if train else []
    hours = ["core-hours", "GPU-hours", "reading", "decoding", "GPU"]
    return _table(["images", "on", *sent, *hours, "gives first", "what to do", "then, at 256 pixels"], rows)


def cores_table(rates: Rates) -> str:
    """How many cores one GPU wants for decoding."""
    wants = (("used, 4090", INFER), ("trained, A100", TRAIN_ONE))
    at = ((180.0, "180 a core"), (250.0, "250 a core"), (rates.decode, f"{rates.decode:,g} a core, as here"))
    rows = [
        (name, f"{gpu:,.0f}", *(str(ceil(gpu / rate)) for rate, _ in at), str(ceil(gpu / rates.decode_small)))
        for name, gpu in wants
    ]
    columns = [f"cores, at {name}" for _, name in at]
    return _table(["ResNet-50", "images/s", *columns, f"at {rates.decode_small:,g}, with 256 pixels"], rows)


def parts_table(taken: Sequence[Mapping[str, Any]]) -> str:
    """The simulation: a row a part, and what the part would come to with 64 GB and in an hour."""
    small, large = _pair(taken)
    images = large[0]["images"]
    base = min(row["peak_mb"] for row in small)
    rows = []
    for one, ten in zip(small, large, strict=True):
        memory = (_MEMORY_MB - base) / max(ten["peak_mb"] - base, 1.0) * images
        hour = images * _PATIENCE / max(ten["cpu_seconds"], 1e-3)
        rows.append(
            (
                ten["part"],
                f"{one['cpu_seconds']:.1f}",
                f"{ten['cpu_seconds']:.1f}",
                f"{ten['cpu_seconds'] / one['cpu_seconds']:.1f}" if one["cpu_seconds"] >= _SHORT else "-",
                f"{ten['peak_mb']:,.0f}",
                f"{_rounded(memory)}" if ten["peak_mb"] > base * 1.05 else "-",
                f"{_rounded(hour)}" if ten["cpu_seconds"] >= _SHORT else "-",
            )
        )
    total_one, total_ten = (sum(row["cpu_seconds"] for row in each) for each in (small, large))
    peak = max(row["peak_mb"] for row in large)
    rows.append(("all", f"{total_one:.1f}", f"{total_ten:.1f}", f"{total_ten / total_one:.1f}", f"{peak:,.0f}", "", ""))
    columns = [f"{_millions(small[0]['images'])}, CPU s", f"{_millions(images)}, CPU s", "ratio", "peak, MB"]
    return _table(["part", *columns, "images in 64 GB", "images in an hour"], rows)


_SHORT = 0.1
"""Seconds below which a ratio says nothing."""


def broken_promises(taken: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not as it must be: a peak of 4 GB, and ten times the images in at most eleven times the time."""
    small, large = _pair(taken)
    peak = max(row["peak_mb"] for row in large)
    ratio = sum(row["cpu_seconds"] for row in large) / sum(row["cpu_seconds"] for row in small)
    found = [f"the peak is {peak:,.0f} MB, more than {MOST_MB:,.0f}"] if peak > MOST_MB else []
    return found + ([f"ten times the images take {ratio:.1f} times as long"] if ratio > MOST_RATIO else [])


def _verdict(taken: Sequence[Mapping[str, Any]]) -> str:
    asked = f"Asked: a peak of {MOST_MB:,.0f} MB, ten times the images in at most {MOST_RATIO:g} times the time"
    return f"{asked}: {'; '.join(broken_promises(taken)) or 'kept'}."


def _pair(taken: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The parts of the smaller simulation, and those of the larger."""
    small, large = (
        [row for row in taken if row["images"] == size] for size in sorted({row["images"] for row in taken})
    )
    return small, large


def sections(measured: Mapping[str, Any]) -> dict[str, str]:
    """Name -> table, as `docs/scale.md` has them between marks of these names."""
    rates = Rates(**measured["rates"])
    return {
        "parts": f"{measured['machine']}. {_verdict(measured['parts'])}\n\n{parts_table(measured['parts'])}",
        "rates": rates_table(rates),
        "cores": cores_table(rates),
        "sizes": sizes_table(rates),
        "features": passes_table(rates, train=False),
        "training": passes_table(rates, train=True),
    }


def put_in(page: str, tables: Mapping[str, str]) -> str:
    """The page with the tables in place. Raises ValueError where a mark is missing."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"there is no {begin} ... {end} in the page")
        page = f"{head}{begin}\n\n{table}\n\n{end}{tail}"
    return page


def measure(images: int) -> dict[str, Any]:
    """Run the simulation and measure the rates, each in a process of its own. Raises RuntimeError where one fails."""
    before = os.getloadavg()[0]
    lines = [line for count in (images // 10, images) for line in _answer("benchmarks.scale_parts", str(count))]
    taken = [json.loads(line) for line in lines]
    rates = json.loads(_answer("benchmarks.scale_rates")[-1])
    compared = next(row for row in taken if row["images"] == images and row["part"].startswith("near-duplicates"))
    rates["hashes"] = float(f"{images / compared['cpu_seconds']:.3g}")
    load = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; load {load} (1 of it is this measurement's own)",
        "rates": rates,
        "parts": taken,
    }


def _answer(module: str, *words: str) -> list[str]:
    print(f"{module} {' '.join(words)}", file=sys.stderr, flush=True)
    # What it says of its progress goes to the terminal, for the largest part takes a minute.
    ended = subprocess.run([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{module} ended with {ended.returncode}; what it said stands above")
    return ended.stdout.splitlines()


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _millions(images: int) -> str:
    return f"{images / 1e6:g} million"


def _rounded(images: float) -> str:
    return f"{float(f'{images / 1e6:.2g}'):,g} million"


def _bytes(amount: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= size:
            return f"{float(f'{amount / size:.3g}'):,g} {unit}"
    return f"{amount:,.0f} B"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.2g} min"
    return f"{float(f'{hours:.3g}'):,g} h"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000, help=f"{LEAST:,} to {MOST:,} (1_000_000)")
    parser.add_argument("--write", action="store_true", help="keep what was measured, and renew docs/scale.md")
    parser.add_argument("--kept", action="store_true", help="print the tables of what was kept, measure nothing")
    given = parser.parse_args(words)
    if not LEAST <= given.images <= MOST:
        parser.error(f"--images must be {LEAST:,} to {MOST:,}, got {given.images:,}")
    if given.write and given.kept:
        parser.error("--kept measures nothing, so there is nothing to --write; leave one of them out")
    try:
        measured = json.loads(KEPT.read_text("utf-8")) if given.kept else measure(given.images)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    tables = sections(measured)
    print("\n\n".join(tables.values()))
    if given.write:
        page = put_in(PAGE.read_text("utf-8"), tables)
        KEPT.write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
        PAGE.write_text(page, "utf-8")
    return 1 if broken_promises(measured["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main())
