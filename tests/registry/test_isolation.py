"""Distributions that fail, each in its own way, installed together: every other one goes on working."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import zoo
from tests.conftest import DISTS, Zoo

# Distribution -> what its one line on stderr says, which is its error in `zoo list plugins` as well.
BROKEN = {
    "zoo-exits": "import: SystemExit: no terminal, no plugin",
    "zoo-hook-raises": "zoo_heads: KeyError: 'settings'",
    "zoo-import-error": "import: RuntimeError: no licence key for HeadSpec",
    "zoo-invalid-spec": "options of head 'thawed' must be a frozen dataclass: Options is not frozen",
    "zoo-misspelt": "registration: PluginValidationError: unknown hook 'zoo_haeds'",
    "zoo-no-dependency": "import: ModuleNotFoundError: No module named 'wavelets_of_nobody'",
    "zoo-no-marker": "zoo_heads is not marked: put @zoo.hookimpl above it",
    "zoo-unspeakable": "import: UnspeakableError: its message cannot be read",
    "zoo-wrong-type": "zoo_heads: TypeError: must return HeadSpec objects, one of them is str",
}
TINY = ("--backbone", "timm/test_resnet", "--weights", "random", "--recipe", "head_only", "--epochs", "1")
SLOW_SECONDS = 0.6
"""That zoo-slow sleeps, most of it while it is imported, the rest in its hook."""


def test_each_broken_distribution_is_told_in_one_line_and_as_a_whole_in_the_list(among: Zoo) -> None:
    done = among("list", "plugins")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("loud:")]
    for distribution, said in BROKEN.items():
        (line,) = [line for line in told if f"({distribution} 1.4)" in line]
        assert "is left out" in line and said in line
    assert len(told) == len(BROKEN)
    assert "loud:" not in done.stdout
    rows = json.loads(among("list", "plugins", "--json").stdout)
    by_distribution = {each["distribution"]: each for each in rows if each["distribution"] != "zoo-registry"}
    assert set(by_distribution) == {folder.name for folder in DISTS.iterdir()}
    for distribution, row in by_distribution.items():
        said = BROKEN.get(distribution)
        assert row["state"] == ("broken" if said else "on demand" if "commands" in row["brings"] else "loaded")
        assert said in row["error"] if said else row["error"] is None
        if said:
            assert f"    error: {row['error']}" in done.stdout.splitlines()
    assert by_distribution["zoo-good"]["brings"] == {"heads": ["good_linear"]}
    assert by_distribution["zoo-second-claim"]["version"] == "0.2"
    assert {each["state"] for each in rows if each["distribution"] == "zoo-registry"} == {"loaded"}


@pytest.mark.long
def test_the_time_that_a_slow_one_takes_is_shown(among: Zoo) -> None:
    done = among("list", "plugins", "zoo-slow", "--json")
    (row,) = json.loads(done.stdout)
    assert SLOW_SECONDS <= row["load_seconds"] < 10 * SLOW_SECONDS
    shown = among("list", "plugins", "zoo-slow").stdout
    milliseconds = int(shown.split(" ms")[0].split()[-1])
    assert milliseconds >= 1000 * SLOW_SECONDS


@pytest.mark.long
def test_claims_of_two_are_noted_and_refused_only_when_used(among: Zoo) -> None:
    rows = json.loads(among("list", "plugins", "--json").stdout)
    notes = {each["distribution"]: each["notes"] for each in rows}
    assert notes["zoo-first-claim"] == ["the head name 'contested' is also claimed by zoo-second-claim"]
    assert notes["zoo-second-claim"] == ["the head name 'contested' is also claimed by zoo-first-claim"]
    assert notes["zoo-twin-one"] == notes["zoo-twin-two"] == []
    assert len(notes["zoo-usurper"]) == 4  # two bare names, a provider, a head
    refused = among("show", "contested")
    assert refused.returncode == 2 and not refused.stdout
    for said in ("zoo-first-claim 1.4: first_claim/contested", "zoo-second-claim 0.2: second_claim/contested"):
        assert said in refused.stderr
    heads = among("list", "heads").stdout
    for name in (
        "twin/twin_one",
        "twin/twin_two",
        "first_claim/contested",
        "second_claim/contested",
        "good/good_linear",
    ):
        assert name in heads


def test_a_good_one_trains_in_that_company(
    crowd: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(crowd), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    lines: list[str] = []
    result = zoo.finetune(
        backbone="test_resnet",
        weights="random",
        head="good_linear",
        data=few,
        recipe="head_only",
        epochs=1,
        out=tmp_path / "run",
        registry=zoo.Registry(report=lines.append),
    )
    assert result.proof == "passed" and result.content["head"] == "good/good_linear"
    assert result.content["backbone"].startswith("timm/test_resnet") and len(lines) == len(BROKEN)


@pytest.mark.long
def test_what_a_plugin_prints_at_any_time_stays_out_of_json(among: Zoo, few: Path) -> None:
    done = among("finetune", *TINY, "--data", few, "--head", "loud_linear", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["proof"] == "passed"
    for said in ("imported", "from another process", "asked", "built", "forward"):
        assert f"loud: {said}" in done.stderr.splitlines()
    image = next((few / "val").rglob("*.jpg"))
    predicted = among("predict", result["path"], image, "--json")
    assert json.loads(predicted.stdout)[0]["source"] == str(image) and "loud: forward" in predicted.stderr


def test_strict_raises_for_the_first_broken_one_and_names_it(among: Zoo) -> None:
    done = among("list", "heads", ZOO_STRICT_PLUGINS="1")
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr
    assert "Error: Plugin exits (zoo-exits 1.4) is left out; import: SystemExit" in done.stderr


def test_what_is_switched_off_is_neither_imported_nor_reported(among: Zoo) -> None:
    off = [name.removeprefix("zoo-").replace("-", "_") for name in BROKEN]
    done = among("list", "plugins", "--json", ZOO_DISABLE_PLUGINS=",".join([*off, "loud", "twin"]))
    assert done.returncode == 0 and done.stderr == ""
    states = {each["distribution"]: each["state"] for each in json.loads(done.stdout)}
    disabled = {distribution for distribution, state in states.items() if state == "disabled"}
    assert disabled == {*BROKEN, "zoo-loud", "zoo-twin-one", "zoo-twin-two"}
    assert states["zoo-good"] == "loaded"
    strict = among("list", "heads", ZOO_STRICT_PLUGINS="1", ZOO_DISABLE_PLUGINS=",".join(off))
    assert strict.returncode == 0 and "good/good_linear" in strict.stdout
