"""An export in 8 bits: quantised, judged beside float32 on images that the run did not train on, refused if worse.

Where too much is lost, the layers that lose most are left in float32: 1, 2, 4, ... of them, up to half.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.prefetch import resolve_workers
from zoo.data.store import ImageStore
from zoo.errors import CheckFailed
from zoo.evaluation.copies import Copies
from zoo.evaluation.significance import PairedOutcomes
from zoo.events import Note, Progress, Report
from zoo.exporting.comparisons import Attempt, Int8Comparison, Speed
from zoo.exporting.onnx_file import open_session, runner
from zoo.exporting.quantisation import Quantiser, worst_first
from zoo.exporting.run_images import copies_of, to_calibrate, to_judge
from zoo.specs.preprocessing import Preprocessing
from zoo.text import counted

_BATCH = 32
_ROUNDS, _SECONDS = 15, 2.0
"""Rounds of measuring speed, as many as fit into the seconds, for each batch size."""
_SPEED_BATCHES = (1, 16)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Probabilities[N, classes] of float32, its predicted classes[N], and the targets[N]."""

    probabilities: Tensor
    targets: Tensor

    @property
    def float32(self) -> Tensor:
        return self.probabilities.argmax(1)

    def attempt(self, int8: Tensor, in_float: int) -> Attempt:
        right = int((int8 == self.targets).sum())
        before = int((self.float32 == self.targets).sum())
        count = len(self.targets)
        return Attempt(in_float=in_float, accuracy=right / count, lost=100 * (before - right) / count)

    @property
    def accuracy_float32(self) -> float:
        return float((self.float32 == self.targets).double().mean())

    def moved(self, int8: Tensor) -> float:
        """The largest absolute difference of a probability to those in 8 bits, int8[N, classes]."""
        # What is no number is as far off as anything can be.
        return float((self.probabilities - int8).abs().nan_to_num(nan=1.0).max())

    def paired(self, int8: Tensor, copies: Copies | None) -> PairedOutcomes:
        """Which of the two is right, by the classes int8[N]; `copies`: which of the images are copies of others."""
        right, before = int8 == self.targets, self.float32 == self.targets
        return PairedOutcomes(before.numpy(), right.numpy(), copies)


def write_int8(
    original: Path,
    path: Path,
    preprocessing: Preprocessing,
    dataset: Dataset,
    work: Path,
    report: Report,
    *,
    seed: int,
    max_loss: float,
) -> Int8Comparison:
    """Write `original`, a classifier in float32, in 8 bits.

    Args:
        original: The ONNX file, from `images` to `logits`.
        path: The file to write.
        preprocessing: What its images are prepared with.
        dataset: The run's images: those of training calibrate, those of validation judge.
        work: A folder for drafts.
        report: Called with Progress and Note.
        seed: Draws what calibrates: the run's.
        max_loss: Points of accuracy that may be lost.

    Raises CheckFailed where more is lost, with half of the layers in float32 too.
    """
    split, judged = to_judge(dataset)
    drawn = to_calibrate(dataset, seed)
    _tell_of_few(len(judged), max_loss, report)
    with contextlib.closing(ImageStore(preprocessing, workers=resolve_workers(None))) as store:
        images = torch.cat(list(store.batches(drawn, _BATCH)))
        quantiser = Quantiser(original, work)
        quantiser.calibrate(images, _counting(report, "calibrate", len(images), "images"))
        answers = _Answers(
            _probabilities(original, store, judged, report, "judge float32"),
            torch.tensor([file.label for file in judged]),
        )
        attempts: list[Attempt] = []
        for in_float in _choices(quantiser, images, report):
            draft = work / f"int8-{len(in_float)}.onnx"
            quantiser.write(draft, in_float=in_float)
            task = "judge int8" + (f", {counted(len(in_float), 'layer')} in float32" if in_float else "")
            probabilities = _probabilities(draft, store, judged, report, task)
            predicted = probabilities.argmax(1)
            attempts.append(answers.attempt(predicted, len(in_float)))
            # Points come from a division, and a loss of exactly the limit is allowed.
            if attempts[-1].lost <= max_loss + 1e-9:
                break
        else:
            raise CheckFailed(_refusal(attempts, answers, split, max_loss))
    # The draft that was judged last, not one that is written anew.
    shutil.copyfile(draft, path)
    paired = answers.paired(predicted, copies_of(judged))
    return Int8Comparison(
        calibrated=len(images),
        seed=seed,
        split=split,
        images=len(judged),
        accuracy_float32=answers.accuracy_float32,
        accuracy=attempts[-1].accuracy,
        lost=attempts[-1].lost,
        max_loss=max_loss,
        only_float32=paired.outcomes.only_first,
        only_int8=paired.outcomes.only_second,
        p_value=paired.p,
        agreement=float((predicted == answers.float32).double().mean()),
        largest_difference=answers.moved(probabilities),
        layers=len(quantiser.layers),
        in_float=tuple(in_float),
        attempts=tuple(attempts),
        bytes_float32=original.stat().st_size,
        bytes=path.stat().st_size,
        speeds=_measure_speed(original, path, images, report),
    )


def _tell_of_few(judged: int, max_loss: float, report: Report) -> None:
    if 100 / judged > max_loss > 0:
        text = f"Judged on {judged} images, of which one is {100 / judged:.3g} points: --max-loss "
        report(Note(text=f"{text}{max_loss:g} allows no further mistake.", loud=True))


def _choices(quantiser: Quantiser, images: Tensor, report: Report) -> Iterator[list[str]]:
    """Layers to leave in float32: none first, then more and more of those that change the answers of images[N, 3, H, W]
    most.
    """
    yield []
    blocks = quantiser.blocks()
    counting = _counting(report, "find sensitive layers", len(blocks), "layers")
    ranked = worst_first(blocks, quantiser.sensitivities(images, counting))
    # Doubled each time, because judging one choice takes a pass over all validation images.
    count = 1
    while count <= len(blocks) // 2:
        yield [layer for block in ranked[:count] for layer in block]
        count *= 2


def _probabilities(path: Path, store: ImageStore, files: Sequence[ImageFile], report: Report, task: str) -> Tensor:
    """Probabilities[N, classes] of the files, in their order."""
    run = runner(open_session(path))
    counting = _counting(report, task, len(files), "images")
    found: list[Tensor] = []
    done = 0
    for images in store.batches(files, _BATCH):
        found.append(run(images).softmax(1))
        done += len(images)
        counting(done)
    return torch.cat(found)


def _measure_speed(original: Path, path: Path, images: Tensor, report: Report) -> tuple[Speed, ...]:
    """Measure both files on the same images[N, 3, H, W]. They take turns, so that a busy machine slows both."""
    runs = [runner(open_session(file)) for file in (original, path)]
    speeds = []
    for number, batch in enumerate(size for size in _SPEED_BATCHES if size <= len(images)):
        some = images[:batch]
        for run in runs:
            run(some)  # the first one allocates
        seconds: tuple[list[float], list[float]] = ([], [])
        begin = time.perf_counter()
        # At least three, so that a median means something on a slow machine, too.
        while len(seconds[0]) < 3 or (len(seconds[0]) < _ROUNDS and time.perf_counter() - begin < _SECONDS):
            for run, measured in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run(some)
                measured.append(time.perf_counter() - start)
        of_float, of_int8 = (batch / statistics.median(measured) for measured in seconds)
        speeds.append(
            Speed(
                batch=batch,
                float32=of_float,
                int8=of_int8,
                rounds=len(seconds[0]),
                threads=torch.get_num_threads(),
            )
        )
        report(Progress(task="measure speed", done=number + 1, total=len(_SPEED_BATCHES), unit="batch sizes"))
    return tuple(speeds)


def _refusal(attempts: Sequence[Attempt], answers: _Answers, split: str, max_loss: float) -> str:
    count = len(answers.targets)
    before = answers.accuracy_float32
    best = min(attempts, key=lambda attempt: attempt.lost)
    tried = "\n".join(
        f"  {counted(attempt.in_float, 'layer')} in float32: accuracy {attempt.accuracy:.4f}, "
        f"{attempt.lost:.2f} points lost"
        for attempt in attempts
    )
    points, images = "point" if max_loss == 1 else "points", counted(count, f"{split} image")
    return (
        f"In 8 bits this classifier loses more than {max_loss:g} {points} of accuracy on {images}, where "
        f"float32 has {before:.4f}:\n{tried}\nThe export was not kept.\n"
        f"Next: export without --int8, or allow more: --max-loss {math.ceil(100 * best.lost) / 100:g}"
    )


def _counting(report: Report, task: str, total: int, unit: str) -> Callable[[int], None]:
    return lambda done: report(Progress(task=task, done=done, total=total, unit=unit))
