"""`zoo evaluate`: the scores of a saved classifier, and a file with the prediction for each image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.document import print_document
from zoo.cli.options import Inference
from zoo.data.unused import as_rows
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.process import start_computing
from zoo.storage.atomic import json_text, try_file, write_text
from zoo.storage.csv_lines import refuse_foreign

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.artefact.evaluate import Evaluation
    from zoo.evaluation.metrics import Share

_CLASSES, _WORST = 100, 40
"""Most classes in the table of `zoo evaluate` on a terminal. Of more, so many with the lowest F1 are shown."""


def evaluate_and_print(
    artefact: Path,
    data: Path,
    inference: Inference,
    *,
    csv_file: Path | None,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Score a saved classifier, write the predictions to `csv_file` and print the scores.

    Raises Refused or RunError, before anything is computed, for a file that cannot be written.
    """
    if csv_file is not None:
        try_file(csv_file)
    start_computing("zoo.artefact.evaluate")
    if csv_file is not None:
        # With torch, which must not be imported before.
        from zoo.cli import predict
        from zoo.evaluation.predictions import COLUMNS

        refuse_foreign(csv_file, COLUMNS, predict.COLUMNS)
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(verbosity, as_json=as_json) as display:
        scored = zoo.evaluate(
            artefact,
            data=data,
            device=inference.device,
            precision=inference.precision,
            compile=inference.compile,
            views=inference.views,
            workers=inference.workers,
            on_event=display.report,
        )
    if csv_file is not None:  # before printing: a reader that closes stdout early must not cost the file
        _write_predictions(csv_file, scored)
    print_evaluation(scored, verbosity, as_json=as_json)


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    from zoo.evaluation.predictions import to_csv

    views = None if evaluation.views is None else evaluation.views.views
    write_text(path, to_csv(evaluation.predictions, views=views))


def print_evaluation(evaluation: Evaluation, verbosity: Verbosity, *, as_json: bool) -> None:
    """Print scores by class, which `-q` leaves out, and over the whole split."""
    if as_json:
        views = {} if evaluation.views is None else {"views": evaluation.views.to_dict()}
        unknown = list(evaluation.perhaps_trained_on)
        of_each = {} if evaluation.views is None else {"views": evaluation.views.views}
        content = {
            "split": evaluation.split,
            "images": evaluation.images,
            "trained_on": evaluation.trained_on,
            **({"perhaps_trained_on": unknown} if unknown else {}),
            **views,
            "metrics": evaluation.scores.to_dict(),
            "assessment": evaluation.assessment.to_dict(),
            "per_class": {
                name: {"correct": right, "images": total} for name, (right, total) in evaluation.per_class.items()
            },
            "predictions": [{**asdict(prediction), **of_each} for prediction in evaluation.predictions],
            "unreadable": evaluation.unreadable,
            "skipped": as_rows(evaluation.skipped),
        }
        print_document(json_text(content))
        return
    screen = console.out()
    if not verbosity.quiet:
        _print_classes(evaluation, screen)
        screen.print()
    scores, assessment = evaluation.scores, evaluation.assessment
    top5 = f", top-5 {assessment.top5.value:.3f}" if assessment.top5 else ""
    screen.print(
        f"{evaluation.split}: accuracy {scores.accuracy:.3f}{top5}, macro F1 {scores.macro_f1:.3f}, "
        f"loss {scores.loss:.4f} on {console.count(evaluation.images, 'image')}",
        style="bold",
    )
    low, high = assessment.accuracy.low, assessment.accuracy.high
    screen.print(
        f"95 % interval of the accuracy {low:.3f} to {high:.3f}; calibration error {assessment.calibration_error:.3f}"
    )
    if assessment.copies is not None:
        screen.print(assessment.copies.in_words(evaluation.images))
    if evaluation.views is not None:
        for sentence in evaluation.views.sentences():
            screen.print(sentence)


def _print_classes(evaluation: Evaluation, screen: Console) -> None:
    scored_classes = [scored for scored in evaluation.assessment.classes if scored.images or scored.predicted]
    # Off a terminal the table is complete: there it is read by grep, not by people.
    worst = screen.is_terminal and len(scored_classes) > _CLASSES
    rows = [
        [
            scored.name,
            *_share(scored.recall),
            *_share(scored.precision),
            f"{scored.f1:.3f}",
            str(scored.correct),
            str(scored.images),
        ]
        for scored in (sorted(scored_classes, key=lambda scored: scored.f1)[:_WORST] if worst else scored_classes)
    ]
    columns = ["class", "recall", "95 %", "precision", "95 % ", "F1", "correct", "images"]
    console.show(screen, console.table(None, columns, rows, right=columns[1:]))
    if worst:
        screen.print(f"the {_WORST} of {len(scored_classes):,} classes with the lowest F1; --json has all")


def _share(share: Share | None) -> tuple[str, str]:
    """A share and its 95 % interval, or two dashes if nothing was counted."""
    return (f"{share.value:.3f}", f"{share.low:.2f} to {share.high:.2f}") if share else ("-", "-")
