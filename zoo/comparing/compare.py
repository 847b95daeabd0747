"""Runs read, checked against one another, and compared with the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.comparing.comparison import Against, Compared, Comparison, Scored, Tested
from zoo.comparing.conclusion import cautions_of, conclusion_of
from zoo.comparing.differences import differences_between
from zoo.comparing.pairing import SPLITS, Contents, Pair, outcomes_of, pairs_of
from zoo.comparing.significance import ALPHA, bootstrap, holm, mcnemar, smallest_shown
from zoo.errors import Refused
from zoo.evaluation.intervals import wilson
from zoo.planning.plan import Plan
from zoo.registry import Registry
from zoo.reporting.record import RunRecord, read_run
from zoo.training.run_folder import PREDICTIONS

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compare_runs(paths: Sequence[Path], registry: Registry) -> Comparison:
    """Compare finished runs with the first of them; nothing is written.

    Raises RunError for what is no finished run or cannot be read; Refused for fewer than two runs or more than 26, one
    that is given twice, predictions that are missing, other classes, and runs that are not known to have judged an
    image in common.
    """
    _refuse_wrong_number(paths)
    _refuse_repeated(paths)
    records = [_read(path) for path in paths]
    for record in records[1:]:
        _refuse_other_classes(records[0], record)
    runs = [
        Compared(letter=letter, name=name, record=record, scores=_scores(record))
        for letter, name, record in zip(_LETTERS, _names(paths), records, strict=False)
    ]
    contents = Contents()
    pairs = [pairs_of(records[0], record, contents) for record in records[1:]]
    against = tuple(
        Against(
            first=runs[0],
            run=run,
            differences=differences_between(
                runs[0].record.plan,
                run.record.plan,
                registry,
                same_files=_same_files(runs[0].record.plan, run.record.plan, contents),
            ),
            tested=tested,
            same_images=all(
                run.scores[each.split].images == runs[0].scores[each.split].images == each.outcomes.images
                for each in tested
            ),
        )
        for run, tested in zip(runs[1:], _tested(pairs), strict=True)
    )
    return Comparison(
        runs=tuple(runs),
        against=against,
        conclusions=tuple(conclusion_of(each) for each in against),
        cautions=cautions_of(runs, against),
    )


def _refuse_wrong_number(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise Refused(f"A comparison needs two runs or more, and {len(paths)} was given.\nNext: zoo compare RUN RUN")
    if len(paths) > len(_LETTERS):
        raise Refused(
            f"{len(paths)} runs are more than can be told apart on one page.\n"
            f"Next: compare at most {len(_LETTERS)} at a time."
        )


def _refuse_repeated(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        real = path.resolve()
        if real in seen:
            also = f", as {seen[real]} and as {path}" if str(seen[real]) != str(path) else ""
            raise Refused(
                f"{path} is given twice{also}; a run compared with itself shows nothing.\nNext: name each run once."
            )
        seen[real] = path


def _read(path: Path) -> RunRecord:
    record = read_run(path)
    if not record.predictions:
        raise Refused(
            f"{path} has no {PREDICTIONS}, so its answers cannot be paired with those of another run, image by image: "
            "it was removed, or an older zoo made the run.\n"
            "Next: repeat the run with this zoo, or compare two files of zoo evaluate RUN --data FOLDER --csv FILE "
            "yourself."
        )
    return record


def _refuse_other_classes(first: RunRecord, other: RunRecord) -> None:
    ours, theirs = set(first.plan.classes), set(other.plan.classes)
    if ours == theirs:
        return
    lines = [
        f"  only in {run.path}: {', '.join(sorted(more)[:10])}{' ...' if len(more) > 10 else ''}"
        for run, more in ((first, ours - theirs), (other, theirs - ours))
        if more
    ]
    raise Refused(
        "\n".join(
            [
                f"{first.path} and {other.path} have other classes, so they did not do the same task:",
                *lines,
                "Next: compare runs that were trained on the same class folders.",
            ]
        )
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names where they differ, else the paths as they were given."""
    own = [path.absolute().name for path in paths]
    return own if len(set(own)) == len(own) else [str(path) for path in paths]


def _scores(record: RunRecord) -> dict[str, Scored]:
    scores = {}
    for split in SPLITS:
        right = [each.right for each in record.predictions if each.split == split]
        accuracy = wilson(sum(right), len(right))
        if accuracy is None or split not in record.result["metrics"]:
            continue
        metrics, assessed = record.result["metrics"][split], record.evaluation.get(split, {})
        scores[split] = Scored(
            images=len(right),
            accuracy=accuracy,
            macro_f1=metrics["macro_f1"],
            loss=metrics["loss"],
            calibration_error=assessed.get("calibration_error"),
        )
    return scores


def _same_files(first: Plan, second: Plan, contents: Contents) -> bool | None:
    """Whether all files are the same, whatever their split; None where their bytes cannot be had."""
    if first.data.digest == second.data.digest:
        return True
    found = [contents.of(plan) for plan in (first, second)]
    return None if None in found else found[0] == found[1]


def _tested(found: Sequence[dict[str, tuple[Pair, ...]]]) -> list[tuple[Tested, ...]]:
    """For every run but the first, its splits; the p-values of a split are adjusted for the number of its tests."""
    outcomes = [{split: outcomes_of(pairs) for split, pairs in each.items()} for each in found]
    tested: list[list[Tested]] = [[] for _ in found]
    for split in SPLITS:
        having = [index for index, each in enumerate(outcomes) if split in each]
        p_values = [mcnemar(outcomes[index][split].only_first, outcomes[index][split].only_second) for index in having]
        for index, p, adjusted in zip(having, p_values, holm(p_values), strict=True):
            counted = outcomes[index][split]
            tested[index].append(
                Tested(
                    split=split,
                    outcomes=counted,
                    accuracy=(
                        (counted.both_right + counted.only_first) / counted.images,
                        (counted.both_right + counted.only_second) / counted.images,
                    ),
                    interval=bootstrap(counted),
                    p=p,
                    p_adjusted=adjusted,
                    smallest_shown=smallest_shown(counted, alpha=ALPHA / len(having)),
                )
            )
    return [tuple(each) for each in tested]
