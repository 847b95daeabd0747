"""What a sweep is to say of weights that an earlier run trained on its images: they would win, and be no better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.dataset import Dataset
from zoo.events import Note, Report
from zoo.registry.registry import Registry
from zoo.sweeping.checked_trials import CheckedTrial
from zoo.text import counted
from zoo.training.trained_before import trained_before, weights_file

_BY = {"val": "chosen_by", "test": "judged_by"}
"""Where the record of a division says what candidates are chosen by, and what the winner is judged by."""


def with_known_weights(
    division: Mapping[str, Any],
    trials: Sequence[CheckedTrial],
    datasets: tuple[Dataset, Dataset],
    registry: Registry,
    report: Report,
) -> dict[str, Any]:
    """Return the record of a division with what its images taught the weights of trials; it is reported, too, loudly.

    Args:
        division: The record.
        trials: All of the sweep.
        datasets: The images of trials, and those that judge the winner.
        registry: Where names are looked up.
        report: Called with every event.
    """
    content = dict(division)
    judged = {
        "val": datasets[0].splits.get("val", ()),
        "test": tuple(file for files in datasets[1].splits.values() for file in files),
    }
    for file in _files(trials, registry):
        found = trained_before(file, judged, registry, report)
        if found is None:
            continue
        for sentence in found.sentences:
            report(Note(text=f"Weights {file}: {sentence}", loud=True))
        for part, count in found.counts.items():
            perhaps = "" if found.certain else "perhaps "
            known = f"{file} was trained {perhaps}on {count:,} of these {counted(len(judged[part]), 'image')} before"
            content[_BY[part]] = f"{content[_BY[part]]} ({known})"
    return content


def _files(trials: Sequence[CheckedTrial], registry: Registry) -> list[Path]:
    """The files of weights that trials begin with, each once."""
    files: dict[Path, None] = {}
    for each in trials:
        file = weights_file(each.request, registry)
        if file is not None:
            files[file] = None
    return list(files)
