"""What a finished run shows of itself: epochs, stages, the report in a browser or in a frame."""

from __future__ import annotations

import html
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.display.blocks import Block, Line, TextTable, blocks_html, frame_html, too_large
from zoo.display.records import Records
from zoo.errors import RunError
from zoo.specs.run_result import (
    JUDGED_IN_WORDS,
    RunResult,
    judged_on,
    kept_in_words,
    optimism_in_words,
    trained_before_in_words,
)
from zoo.text import duration, shell_word
from zoo.training.run_files import read_history

REPORT = "report.html"
_SCORES = ("loss", "accuracy", "macro_f1")


def history_of(run: Path) -> Records:
    """One row for each epoch of all stages. Raises RunError where the folder does not have them any more."""
    return Records(_epoch(epoch) for epoch in read_history(run))


def stages_of(result: Mapping[str, Any]) -> Records:
    """One row for each stage of a run, from the content of its `result.json`."""
    kept, judged = result["selection"]["kept"], judged_on(result["metrics"])
    return Records(
        {
            "stage": stage["name"],
            "kept": stage["name"] == kept,
            "epochs": stage["epochs"],
            **{name: stage["metrics"].get(judged, {}).get(name) for name in _SCORES},
            "seconds": stage["seconds"],
            "trained": stage["trainable_parameters"],
            "frozen": stage["frozen_parameters"],
            "given_up": stage.get("abandoned_why") or None,
        }
        for stage in result.get("stages", ())
    )


def _epoch(record: Mapping[str, Any]) -> dict[str, Any]:
    rates = record["rates"].values()
    return {
        "stage": record["stage"],
        "epoch": record["epoch"],
        "train_loss": record["train_loss"],
        # Of a run in folds, only the last epoch of a stage has scores.
        **{f"val_{name}": record["val"].get(name) for name in _SCORES},
        # A head that was fitted has no rates.
        "learning_rate": max(rates, default=None),
        "seconds": record["seconds"],
        "images_per_second": record["images_per_second"],
    }


def open_report(report: Path) -> None:
    """Open a report in the browser. Raises RunError where there is no report, or no browser."""
    if not report.exists():
        raise RunError(
            f"{report.parent} has no {REPORT}: the run was made without one, or it was moved.\n"
            f"Next: zoo.report({str(report.parent)!r})"
        )
    if not webbrowser.open(report.absolute().as_uri()):  # a relative path has no URI
        raise RunError(f"No browser can be opened on this machine.\nNext: open {report.absolute()} in one of yours.")


def result_html(result: RunResult, report: Path) -> str:
    """A run as a notebook shows it: its report in a frame; a summary where that is missing or too large."""
    remarks = [Line(f"There is no {REPORT}. Next: zoo.report({str(result.path)!r})")]
    if report.exists():
        framed = frame_html(report.read_text("utf-8", errors="replace"), place=f"Report of {result.path.name}")
        if framed is not None:
            return framed
        remarks = [too_large(report.stat().st_size)]
    link = f'<a href="{html.escape(report.absolute().as_uri())}">{html.escape(str(report))}</a>'
    return blocks_html([*summary(result), *remarks]) + (link if report.exists() else "")


def summary(result: RunResult) -> Iterator[Block]:
    """A run in two tables: its scores, and its stages."""
    content = result.content
    yield Line(f"{content['backbone']}, {content['head']}, {content['recipe']}: proof {result.proof}", "bold")
    rows = [
        [JUDGED_IN_WORDS.get(split, split), *(f"{scores[name]:.4f}" for name in reversed(_SCORES))]
        for split, scores in result.metrics.items()
    ]
    yield TextTable(
        columns=["images", "macro F1", "accuracy", "loss"], rows=rows, right=["macro F1", "accuracy", "loss"]
    )
    if before := trained_before_in_words(content.get("weights_trained_on", {})):
        yield Line(before, "bold yellow")
    if stages := stages_of(content):
        yield stages.table()
        yield Line(f"kept: {kept_in_words(content['selection'])}")
    if optimism := optimism_in_words(content["selection"]):
        yield Line(optimism)
    yield Line(f"{duration(content['seconds']['total'])}; {shell_word(result.path)}")
