"""What came of a sweep: every candidate with its seeds put together, the winner, and what judged it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.display.blocks import Block, Line, TextTable, blocks_html
from zoo.evaluation.copies import CountedCopies
from zoo.storage.csv_lines import csv_text
from zoo.sweeping.sweep_folder import TrialRow
from zoo.text import counted, duration, shell_word

# The 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom, and that of the normal distribution. Written
# out, for `scipy.stats` takes half a second to import.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL = 1.959964
BALANCED_SCORES = ("balanced_accuracy", "balanced_loss")
"""What a row has beside the usual scores where the trial's `choose_by` lets every class count the same."""
SHOWN = 15
"""Candidates in the table of a terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateScores:
    """A candidate: trials that differ in their seed alone."""

    candidate: int
    settings: Mapping[str, str]
    rows: tuple[TrialRow, ...]
    drawn: bool
    """Whether the seed changes anything: a head that is solved comes out the same."""
    balanced: bool = False
    """Whether candidates are compared as if every class had equally many images."""

    @property
    def failed(self) -> int:
        """Trials of it that failed."""
        return sum(row.status == "failed" for row in self.rows)

    def mean(self, metric: Literal["accuracy", "loss"] = "accuracy") -> float:
        """The mean over the seeds of the accuracy or loss that candidates are compared by; nan where a trial failed."""
        return self.mean_of(self._name(metric))

    def mean_of(self, name: str) -> float:
        """The mean of a validation score over the seeds, by its name in rows; not a number where a trial failed."""
        return math.nan if self.failed else math.fsum(row.val[name] for row in self.rows) / len(self.rows)

    def accuracy_of(self, row: TrialRow) -> float:
        """The accuracy of a trial that did not fail, in the way in which candidates are compared."""
        return row.val[self._name("accuracy")]

    def _name(self, metric: str) -> str:
        return f"balanced_{metric}" if self.balanced else metric

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean accuracy by Student's t, which says what other seeds would give here.

        None for fewer than two seeds, where one failed, and where all have one accuracy: on few images that is common,
        and an interval without width would say that no seed matters.
        """
        count = len(self.rows)
        if count < 2 or self.failed:
            return None
        mean = self.mean()
        accuracies = [self.accuracy_of(row) for row in self.rows]
        if len(set(accuracies)) == 1:
            return None
        variance = math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / (count - 1)
        spread = t_quantile(count - 1) * math.sqrt(variance / count)
        return max(0.0, mean - spread), min(1.0, mean + spread)

    @property
    def described(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def ranked(candidates: Sequence[CandidateScores]) -> list[CandidateScores]:
    """The best first: by mean validation accuracy, ties by the lower mean loss, then in the order of the grid.

    Candidates with a failed trial come last. Where they are `balanced`, both are those with every class counting the
    same.
    """
    return sorted(
        candidates,
        key=lambda each: (
            bool(each.failed),
            # Means of the same number of images may differ in their last bit, and are a tie all the same.
            0.0 if each.failed else -round(each.mean(), 9),
            0.0 if each.failed else each.mean("loss"),
            each.candidate,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Sweep:
    """A finished sweep. `.candidates` has all of them, the best first; `.winner` is the run of the best."""

    folder: Path
    settings: Mapping[str, Any]
    division: Mapping[str, Any]
    """How many images trained, chose and judged, and where these come from."""
    candidates: tuple[CandidateScores, ...]
    winner_run: Path
    """The run folder of the winner: that of its first seed, not of its luckiest."""
    winner_val: Mapping[str, float]
    """The validation scores of this very run."""
    judged: Mapping[str, Any]
    """`images`, `accuracy` with `value`, `low` and `high`, `macro_f1`, `loss`, all on the images that chose nothing;
    `balanced_accuracy`, too, where candidates are compared by it."""
    seconds: float

    @property
    def best(self) -> CandidateScores:
        """The winner."""
        return self.candidates[0]

    @property
    def trials(self) -> list[TrialRow]:
        """All trials in the order of the grid."""
        return sorted((row for each in self.candidates for row in each.rows), key=lambda row: row.trial)

    @property
    def kind(self) -> str:
        """What stands before `accuracy` and `loss` where candidates are compared as if classes were equally large."""
        return "balanced " if self.best.balanced else ""

    @property
    def feature_seconds(self) -> float:
        """What computing the features took that trials share, which the seconds of no trial hold."""
        return math.fsum(row.feature_seconds for row in self.trials)

    @property
    def chose(self) -> str:
        """The mean over the seeds that chose the winner, in words, where it reads otherwise than its run's accuracy."""
        mean, of_run = (f"{100 * value:.1f} %" for value in (self.best.mean(), self.winner_accuracy))
        return "" if mean == of_run else f"the mean of {counted(len(self.best.rows), 'seed')}, {mean}"

    @property
    def copies(self) -> str:
        """What copies there are among the judged images, in words; empty where there are none."""
        found = self.judged.get("copies")
        return CountedCopies(**found).in_words(self.judged["images"]) if found else ""

    @property
    def winner_accuracy(self) -> float:
        """The validation accuracy of the winner's run, in the way in which candidates are compared."""
        return self.winner_val["balanced_accuracy" if self.best.balanced else "accuracy"]

    @property
    def varied(self) -> list[str]:
        """The knobs that have more than one value among the candidates."""
        names = list(self.best.settings)
        return [name for name in names if len({each.settings[name] for each in self.candidates}) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: what `sweep.json` holds."""
        return {
            "format": 1,
            "settings": self.settings,
            "division": self.division,
            "candidates_looked_at": len(self.candidates),
            "trials": len(self.trials),
            "failed": sum(row.status == "failed" for row in self.trials),
            "chosen_by": f"mean val {self.kind}accuracy over the seeds, ties by mean val {self.kind}loss",
            "winner": {
                "candidate": self.best.candidate,
                "settings": dict(self.best.settings),
                "seed": self.best.rows[0].seed,
                "run": self._relative(self.winner_run),
                "val": dict(self.winner_val),
                "mean_val_accuracy": self.best.mean_of("accuracy"),
                **_balanced_means(self.best, *BALANCED_SCORES[:1]),
                "judged": self.judged,
            },
            "ranking": [_candidate_dict(place, each) for place, each in enumerate(self.candidates, start=1)],
            "seconds": round(self.seconds, 3),
            "feature_seconds": round(self.feature_seconds, 3),
        }

    def to_csv(self) -> str:
        """A table with a row for each trial: what `trials.csv` holds."""
        names = list(self.best.settings)
        metrics = ("accuracy", "macro_f1", "loss", *(BALANCED_SCORES if self.best.balanced else ()))
        of_val = [f"val_{name}" for name in metrics]
        about_it = ("kept", "seconds", "retries", "run", "fault", "feature_seconds")
        rows: list[list[Any]] = [["trial", "candidate", "seed", *names, "status", *of_val, *about_it]]
        for row in self.trials:
            scores = [row.val.get(name, "") for name in metrics]
            settings = [row.settings[name] for name in names]
            about = [row.kept, round(row.seconds, 3), row.retries, row.run or "", row.fault, row.feature_seconds]
            rows.append([row.trial, row.candidate, row.seed, *settings, row.status, *scores, *about])
        return csv_text(rows)

    def table(self, most: int = SHOWN) -> TextTable:
        """The best candidates as a table, with the knobs that differ."""
        varied = self.varied or list(self.best.settings)[:1]
        rows = [
            [
                str(place),
                *(each.settings[name] for name in varied),
                _share(each),
                _interval(each),
                _loss(each),
                _seeds(each),
            ]
            for place, each in enumerate(self.candidates[:most], start=1)
        ]
        numbers = (f"val {self.kind}accuracy", "95 % over seeds", f"val {self.kind}loss", "seeds")
        return TextTable(columns=("", *varied, *numbers), rows=rows, right=("", *numbers))

    def conclusion(self) -> list[Block]:
        """What may be believed of the winner, in words."""
        value, low, high = (100 * self.judged["accuracy"][key] for key in ("value", "low", "high"))
        images = counted(self.judged["images"], "image")
        failed = sum(row.status == "failed" for row in self.trials)
        lines = [
            Line(f"Winner: {self.best.described} (seed {self.best.rows[0].seed})", style="bold"),
            Line(
                f"{self._judged_balanced}accuracy {value:.1f} % ({low:.1f} to {high:.1f}) on {images} "
                f"that nobody selected on: {self.division['judged_by']}."
            ),
            Line(self._of_val),
        ]
        if self.copies:
            lines.append(Line(self.copies))
        if failed:
            lines.append(Line(f"{counted(failed, 'trial')} failed; trials.csv says why.", style="bold yellow"))
        lines.append(Line(f"{self.folder / 'sweep.html'}: all trials; took {duration(self.seconds)}"))
        lines.append(Line(f"next: zoo predict {shell_word(self.winner_run)} IMAGE"))
        return list(lines)

    @property
    def _judged_balanced(self) -> str:
        balanced = self.judged.get("balanced_accuracy")
        return "" if balanced is None else f"balanced accuracy {100 * balanced:.1f} %, "

    @property
    def _of_val(self) -> str:
        """The winner's accuracy on val, and what it is worth."""
        images = counted(self.division["val"], "validation image")
        of_val = f"val {self.kind}accuracy {100 * self.winner_accuracy:.1f} % on the {images}"
        trials = counted(len(self.trials), "trial")
        if len(self.candidates) == 1:
            mean = f" ({self.chose})" if self.chose else ""
            return f"{of_val}{mean}; nothing was chosen there, as there is one candidate ({trials})."
        return (
            f"{of_val}, which is too good a number to report: the winner was chosen on these images, as "
            f"the best of {len(self.candidates):,} candidates ({trials}){f', by {self.chose}' if self.chose else ''}."
        )

    def __repr__(self) -> str:
        return f"Sweep({self.folder}: {counted(len(self.candidates), 'candidate')}, winner {self.best.described})"

    def _repr_html_(self) -> str:
        return blocks_html([self.table(), *self.conclusion()])

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def put_together(rows: Sequence[TrialRow], undrawn: frozenset[int]) -> list[CandidateScores]:
    """Gather trials into candidates, the best first. `undrawn`: candidates that no seed changes.

    They are compared as if every class had equally many images where the rows of all trials have the numbers for it:
    where all ask for it by their `choose_by`, and no older zoo wrote a row.
    """
    done = [row for row in rows if row.status == "done"]
    balanced = bool(done) and all(name in row.val for row in done for name in BALANCED_SCORES)
    by_candidate: dict[int, list[TrialRow]] = {}
    for row in sorted(rows, key=lambda row: row.trial):
        by_candidate.setdefault(row.candidate, []).append(row)
    return ranked(
        [
            CandidateScores(
                candidate=number,
                settings=own[0].settings,
                rows=tuple(own),
                drawn=number not in undrawn,
                balanced=balanced,
            )
            for number, own in by_candidate.items()
        ]
    )


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for so many degrees of freedom, within 0.001."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # How far it is from the normal one, after Cornish and Fisher: for 17 seeds it is 2.12 and not 1.96.
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _candidate_dict(place: int, each: CandidateScores) -> dict[str, Any]:
    interval = each.interval
    return {
        "place": place,
        "candidate": each.candidate,
        "settings": dict(each.settings),
        "mean_val_accuracy": None if each.failed else each.mean_of("accuracy"),
        "mean_val_loss": None if each.failed else each.mean_of("loss"),
        **_balanced_means(each, *BALANCED_SCORES),
        "interval_over_seeds": None if interval is None else list(interval),
        "seed_changes_it": each.drawn,
        "trials": [asdict(row) for row in each.rows],
    }


def _balanced_means(each: CandidateScores, *names: str) -> dict[str, float | None]:
    """The means of these scores by their keys in `sweep.json`; nothing where candidates are not compared by them."""
    return {f"mean_val_{name}": None if each.failed else each.mean_of(name) for name in names if each.balanced}


def _share(each: CandidateScores) -> str:
    return "failed" if each.failed else f"{100 * each.mean():.1f} %"


def _interval(each: CandidateScores) -> str:
    interval = each.interval
    if interval is None:
        return "-" if each.drawn or each.failed else "the same for all"
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _loss(each: CandidateScores) -> str:
    return "-" if each.failed else f"{each.mean('loss'):.3f}"


def _seeds(each: CandidateScores) -> str:
    return f"{len(each.rows)}" + (f" ({each.failed} failed)" if each.failed else "")
