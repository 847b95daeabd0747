"""How often the rule by which stages are given up would have been wrong, on runs whose stages were let go on.

    python -m benchmarks.abandoned RUN...

Each run is a folder with `plan.json` and `history.jsonl`. Stages after the first are replayed epoch by epoch against
the best stage before them, by accuracy. Giving one up would have been wrong where it ended better than that: by
accuracy, and counted separately by loss. What is seen before a stage's first step is not in a history, so that part of
the rule is not replayed here. Stages that were given up are left out: nobody knows how
they would have ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.evaluation.metrics import Scores
from zoo.specs.plan import Plan
from zoo.training.abandon import Rival, hopeless
from zoo.training.run_folder import HISTORY, PLAN, RESULT


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stage that was let go on, and what the rule says of it."""

    run: str
    stage: str
    rival: Scores
    end: Scores
    epochs: int
    seconds: float
    """Seconds of all its epochs."""
    given_up: int | None
    """After how many epochs the rule gives it up; None where it does not."""
    saved: float
    """Seconds of the epochs after that."""

    @property
    def wrong_by_accuracy(self) -> bool:
        return self.given_up is not None and self.end.accuracy > self.rival.accuracy

    @property
    def wrong_by_loss(self) -> bool:
        return self.given_up is not None and self.end.loss < self.rival.loss


def replay(run: Path) -> Iterator[Replayed]:
    """The stages of a run after its first."""
    plan = Plan.model_validate_json((run / PLAN).read_text("utf-8"))
    epochs = [json.loads(line) for line in (run / HISTORY).read_text("utf-8").splitlines()]
    rival: Rival | None = None
    for stage in plan.stages:
        name = stage.settings.name
        own = [epoch for epoch in epochs if epoch["stage"] == name]
        if not own or name in _given_up(run):
            continue
        scores = [Scores(**epoch["val"]) for epoch in own]
        end = scores[-1]
        if stage.settings.keep_epoch == "best":
            end = max(scores, key=lambda each: (each.accuracy, -each.loss))
        if rival is not None:
            yield _replayed(run.name, name, rival, own, scores, end)
        if rival is None or end.accuracy > rival.scores.accuracy:
            rival = Rival(name, end)


def _replayed(
    run: str,
    stage: str,
    rival: Rival,
    own: Sequence[dict[str, Any]],
    scores: Sequence[Scores],
    end: Scores,
) -> Replayed:
    seconds = [epoch["seconds"] for epoch in own]
    judged = (done for done in range(1, len(scores)) if hopeless(rival, scores[:done], of=len(scores)))
    after = next(judged, None)
    saved = 0.0 if after is None else sum(seconds[after:])
    return Replayed(run, stage, rival.scores, end, len(scores), sum(seconds), after, saved)


def _given_up(run: Path) -> set[str]:
    if not (run / RESULT).exists():
        return set()
    stages = json.loads((run / RESULT).read_text("utf-8"))["stages"]
    return {stage["name"] for stage in stages if stage.get("abandoned")}


def summary(stages: Sequence[Replayed]) -> str:
    """What the rule would have saved, and how often it would have been wrong."""
    dropped = [each for each in stages if each.given_up is not None]
    lost = [each for each in stages if each.end.accuracy <= each.rival.accuracy]
    epochs, all_epochs = (
        sum(each.epochs - (each.given_up or 0) for each in dropped),
        sum(each.epochs for each in stages),
    )
    seconds, all_seconds = sum(each.saved for each in stages), sum(each.seconds for each in stages)
    return "\n".join(
        [
            f"{len(stages)} stages that were let go on; {len(lost)} did not become the best",
            f"given up: {len(dropped)}; saved: {epochs} of {all_epochs} epochs, {seconds:.0f} of {all_seconds:.0f} s",
            f"wrong by accuracy: {sum(each.wrong_by_accuracy for each in stages)}; "
            f"wrong by loss: {sum(each.wrong_by_loss for each in stages)}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each stage, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = parser.parse_args(arguments).runs
    strangers = [run for run in runs if not (run / PLAN).is_file() or not (run / HISTORY).is_file()]
    if strangers:
        parser.error(f"no run with {PLAN} and {HISTORY}: {', '.join(map(str, strangers))}")
    stages = [stage for run in runs for stage in replay(run)]
    for each in stages:
        said = f"given up after {each.given_up} of {each.epochs}" if each.given_up else "let go on"
        wrong = ", WRONG" if each.wrong_by_accuracy else ", wrong by loss" if each.wrong_by_loss else ""
        print(
            f"{each.run} {each.stage}: {each.rival.accuracy:.3f}, {each.rival.loss:.3f} -> "
            f"{each.end.accuracy:.3f}, {each.end.loss:.3f}; {said}{wrong}"
        )
    print(summary(stages) if stages else "no stage after a first one was let go on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
