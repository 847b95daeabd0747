"""Want of room is said before anything is computed, and the next step that it names helps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from zoo.errors import OptionError, RunError
from zoo.events import Event, Note, Progress
from zoo.frozen.room import memory_size
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import block_of

TINY: dict[str, Any] = {
    "backbone": "timm/test_resnet",
    "weights": "random",
    "recipe": "head_only",
    "batch_size": 4,
    "epochs": 1,
}


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Rows are never in memory, and every chunk is a file."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    monkeypatch.setattr("zoo.frozen.outputs.BLOCK", 1)
    return monkeypatch


def computed(events: list[Event]) -> int:
    return sum(isinstance(event, Progress) and event.task.startswith("features") for event in events)


def limit_in(message: str) -> str:
    found = re.search(r"ZOO_CACHE_LIMIT=(\w+)", message)
    assert found is not None, message
    return found[1]


def test_a_plan_beyond_the_limit_names_the_limit_that_holds_it(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", 0)
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "1KB")
    (stage,) = zoo.plan(**TINY, data=few).stages
    assert stage.inputs == "images" and stage.kept_as == ""
    monkeypatch.setenv("ZOO_CACHE_LIMIT", limit_in(stage.why))
    (stage,) = zoo.plan(**TINY, data=few).stages
    assert stage.inputs == "features" and stage.kept_as == "float32"


def test_a_limit_below_what_a_run_needs_ends_it_before_anything_is_computed(
    shapes: Path, tmp_path: Path, on_disk: pytest.MonkeyPatch
) -> None:
    on_disk.setenv("ZOO_CACHE_LIMIT", "2KB")
    events: list[Event] = []
    with pytest.raises(RunError, match=r"fit neither .* ZOO_CACHE_LIMIT allows 2.0 kB") as refused:
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "run", on_event=events.append)
    assert not computed(events)
    on_disk.setenv("ZOO_CACHE_LIMIT", limit_in(str(refused.value)))
    assert zoo.resume(tmp_path / "run").proof == "passed"


def test_what_another_command_uses_is_counted_and_not_evicted(
    shapes: Path, tmp_path: Path, on_disk: pytest.MonkeyPatch
) -> None:
    (stage,) = zoo.plan(**TINY, data=shapes).stages
    needed = stage.kept_bytes
    theirs, key = FeatureCache(limit=10**9), CacheKey({"name": "theirs"})
    assert theirs.keep(key, "images", block_of(torch.full((1, needed // 8), 0.1)))
    on_disk.setenv("ZOO_CACHE_LIMIT", str(int(1.1 * needed)))
    events: list[Event] = []
    with pytest.raises(RunError, match="are in use") as refused:
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "run", on_event=events.append)
    assert computed(events) <= 1  # the first chunk tells how large the others are
    assert theirs.read(key, "images") is not None
    on_disk.setenv("ZOO_CACHE_LIMIT", limit_in(str(refused.value)))
    assert zoo.resume(tmp_path / "run").proof == "passed"
    assert theirs.read(key, "images") is not None


@pytest.mark.long
def test_a_run_that_has_begun_goes_on_with_a_higher_limit_and_another_setting_needs_a_new_run(
    few: Path, tmp_path: Path, on_disk: pytest.MonkeyPatch
) -> None:
    (recipe := tmp_path / "last.toml").write_text(
        "summary = 'x'\n[[stages]]\nname = 'last'\ntrain = ['head', 'last:1']\nepochs = 2\nlr = 1e-3\n"
    )
    asked = {**TINY, "recipe": str(recipe), "data": few, "report": False}
    asked.pop("epochs")
    on_disk.setenv("ZOO_CACHE_LIMIT", "2KB")
    with pytest.raises(RunError, match="fit neither") as refused:
        zoo.finetune(**asked, out=tmp_path / "run")
    goes_on, begins_anew = str(refused.value).partition("Next: ")[2].split("; or ")
    assert goes_on.endswith(", and the run goes on with zoo finetune --resume RUN")
    setting = re.fullmatch(r"compute them in every epoch, in a new run: --set (\S+)\.", begins_anew)
    assert setting is not None
    assert zoo.finetune(**asked, set=[setting[1]], out=tmp_path / "anew").proof == "passed"
    on_disk.setenv("ZOO_CACHE_LIMIT", limit_in(goes_on))
    assert zoo.resume(tmp_path / "run", report=False).proof == "passed"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_without_room_is_noticed_at_the_beginning_and_costs_rows_in_memory_nothing(
    shapes: Path, tmp_path: Path, on_disk: pytest.MonkeyPatch, full_disk: Path
) -> None:
    on_disk.setenv("ZOO_CACHE_DIR", str(full_disk))
    events: list[Event] = []
    with pytest.raises(RunError, match=r"Next: free .* on that disk, or name .* with ZOO_CACHE_DIR") as refused:
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "run", on_event=events.append)
    assert not computed(events) and str(full_disk) in str(refused.value)
    on_disk.setenv("ZOO_CACHE_DIR", str(tmp_path / "larger"))
    from_disk = zoo.resume(tmp_path / "run")
    on_disk.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 1 << 30)
    on_disk.setenv("ZOO_CACHE_DIR", str(full_disk))
    in_memory = zoo.finetune(**TINY, data=shapes, out=tmp_path / "memory", on_event=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert sum("a later run computes them again" in text for text in notes) == 1
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (from_disk, in_memory)]
    assert weights[0] == weights[1]


def test_a_solver_or_a_closed_form_that_memory_cannot_hold_is_refused_with_what_can(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (memory_size() or 0) > 1 << 28
    monkeypatch.setattr("zoo.frozen.room.memory_size", lambda: 10_000)
    usual = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "data": few}
    with pytest.raises(OptionError, match=r"the solver is fitted to all features at once.*10 kB are there") as refused:
        zoo.plan(**usual)
    (step,) = re.findall(r"--set (\S+?)[,.]? ", str(refused.value).replace("\n", " "))
    assert zoo.plan(**usual, set=[step.rstrip(",")]).stages[0].solver == "gradient"
    with pytest.raises(OptionError, match="a closed form is fitted to all features at once"):
        zoo.plan(**usual, head="prototype")
    assert zoo.plan(**usual, head="linear", epochs=1).stages[0].inputs == "features"
