"""How near `zoo serve` comes to `Classifier.predict`, and whether it stands what strangers send.

    python -m benchmarks.serving [--images N] [--rounds N] [--clients N...] [--mixed N] [--hostile N] [--run RUN]

ZOO_TEST_DATA names the folder with the real images. `predict` is `Classifier.predict` with batches of 32 on the files;
`serve` is the server as a process of its own, asked over the loopback interface by so many clients at once, each for
one image at a time. They take turns; medians are printed. The clients run on the same cores, and what they cost counts
against the server.

The mix then sends good requests and hostile ones together: malformed, oversized, truncated, slow (in
`benchmarks/load.py`). Every good one must be answered with a prediction, and each batch that the answers name is
computed again by `Classifier.predict`: the probabilities must be equal, bit for bit. Memory is read meanwhile.

Leave the machine alone meanwhile: other work falsifies rates and latencies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.load import Client, Hostile
from benchmarks.predicting import classifier_for
from benchmarks.process import run

_WARM = 320
"""Requests before anything is measured: the first batch of each size takes longer, as its kernels are prepared."""
_SLOW_THREADS = 32
"""Slow clients together: they only wait."""
_TIMEOUT = "15"
"""Seconds after which the server gives a slow client up, during the mix."""
_PREDICT = """
import json, sys, time
from zoo.process import start_computing
start_computing("zoo.artefact.classifier")
import zoo
classifier = zoo.load(sys.argv[1])
files = json.load(sys.stdin)
classifier.predict(files[:320])
began = time.perf_counter()
classifier.predict(files, batch_size=32)
print(len(files) / (time.perf_counter() - began))
"""
"""`start_computing` is what the command does for itself, so that both have the same settings of memory and threads."""
_AGAIN = """
import json, sys, zoo
classifier = zoo.load(sys.argv[1])
wrong = 0
for batch in json.load(sys.stdin):
    again = classifier.predict([file for file, _, _ in batch], batch_size=len(batch), top=1)
    wrong += sum((each.label, each.probability) != (label, probability)
                 for each, (_, label, probability) in zip(again, batch) if label is not None)
print(wrong)
"""


@dataclass(slots=True)
class Mix:
    """What came of a mix of requests."""

    good: int = 0
    failed: list[str] = field(default_factory=list)
    """What went wrong with good requests, and hostile ones that were answered as none may be."""
    statuses: Counter[str] = field(default_factory=Counter)
    batches: dict[int, dict[int, tuple[str, str, float]]] = field(default_factory=lambda: defaultdict(dict))
    """Batch -> position -> (file, label, probability)."""
    sizes: dict[int, int] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)
    """MB of the server, at even distances."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, file: Path, prediction: dict[str, Any]) -> None:
        """Remember a good answer."""
        with self.lock:
            self.good += 1
            place = prediction["batch"]
            self.sizes[place["number"]] = place["size"]
            said = (str(file), prediction["label"], prediction["probability"])
            self.batches[place["number"]][place["index"]] = said

    def all_batches(self, anything: Path) -> list[list[tuple[str, str | None, float | None]]]:
        """Every batch, to be computed again. Where a request with several images was refused for one of them, no answer
        names the places of the others; in their stead stands any image, with no label to compare."""
        unknown = (str(anything), None, None)
        return [
            [images.get(index, unknown) for index in range(self.sizes[number])]
            for number, images in self.batches.items()
        ]


@contextlib.contextmanager
def served(artefact: Path, *options: str) -> Iterator[tuple[int, int]]:
    """A server as a process -> (its port, its process id)."""
    words = [sys.executable, "-m", "zoo", "-q", "serve", str(artefact), "--port", "0", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit("the server did not start")
        yield int(url.rpartition(":")[2]), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def throughput(port: int, images: Sequence[bytes], clients: int) -> tuple[float, list[float]]:
    """Ask for each image once, by so many clients together -> (images a second, the seconds of each request)."""
    requests = [load.raw(image) for image in images]
    numbers = iter(range(len(requests)))
    latencies: list[float] = []
    lock = threading.Lock()

    def client() -> None:
        connection = Client(port)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            began = time.perf_counter()
            answer = connection.ask(requests[number])
            latencies.append(time.perf_counter() - began)
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}: {answer.body}")
        connection.close()

    began = time.perf_counter()
    _together([threading.Thread(target=client) for _ in range(clients)])
    return len(images) / (time.perf_counter() - began), latencies


def mixed(port: int, pid: int, files: Sequence[Path], good: int, hostile: int, clients: int) -> Mix:
    """Send a mix. Slow clients have threads of their own, so that the others need not wait for them."""
    contents = [file.read_bytes() for file in files]
    outcome = Mix()
    fast: queue.SimpleQueue[tuple[int, Hostile | None]] = queue.SimpleQueue()
    slow: queue.SimpleQueue[tuple[int, Hostile | None]] = queue.SimpleQueue()
    plan = load.plan_mix(good, hostile)
    for number, kind in enumerate(plan):
        (slow if kind is not None and kind.is_slow else fast).put((number, kind))
    step = max(1, len(plan) // 100)

    def work(todo: queue.SimpleQueue[tuple[int, Hostile | None]]) -> None:
        client = Client(port)
        with contextlib.suppress(queue.Empty):
            while True:
                number, kind = todo.get_nowait()
                _one(client, kind, files[number % len(files)], contents[number % len(files)], outcome)
                if number % step == 0:
                    outcome.memory.append(load.memory_mb(pid))
        client.close()

    threads = [threading.Thread(target=work, args=(fast,)) for _ in range(clients)]
    _together(threads + [threading.Thread(target=work, args=(slow,)) for _ in range(_SLOW_THREADS)])
    outcome.memory.append(load.memory_mb(pid))
    return outcome


def _one(client: Client, kind: Hostile | None, file: Path, content: bytes, outcome: Mix) -> None:
    try:
        if kind is None:
            answer = client.ask(load.raw(content))
            if answer.status == 200:
                outcome.note(file, answer.body["predictions"][0])
            else:
                outcome.failed.append(f"a good request: {answer.status} {answer.body}")
            return
        answered = kind.attack(client, content)
        if answered is not None:
            outcome.statuses[f"{kind.name}: {answered.status}"] += 1
            if answered.status not in kind.statuses:
                outcome.failed.append(f"{kind.name}: {answered.status} {answered.body}")
    except OSError as error:
        client.close()
        outcome.failed.append(f"{kind.name if kind else 'a good request'}: {error!r}")


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def speeds(artefact: Path, files: Sequence[Path], clients: Sequence[int], rounds: int, folder: Path) -> None:
    """Print the rates and latencies of `predict` and `serve`, which take turns."""
    contents = [file.read_bytes() for file in files]
    predicted: list[float] = []
    rates: dict[int, list[float]] = {count: [] for count in clients}
    latencies: dict[int, list[float]] = {count: [] for count in clients}
    for _ in range(rounds):
        predicted.append(float(_child(_PREDICT, artefact, [str(file) for file in files], folder)))
        with served(artefact) as (port, _):
            throughput(port, contents[:_WARM], min(_WARM, max(clients)))
            for count in clients:
                # One client alone is slow, and its median needs few.
                several = contents if count > 1 else contents[: max(_WARM, len(contents) // 4)]
                rate, seconds = throughput(port, several, count)
                rates[count].append(rate)
                latencies[count] += seconds
    rate = statistics.median(predicted)
    print(f"predict, batches of 32 {rate:>8.1f} images/s")
    for count in clients:
        served_rate, seconds = statistics.median(rates[count]), latencies[count]
        median, late = statistics.median(seconds), load.percentile(seconds, 0.99)
        print(
            f"serve, {count:>2} clients      {served_rate:>8.1f} images/s {served_rate / rate:>6.2f} of predict   "
            f"median {1000 * median:>7.1f} ms, p99 {1000 * late:>7.1f} ms ({late / median:.1f} times)"
        )


def stands(artefact: Path, files: Sequence[Path], good: int, hostile: int, folder: Path) -> bool:
    """Send the mix and print what came of it -> whether all is as it must be."""
    with served(artefact, "--timeout", _TIMEOUT) as (port, pid):
        warm = mixed(port, pid, files, _WARM, 2 * len(load.HOSTILE), 32)
        outcome = mixed(port, pid, files, good, hostile, 32)
    for name, count in sorted(outcome.statuses.items()):
        print(f"{count:>6}  {name}")
    wrong = int(_child(_AGAIN, artefact, outcome.all_batches(files[0]), folder))
    tenth = max(1, len(outcome.memory) // 10)
    first, last = statistics.median(outcome.memory[:tenth]), statistics.median(outcome.memory[-tenth:])
    print(f"{outcome.good} of {good} good requests answered, in {len(outcome.batches)} batches")
    print(f"computed again in these batches: {wrong} other than answered")
    print(f"memory: {first:.0f} MB at the start, {last:.0f} MB at the end, most {max(outcome.memory):.0f} MB")
    for text in [*warm.failed, *outcome.failed][:20]:
        print(f"FAILED {text}")
    return not outcome.failed and outcome.good == good and wrong == 0 and last - first < 50


def _child(program: str, artefact: Path, given: Any, folder: Path) -> str:
    """What a Python program says that reads JSON."""
    (folder / "given.json").write_text(json.dumps(given))
    words = ["sh", "-c", 'exec "$0" -c "$1" "$2" < given.json', sys.executable, program, artefact]
    done = run(words, folder=folder)
    if done.code:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="for each rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--mixed", type=int, default=10_000, help="requests of the mix, hostile ones included; 0: none")
    parser.add_argument("--hostile", type=int, default=2000)
    parser.add_argument(
        "--backbone", default="torchvision/squeezenet1_1", help="with random weights: they cost the same"
    )
    parser.add_argument("--run", type=Path, help="a run or an artefact instead")
    asked = parser.parse_args()
    named = os.environ.get("ZOO_TEST_DATA")
    if not named:
        print("ZOO_TEST_DATA does not name a folder with real images", file=sys.stderr)
        return 2
    data = Path(named).resolve() / "data" / "flowers5"
    files = sorted(data.rglob("*.jpg"))
    with tempfile.TemporaryDirectory(prefix="zoo-serving-") as made:
        folder = Path(made)
        artefact = asked.run.resolve() if asked.run else classifier_for(asked.backbone, data, folder)
        if asked.rounds:
            several = [files[number % len(files)] for number in range(asked.images)]
            speeds(artefact, several, asked.clients, asked.rounds, folder)
        if asked.mixed:
            return 0 if stands(artefact, files, asked.mixed - asked.hostile, asked.hostile, folder) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
