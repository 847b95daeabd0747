"""How much faster several processes are than one, each on a core of its own.

    python -m benchmarks.ranks [--processes 2] [--repeats 3] [--images 400] [--data FOLDER] [ARGUMENTS of zoo finetune]

The same `zoo finetune` runs with one process on core 0, and with several on cores 0, 1, ..., each with one thread, in
turns and with an empty cache folder each time. Printed are medians of the seconds of the run's parts, as `result.json`
has them (imports are not in them), of the whole process, and how many times faster the parts are. Without ARGUMENTS:
EfficientNet-Lite0's architecture with random weights, all of it trained for two epochs, batch norms frozen. Leave the
machine alone meanwhile: other work falsifies it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_DEFAULT = (
    "--backbone timm/tf_efficientnet_lite0 --weights random --recipe full --epochs 2 --set all.batch_norm=frozen "
    "--no-tune"
)
_MEETING = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")


def draw_images(folder: Path, count: int) -> Path:
    """Draw so many images of two classes to train on and a quarter as many to validate on -> the folder."""
    from zoo.data.sample import sample_image

    for split, images in (("train", count), ("val", count // 4)):
        for number in range(images):
            place = folder / split / ("red", "green")[number % 2] / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            sample_image(number % 2, 2, split, number).resize((500, 375)).save(place, quality=90)
    return folder


def run(processes: int, arguments: list[str], place: Path) -> dict[str, float]:
    """Run `zoo finetune` with so many processes, each on its core -> seconds of its parts, and of the whole process."""
    zoo = [sys.executable, "-m", "zoo", "--quiet", "finetune", *arguments, "--out", str(place / "run"), "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZOO_CACHE_DIR": str(place / "cache")}
    if processes == 1:
        command = ["taskset", "--cpu-list", "0", *zoo]
    else:
        pinned = 'exec taskset --cpu-list "$LOCAL_RANK" "$@"'
        launcher = [sys.executable, "-m", "torch.distributed.run", *_MEETING, "--nproc-per-node", str(processes)]
        command = [*launcher, "--no-python", "sh", "-c", pinned, "sh", *zoo]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return {**json.loads((place / "run" / "result.json").read_text())["seconds"], "whole process": whole}


def table(rows: dict[int, list[dict[str, float]]]) -> str:
    """Medians of all runs by number of processes, as Markdown."""
    medians = {
        count: {part: statistics.median(each[part] for each in of) for part in of[0]} for count, of in rows.items()
    }
    first, *others = medians
    lines = ["| processes | " + " | ".join(medians[first]) + " |", "|---" * (len(medians[first]) + 1) + "|"]
    lines += [f"| {count} | " + " | ".join(f"{of:.1f} s" for of in medians[count].values()) + " |" for count in medians]
    for count in others:
        pairs = [(medians[first][part], medians[count][part]) for part in medians[first]]
        ratios = " | ".join(f"{one / several:.2f}" if several else "-" for one, several in pairs)
        lines.append(f"| {count}: times faster | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--data", type=Path)
    given, arguments = parser.parse_known_args()
    if (os.cpu_count() or 1) < given.processes:
        parser.error(f"{given.processes} processes need as many cores; there are {os.cpu_count()}")
    rows: dict[int, list[dict[str, float]]] = {1: [], given.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or draw_images(Path(folder) / "data", given.images)
        for repeat in range(given.repeats):
            for count in rows:
                place = Path(folder) / f"{count}-{repeat}"
                place.mkdir()
                rows[count].append(run(count, [*(arguments or _DEFAULT.split()), "--data", str(data)], place))
                print(f"{count} processes: {rows[count][-1]}", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
