"""Which rule chooses best among stage ends and blends, on real runs: by what measure, by a lead of how much?

    python -m benchmarks.choosing --collect FILE --backbone NAME --weights FILE --data DIR --recipe FILE [--seed N]
    python -m benchmarks.choosing FILE... [--halvings 200] [--images N]

The first trains a run, and writes the logits of every candidate on the whole validation folder. No training
depends on the validation images as long as no stage has `keep_epoch`, `patience` or `lr = "auto"`. So the second can
halve them again and again, class by class: each rule chooses on one half, or on N of its images, and what it chose is
scored on the other half, on which nobody chose. What zoo does is `loss after temperature scaling`, with a lead of 0.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from zoo.events import Event, StageFinished
from zoo.planning.request import make_request
from zoo.registry.registry import default_registry
from zoo.specs.recipe import ChooseBy
from zoo.training.choosing import Judged, is_better, judge, optimism
from zoo.training.prepare import prepare
from zoo.training.stages import StageRunner

Measure = Callable[[Tensor, Tensor], Judged]
"""(logits[N, classes], targets[N]) -> how a candidate is judged."""
STANDARD_ERRORS = (0.0, 0.5, 1.0, 2.0)
_ESTIMATED = 10
"""Halvings of each run on which zoo's own estimate of the optimism is computed as well."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Every candidate of a run on every validation image, in the order in which they were offered."""

    targets: Tensor
    """Class indices int64[N]."""
    logits: Mapping[str, Tensor]
    """Name -> logits[N, classes]."""

    def write(self, path: Path) -> None:
        numbered = {f"{number:02d} {name}": each for number, (name, each) in enumerate(self.logits.items())}
        save_file({"targets": self.targets, **numbered}, path)

    @classmethod
    def read(cls, path: Path) -> Collected:
        tensors = load_file(path)
        targets = tensors.pop("targets")
        return cls(targets, {name.partition(" ")[2]: tensors[name] for name in sorted(tensors)})

    def right(self, name: str) -> Tensor:
        """Whether the candidate classifies each image correctly, float64[N]."""
        return (self.logits[name].argmax(1) == self.targets).double()


def by_plain_loss(logits: Tensor, targets: Tensor) -> Judged:
    """Judge logits[N, classes] by their loss as it is."""
    return Judged(logits.argmax(1) == targets, torch.nn.functional.cross_entropy(logits, targets, reduction="none"))


def by_brier_score(logits: Tensor, targets: Tensor) -> Judged:
    """Judge logits[N, classes] by the squared distance of their probabilities from the truth."""
    truth = torch.nn.functional.one_hot(targets, logits.shape[1])
    return Judged(logits.argmax(1) == targets, (logits.softmax(1) - truth).square().sum(1))


MEASURES: dict[str, tuple[Measure, ChooseBy]] = {
    "accuracy": (judge, "accuracy"),
    "loss": (by_plain_loss, "loss"),
    "Brier score": (by_brier_score, "loss"),
    "loss after temperature scaling": (judge, "loss"),
}


def collect(given: argparse.Namespace) -> Collected:
    """Train a run and keep the logits of its candidates."""

    def listen(event: Event) -> None:
        if isinstance(event, StageFinished):
            print(f"{event.stage}: {event.val['accuracy']:.3f} in {event.seconds:.0f} s", flush=True)

    names = ("backbone", "weights", "recipe", "seed")
    request = make_request(**{name: getattr(given, name) for name in names}, data=given.data, offline=True)
    with prepare(request, default_registry(), listen) as prepared:
        context, logits = prepared.context(), {}
        if stopped := StageRunner(context, None, offered=logits.__setitem__).run():
            raise stopped
        return Collected(context.val_targets, logits)


def halves(targets: Tensor, number: int, images: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images that choose, images that judge) as indices, class by class, `number` times."""
    for seed in range(number):
        draw = random.Random(seed)
        choosing: list[int] = []
        judging: list[int] = []
        for label in targets.unique().tolist():
            of_class = (targets == label).nonzero()[:, 0].tolist()
            draw.shuffle(of_class)
            choosing += of_class[: len(of_class) // 2]
            judging += of_class[len(of_class) // 2 :]
        draw.shuffle(choosing)
        yield torch.tensor(choosing[:images]), torch.tensor(judging)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule chose in the halvings of one run."""

    chosen: list[str]
    of_chosen: float
    """Mean accuracy of what was chosen, on the images that chose it."""
    accuracy: float
    """The same on the images on which nobody chose."""
    estimated: float
    """Mean of zoo's own estimate of the difference, from the images that chose alone."""

    def share(self, kind: str) -> float:
        """How often the head's end, a blend, or another stage's end was chosen."""
        kinds = ["blend" if " of the way " in name else "head" if name == "head" else "end" for name in self.chosen]
        return kinds.count(kind) / len(kinds)


def outcome(run: Collected, measure: str, standard_errors: float, splits: Sequence[tuple[Tensor, Tensor]]) -> Outcome:
    """Let a rule choose on the first half of each split."""
    judged_by, criterion = MEASURES[measure]
    chosen, on_chosen, on_others, estimated = [], [], [], []
    for number, (choosing, judging) in enumerate(splits):
        part = {name: judged_by(each[choosing], run.targets[choosing]) for name, each in run.logits.items()}
        best = next(iter(part))
        for name, each in part.items():
            if is_better(each, part[best], criterion, standard_errors):
                best = name
        chosen.append(best)
        on_chosen.append(float(part[best].right.double().mean()))
        on_others.append(float(run.right(best)[judging].mean()))
        if number < _ESTIMATED:
            estimated.append(optimism(list(part.values()), criterion, standard_errors) or 0.0)
    return Outcome(chosen, statistics.mean(on_chosen), statistics.mean(on_others), statistics.mean(estimated))


def table(runs: Sequence[Collected], *, halvings: int, images: int | None) -> str:
    """Rules beside each other, means over runs, in percent; and the best that could have been chosen."""
    lines = [
        "| chosen by | lead, standard errors | accuracy on others | difference to the first row "
        "| on those that chose | optimism | estimated | head kept | blend | end |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    splits = [list(halves(run.targets, halvings, images)) for run in runs]
    first: list[float] = []
    for measure in MEASURES:
        for errors in STANDARD_ERRORS:
            outcomes = [outcome(run, measure, errors, split) for run, split in zip(runs, splits, strict=True)]
            accuracies = [each.accuracy for each in outcomes]
            first = first or accuracies
            gains = [one - other for one, other in zip(accuracies, first, strict=True)]
            spread = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            own = statistics.mean(each.of_chosen for each in outcomes)
            numbers = [
                _percent(statistics.mean(accuracies)),
                f"{100 * statistics.mean(gains):+.2f} ± {100 * spread:.2f}",
                _percent(own),
                _percent(own - statistics.mean(accuracies)),
                _percent(statistics.mean(each.estimated for each in outcomes)),
                *(f"{100 * statistics.mean(each.share(kind) for each in outcomes):.0f} %" for kind in _KINDS),
            ]
            lines.append(f"| {measure} | {errors:g} | {' | '.join(numbers)} |")
    ends = [{name: float(run.right(name).mean()) for name in run.logits} for run in runs]
    common = [name for name in ends[0] if all(name in end for end in ends)]
    lines += ["", "Without choosing, on all validation images:", ""]
    lines += [f"- {name}: {_percent(statistics.mean(end[name] for end in ends))}" for name in common]
    return "\n".join(lines)


_KINDS = ("head", "blend", "end")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="what --collect wrote")
    parser.add_argument("--halvings", type=int, default=200)
    parser.add_argument("--images", type=int, help="images that choose; default: half of them")
    parser.add_argument("--collect", type=Path, metavar="FILE", help="train a run and write this file")
    parser.add_argument("--backbone")
    parser.add_argument("--weights")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.collect:
        if not (given.backbone and given.weights and given.data and given.recipe):
            parser.error("--collect needs --backbone, --weights, --data and --recipe")
        collect(given).write(given.collect)
    elif given.files:
        print(table([Collected.read(path) for path in given.files], halvings=given.halvings, images=given.images))
    else:
        parser.error("give files that --collect wrote, or --collect")
    return 0


if __name__ == "__main__":
    sys.exit(main())
