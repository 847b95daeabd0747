"""What other programs on the machine cost a pass through a backbone, with threads that wait awake and that sleep.

    python -m benchmarks.beside_others [--backbone NAME] [--busy 0,1,4]

Beside so many processes that do nothing but turn, two processes compute one after another: one with OpenMP as it is by
default, one as zoo's commands set it (`zoo.process.share_the_processor`). A row is the median milliseconds of a pass of
one image and of 32, and how many times longer the default takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

PASSES = 5
_MEASURE = """
import json, statistics, sys, time
if sys.argv[2] == "zoo":
    from zoo.process import share_the_processor
    share_the_processor()
import torch, zoo
model = zoo.create_model(sys.argv[1], classes=5, weights="random").eval()
_, height, width = model.preprocessing.input_size
found = {}
for size in (1, 32):
    images, times = torch.zeros(size, 3, height, width), []
    with torch.no_grad():
        for _ in range(int(sys.argv[3]) + 1):
            began = time.perf_counter()
            model(images)
            times.append(time.perf_counter() - began)
    found[size] = 1000 * statistics.median(times[1:])
print(json.dumps(found))
"""
_BUSY = "while True: pass"
_OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Inside, so many processes keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def milliseconds(backbone: str, how: str, passes: int = PASSES) -> dict[str, float]:
    """Median milliseconds of a pass of 1 and of 32 images in a process of its own; `how` is `default` or `zoo`."""
    environment = {name: value for name, value in os.environ.items() if name not in _OPENMP}
    command = [sys.executable, "-c", _MEASURE, backbone, how, str(passes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--busy", default="0,1,4", help="numbers of busy processes (0,1,4)")
    given = parser.parse_args()
    print("| busy | images | default, ms | zoo, ms | default / zoo |\n|---|---|---|---|---|")
    for count in map(int, given.busy.split(",")):
        with busy_processes(count):
            default, ours = (milliseconds(given.backbone, how) for how in ("default", "zoo"))
        for size in default:
            ratio = default[size] / ours[size]
            print(f"| {count} | {size} | {default[size]:.1f} | {ours[size]:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
