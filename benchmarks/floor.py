"""The floor under a run's time: decode every image once, take it once through what is frozen, as fast as can be here.

    ZOO_TEST_DATA=... python -m benchmarks floor [--data NAME] [--backbone NAME] [--repeats N] [--compile]
                      [--results FILE.jsonl]

Ratios against another program depend on the processor; the share of the floor does not. The fastest of several ways to
decode (threads, processes; all give the same bits) and of several ways to compute (precisions, memory layouts, folded
batch norms, threads, with `--compile` torch.compile, whose warm-up is told apart) are found on the set's own images, in
turns, by their medians. Then zoo trains the head with its defaults and an empty cache, and its parts are told as shares
of the floor. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import zoo
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.store import ImageStore
from zoo.data.transform import resize
from zoo.model.model import ZooModel
from zoo.process import keep_freed_memory
from zoo.specs.plan import Compute
from zoo.specs.preprocessing import Preprocessing

from benchmarks import process, programs
from benchmarks.programs import ROOT

CHUNK = 32
_PASSES = 4
"""Chunks of each way in a turn."""
_GOAL, _IMPORTS = 1.25, "import torch, torchvision"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_WAYS = (Compute(), Compute("float32", "channels_last"), Compute("bfloat16"), Compute("bfloat16", "channels_last"))


@dataclass(frozen=True, slots=True)
class Floor:
    """What the machine can do at best with one set and one backbone."""

    images: int
    decoding: Mapping[str, float]
    """Way to decode -> images a second."""
    forward: Mapping[str, float]
    """Way to compute -> images a second through the backbone in evaluation mode."""
    warm_up: float
    """Seconds that torch.compile took before its first result; 0 where it was not tried."""
    step: Mapping[str, float]
    """Way to compute -> images a second of a step that trains everything, on one batch that stays in memory."""
    imports: float
    """Seconds of a process that imports torch and torchvision."""

    @property
    def seconds(self) -> float:
        """Every image decoded once, then taken through the backbone once: both want all cores."""
        return self.images / max(self.decoding.values()) + self.images / max(self.forward.values())


def find_floor(files: Sequence[ImageFile], model: ZooModel, *, repeats: int, compiled: bool) -> Floor:
    """Measure the ways in turns, so that a machine that slows down slows all of them."""
    preprocessing = Preprocessing.from_dict(model.preprocessing.to_dict())
    decoding = {
        f"{threads} threads": lambda threads=threads: _by_threads(files, preprocessing, threads)
        for threads in sorted({1, os.cpu_count() or 1, 2 * (os.cpu_count() or 1)})
    }
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_decoded, files[:CHUNK], [preprocessing] * CHUNK))  # its imports do not count
        decoding[f"{os.cpu_count()} processes"] = lambda: _by_processes(pool, files, preprocessing)
        rates = _in_turns(decoding, repeats)
    forward, warm_up = _ways_forward(model, files, preprocessing, compiled=compiled)
    training = {str(way): _training(model, way) for way in _WAYS}
    return Floor(
        images=len(files),
        decoding={way: len(files) / seconds for way, seconds in rates.items()},
        forward={way: _PASSES * CHUNK / seconds for way, seconds in _in_turns(forward, repeats + 2).items()},
        warm_up=warm_up,
        step={way: CHUNK / seconds for way, seconds in _in_turns(training, repeats).items()},
        imports=min(_seconds_of_imports() for _ in range(3)),
    )


def _in_turns(works: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of every work; each turn does all of them."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            took[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def _by_threads(files: Sequence[ImageFile], preprocessing: Preprocessing, threads: int) -> None:
    with contextlib.closing(ImageStore(preprocessing, workers=threads)) as store:
        store.examine(files, progress=lambda done: None)


def _by_processes(pool: ProcessPoolExecutor, files: Sequence[ImageFile], preprocessing: Preprocessing) -> None:
    for _ in pool.map(_decoded, files, [preprocessing] * len(files), chunksize=8):
        pass


def _decoded(file: ImageFile, preprocessing: Preprocessing) -> Any:
    """The resized pixels uint8[3, H', W'] as an array, which goes from process to process."""
    return resize(decode(file.content(), name=file.relative, preprocessing=preprocessing), preprocessing).numpy()


def _ways_forward(
    model: ZooModel, files: Sequence[ImageFile], preprocessing: Preprocessing, *, compiled: bool
) -> tuple[dict[str, Callable[[], object]], float]:
    """(way -> takes chunks of real images through the backbone, seconds that compiling took)."""
    with contextlib.closing(ImageStore(preprocessing, workers=os.cpu_count() or 1)) as store:
        images = next(iter(store.batches(files[:CHUNK], CHUNK)))
    ways: dict[str, Callable[[], object]] = {}
    warm_up = 0.0
    for compute in _WAYS:
        plain = copy.deepcopy(model).eval().compute_as(compute)
        ways[str(compute)] = _pass(plain.features, images)
        folded = copy.deepcopy(model).eval()
        if fold_batch_norms(folded.backbone, images[:2]):
            ways[f"{compute}, folded batch norms"] = _pass(folded.compute_as(compute).features, images)
    for compute in (_WAYS[1], _WAYS[3]):
        ways.update(_ways_of_threads(f"{compute}", copy.deepcopy(model).eval().compute_as(compute).features, images))
    if compiled:
        for compute in (_WAYS[1], _WAYS[3]):
            faster = torch.compile(copy.deepcopy(model).eval().compute_as(compute).features)
            ways[f"{compute}, compiled"] = _pass(faster, images)
    for name, way in ways.items():
        began = time.perf_counter()
        way()
        warm_up += time.perf_counter() - began if name.endswith("compiled") else 0.0
    return ways, warm_up


def _ways_of_threads(
    compute: str, features: Callable[[Tensor], Tensor], images: Tensor
) -> dict[str, Callable[[], object]]:
    """How else cores can share the work than all of them one chunk: one alone, or each a chunk of its own.

    Without oneDNN's kernels torch takes three to thirteen times as long, so that this is no way.
    """
    cores = torch.get_num_threads()

    def alone(_: int = 0) -> None:
        torch.set_num_threads(1)  # of this thread
        with torch.inference_mode():
            features(images)

    def by(streams: int) -> None:
        # Threads of their own: the number of the main one stays.
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(alone, range(_PASSES)))
        torch.set_num_threads(cores)

    return {
        f"{compute}, one thread": lambda: by(1),
        f"{compute}, a thread for each of {cores} chunks": lambda: by(cores),
    }


def _pass(features: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(_PASSES):
                features(images)

    return run


def fold_batch_norms(module: nn.Module, images: Tensor) -> int:
    """Fold every batch norm that follows a convolution into it -> how many were; what follows what is seen in a pass.

    Pairs are folded whose convolution's output goes into the batch norm unchanged. The result is the same up to the
    rounding of float32. Of a batch norm of timm's, which has an activation as well, that stays.
    """
    outputs: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    kept: list[Tensor] = []  # while a tensor lives no other has its id

    def seen(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, nn.Conv2d):
            outputs[id(output)] = layer
            kept.append(output)
        elif type(layer) in (nn.BatchNorm2d, BatchNormAct2d) and id(given[0]) in outputs:
            pairs.append((outputs[id(given[0])], layer))

    hooks = [each.register_forward_hook(seen) for each in module.modules()]
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    names = {id(each): name for name, each in module.named_modules()}
    for convolution, norm in pairs:
        fused = nn.utils.fuse_conv_bn_eval(convolution, norm)
        module.set_submodule(names[id(convolution)], fused)
        left = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        module.set_submodule(names[id(norm)], left)
    return len(pairs)


def _training(model: ZooModel, compute: Compute) -> Callable[[], object]:
    trained = copy.deepcopy(model).train().compute_as(compute)
    trained.freeze_all_but(trained.groups.names)
    optimizer = torch.optim.AdamW([each for each in trained.parameters() if each.requires_grad], lr=1e-5)
    images = torch.rand(CHUNK, *model.preprocessing.input_size)
    targets = torch.arange(CHUNK) % len(model.classes)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        trained.loss(trained.features(images), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    return step


def _seconds_of_imports() -> float:
    return process.run([sys.executable, "-c", _IMPORTS], folder=ROOT).seconds


def processor() -> str:
    """The processor's name and those of its flags that decide which kernels torch takes."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    fields = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = [flag for flag in _FLAGS if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', 'unknown')}, {os.cpu_count()} cores ({', '.join(flags) or 'none of the flags'})"


def told(floor: Floor, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the report: every way, the floor, and the medians of zoo's runs as shares of it."""
    lines = [processor(), *_fastest("decoding", floor.decoding), *_fastest("forward", floor.forward)]
    lines += [f"  warm-up of torch.compile {floor.warm_up:.1f} s, not counted"] if floor.warm_up else []
    lines += _fastest("training step, everything trains", floor.step)
    lines.append(f"floor of {floor.images} images: {floor.seconds:.2f} s; {_IMPORTS}: {floor.imports:.2f} s")
    if not runs:
        return lines
    parts = {name: statistics.median(run["parts"][name] for run in runs) for name in runs[0]["parts"]}
    lines += [
        f"  {name:<12} {seconds:6.2f} s  {seconds / floor.seconds:5.2f} floors" for name, seconds in parts.items()
    ]
    whole = statistics.median(run["process_seconds"] for run in runs)
    most = _GOAL * floor.seconds + floor.imports + 1
    share = parts["total"] / floor.seconds
    lines.append(f"training part: {share:.2f} floors (goal {_GOAL}){'' if share <= _GOAL else ', missed'}")
    lines.append(f"whole process: {whole:.2f} s (goal {most:.2f} s){'' if whole <= most else ', missed'}")
    return lines


def _fastest(what: str, rates: Mapping[str, float]) -> Iterable[str]:
    yield f"{what}, images a second:"
    best = max(rates.values())
    for way, rate in sorted(rates.items(), key=lambda each: -each[1]):
        yield f"  {rate:8.1f}  {way}{'  <- fastest' if rate == best else ''}"


def main(words: Sequence[str] | None = None) -> int:
    given = _arguments(words)
    keep_freed_memory()  # the floor is what the machine can do: without it, clearing pages takes as long as computing
    shared = os.environ.get("ZOO_TEST_DATA")
    if not shared:
        print("ZOO_TEST_DATA must name the folder with data/ and weights/", file=sys.stderr)
        return 2
    data = Path(shared, "data", given.data)
    weights = Path(shared, "weights", f"{given.backbone.rpartition('/')[2]}.safetensors")
    dataset = programs.used(data)
    files = [file for split in dataset.splits.values() for file in split]
    model = zoo.create_model(given.backbone, classes=dataset.classes, weights=str(weights))
    floor = find_floor(files, model, repeats=given.repeats, compiled=given.compile)
    runs = []
    options: list[str | Path] = ["--backbone", given.backbone, "--weights", weights, "--data", data]
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            run = programs.finetune(
                [*options, "--recipe", "head_only"], out=Path(folder, "run"), cache=Path(folder, "c")
            )
        runs.append(run)
    print("\n".join(told(floor, runs)))
    if given.results:
        row = {"data": given.data, "backbone": given.backbone, "processor": processor(), "floor": floor.seconds}
        ways = {"decoding": dict(floor.decoding), "forward": dict(floor.forward), "step": dict(floor.step)}
        with given.results.open("a") as file:
            file.write(json.dumps({**row, **ways, "imports": floor.imports, "runs": runs}) + "\n")
    return 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks floor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="hymenoptera")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every way, and runs of zoo")
    parser.add_argument("--compile", action="store_true", help="try torch.compile as well; takes a minute or two")
    parser.add_argument("--results", type=Path, help="JSON lines; appended to")
    return parser.parse_args(words)
