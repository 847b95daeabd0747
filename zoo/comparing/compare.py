"""Read finished runs, check that they can be compared, and compare each with the first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import zoo.comparing.page  # noqa: F401  (a notebook shows comparisons by it)
from zoo.comparing.comparison import ComparedRun, Comparison, PairedTest, RunPair, SplitScores
from zoo.comparing.conclusion import cautions_of, conclusion_of
from zoo.comparing.differences import differences_between
from zoo.comparing.pairing import SPLITS, Contents, Pair, Paired, pairs_of
from zoo.errors import Refused
from zoo.evaluation.copies import Copies
from zoo.evaluation.metrics import wilson_interval
from zoo.evaluation.significance import ALPHA, PairedOutcomes, holm, smallest_shown
from zoo.registry.registry import Registry
from zoo.reporting.record import RunRecord, as_runs_write_it, read_run
from zoo.specs.plan import Plan
from zoo.training.run_folder import PREDICTIONS

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compare_runs(paths: Sequence[Path], registry: Registry) -> Comparison:
    """Compare finished runs with the first of them. Nothing is written.

    Raises RunError for a path that is not a finished run or cannot be read. Raises Refused for fewer than 2 or more
    than 26 runs, a run that is given twice, missing predictions, different classes, and runs without any image that
    both are known to have judged.
    """
    _refuse_wrong_number(paths)
    _refuse_repeated(paths)
    records = [_read(path) for path in paths]
    for record in records[1:]:
        _refuse_other_classes(records[0], record)
    with as_runs_write_it(*paths):
        return _compared(records, paths, registry)


def _compared(records: Sequence[RunRecord], paths: Sequence[Path], registry: Registry) -> Comparison:
    runs = [
        ComparedRun(letter=letter, name=name, record=record, scores=_scores(record))
        for letter, name, record in zip(_LETTERS, _names(paths), records, strict=False)
    ]
    # Shared by all pairs, so that the files of the first run are read once.
    contents = Contents(registry)
    pairs = [pairs_of(records[0], record, contents) for record in records[1:]]
    against = tuple(
        _against(runs[0], run, tested, paired, registry, contents)
        for run, tested, paired in zip(runs[1:], _tested(pairs), pairs, strict=True)
    )
    return Comparison(
        runs=tuple(runs),
        against=against,
        conclusions=tuple(conclusion_of(pair) for pair in against),
        cautions=cautions_of(runs, against),
    )


def _against(
    first: ComparedRun,
    run: ComparedRun,
    tested: tuple[PairedTest, ...],
    paired: Paired,
    registry: Registry,
    contents: Contents,
) -> RunPair:
    plans = first.record.plan, run.record.plan
    return RunPair(
        first=first,
        run=run,
        differences=differences_between(*plans, registry, same_files=_same_files(*plans, contents)),
        tested=tested,
        relabelled=paired.relabelled,
        ambiguous=paired.ambiguous,
        copies={split: found.counted().images for split, found in (paired.copies or {}).items()},
        pictures={split: found.counted().pictures for split, found in (paired.copies or {}).items()},
        copies_known=paired.copies is not None,
        same_images=not paired.relabelled
        and all(
            run.scores[test.split].images == first.scores[test.split].images == test.outcomes.images for test in tested
        ),
    )


def _refuse_wrong_number(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise Refused(f"A comparison needs two runs or more, and {len(paths)} was given.\nNext: zoo compare RUN RUN")
    if len(paths) > len(_LETTERS):
        raise Refused(
            f"{len(paths)} runs were given, but at most {len(_LETTERS)} can be compared: each is named by a letter.\n"
            "Next: compare fewer runs at a time."
        )


def _refuse_repeated(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        # A link or another spelling of the path is still the same run.
        real = path.resolve()
        if real in seen:
            also = f", as {seen[real]} and as {path}" if str(seen[real]) != str(path) else ""
            raise Refused(
                f"{path} is given twice{also}. A run compared with itself shows nothing.\nNext: name each run once."
            )
        seen[real] = path


def _read(path: Path) -> RunRecord:
    record = read_run(path)
    if not record.predictions:
        raise Refused(
            f"{path} has no {PREDICTIONS}, so its predictions cannot be compared with another run's, image by image: "
            "the file was removed, or an older zoo made the run.\n"
            "Next: repeat the run with this zoo. Or write the predictions of both runs with zoo evaluate RUN --data "
            "FOLDER --csv FILE, and compare the files yourself."
        )
    return record


def _refuse_other_classes(first: RunRecord, other: RunRecord) -> None:
    # The order may differ: predictions are compared by class name.
    ours, theirs = set(first.plan.classes), set(other.plan.classes)
    if ours == theirs:
        return
    lines = [
        f"  only in {run.path}: {', '.join(sorted(extra)[:10])}{' ...' if len(extra) > 10 else ''}"
        for run, extra in ((first, ours - theirs), (other, theirs - ours))
        if extra
    ]
    raise Refused(
        "\n".join(
            [
                f"{first.path} and {other.path} have different classes, so their tasks are different:",
                *lines,
                "Next: compare runs that were trained on the same class folders.",
            ]
        )
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the folders if all differ, else the paths as they were given."""
    names = [path.absolute().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _scores(record: RunRecord) -> dict[str, SplitScores]:
    scores = {}
    for split in SPLITS:
        right = [prediction.right for prediction in record.predictions if prediction.split == split]
        assessed = record.evaluation.get(split, {})
        # As the run found them; an older zoo looked for none.
        effective = assessed.get("copies", {}).get("effective_images")
        accuracy = wilson_interval(sum(right), len(right), effective=effective)
        # Without images or metrics of this split, it is left out of the table.
        if accuracy is None or split not in record.result["metrics"]:
            continue
        metrics = record.result["metrics"][split]
        scores[split] = SplitScores(
            images=len(right),
            accuracy=accuracy,
            macro_f1=metrics["macro_f1"],
            loss=metrics["loss"],
            calibration_error=assessed.get("calibration_error"),
        )
    return scores


def _same_files(first: Plan, second: Plan, contents: Contents) -> bool | None:
    """Whether both runs used the same files, however they were split; None if the files have changed since."""
    # The digest covers the splits as well, so only equal ones say everything without the files.
    if first.data.digest == second.data.digest:
        return True
    digests = [contents.of(plan) for plan in (first, second)]
    return None if None in digests else digests[0] == digests[1]


def _tested(paired: Sequence[Paired]) -> list[tuple[PairedTest, ...]]:
    """The paired tests of every run but the first. Holm's correction counts the tests of one split."""
    outcomes = [
        {split: _outcomes(pairs, (of_run.copies or {}).get(split)) for split, pairs in of_run.splits.items()}
        for of_run in paired
    ]
    tested: list[list[PairedTest]] = [[] for _ in paired]
    for split in SPLITS:
        runs = [index for index, of_run in enumerate(outcomes) if split in of_run]
        p_values = [outcomes[run][split].p for run in runs]
        for run, p, adjusted in zip(runs, p_values, holm(p_values), strict=True):
            of_run, counted = outcomes[run][split], outcomes[run][split].outcomes
            tested[run].append(
                PairedTest(
                    split=split,
                    outcomes=counted,
                    of_pictures=of_run.of_pictures,
                    accuracy=(
                        (counted.both_right + counted.only_first) / counted.images,
                        (counted.both_right + counted.only_second) / counted.images,
                    ),
                    interval=of_run.interval(),
                    p=p,
                    p_adjusted=adjusted,
                    # The strictest level of Holm's correction: a difference that passes it passes in any order.
                    smallest_shown=smallest_shown(of_run.of_pictures, alpha=ALPHA / len(runs)),
                )
            )
    return [tuple(tests) for tests in tested]


def _outcomes(pairs: Sequence[Pair], copies: Copies | None) -> PairedOutcomes:
    return PairedOutcomes([pair.first.right for pair in pairs], [pair.second.right for pair in pairs], copies)
