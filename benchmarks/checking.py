"""How long `zoo data check` takes for many pictures, each decoded fully, hashed and compared with all others.

    python -m benchmarks.checking [--files N] [--rounds N]

Draws N different pictures of 500 x 500 once, into the cache folder. The clock is that of the whole command.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from zoo.storage.cache import cache_folder

from benchmarks.photos import photos
from benchmarks.process import run

SIZE = (500, 500)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {asked.rounds}")
    try:
        data = photos(cache_folder() / "benchmarks" / "square", asked.files, different=asked.files, size=SIZE)
    except ValueError as error:
        parser.error(str(error))
    seconds: list[float] = []
    for _ in range(asked.rounds):
        done = run([sys.executable, "-m", "zoo", "data", "check", data, "--json"], folder=data.parent)
        if done.code not in (0, 3):
            raise SystemExit(done.stderr)
        seconds.append(done.seconds)
        print(f"{asked.files:,} pictures: {done.seconds:.1f} s", flush=True)
    print(f"median {statistics.median(seconds):.1f} s, {asked.files / statistics.median(seconds):.0f} pictures/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
