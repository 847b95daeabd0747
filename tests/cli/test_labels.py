"""`zoo data labels` as a command: what it prints, that its next steps work, and what it refuses."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from tests.conftest import Zoo


@pytest.mark.long
def test_its_next_steps_lead_to_a_run_on_the_accepted_labels(shapes: Path, zoo_inside: Zoo, tmp_path: Path) -> None:
    told = zoo_inside("data", "labels", shapes, "--backbone", "timm/test_resnet", "--weights", "random")
    assert told.returncode == 0, told.stderr
    first, *_ = told.stdout.splitlines()
    assert first.startswith("66 images of 3 classes, judged by timm/test_resnet") and "suspect label" in first
    assert "suspects: labels/suspects.csv" in told.stdout and "page: labels/labels.html" in told.stdout
    table = tmp_path / "labels" / "suspects.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["accept"] = "yes"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")  # as spreadsheet programs of some countries save it
        writer.writeheader()
        writer.writerows(rows)
    step = next(line for line in told.stdout.splitlines() if line.startswith("next:"))
    applied = zoo_inside(*shlex.split(step.partition(" then: zoo ")[2]))
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.startswith("1 label changed: 66 images in the table")
    step = next(line for line in applied.stdout.splitlines() if line.startswith("next:"))
    words = shlex.split(step.partition("zoo ")[2].replace("NAME", "timm/test_resnet"))
    planned = zoo_inside("plan", *words[1:], "--weights", "random")
    assert planned.returncode == 0, planned.stderr
    again = zoo_inside("data", "labels", shapes, "--backbone", "timm/test_resnet", "--weights", "random", "--json")
    found = json.loads(again.stdout)
    assert found["csv"] == "labels-2/suspects.csv" and (tmp_path / found["page"]).is_file()


def test_what_does_not_go_together_is_refused(shapes: Path, zoo_inside: Zoo, tmp_path: Path) -> None:
    for words, says in (
        ([], "Missing option '--backbone'"),
        (["--apply", "a.csv"], "Next: zoo data labels"),
        (["--apply", "a.csv", "--out", "b.csv", "--backbone", "resnet18"], "also given: --backbone"),
        (["--apply", "a.csv", "--out", "b.csv"], "a.csv cannot be read"),
        (["--backbone", "timm/test_resnet", "--out", "."], "overwrites nothing"),
        (["--backbone", "./nothing"], "nothing"),
    ):
        told = zoo_inside("data", "labels", shapes, *words)
        assert told.returncode in (1, 2) and says in told.stderr, (words, told.stderr)
        assert list(tmp_path.iterdir()) == []
