"""A stage whose rows are read from the disk ends where one ends whose rows are in memory."""

from __future__ import annotations

import json
import random
import tarfile
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zoo
from pyarrow import parquet
from tests.conftest import Zoo
from tests.packing import write_tar
from zoo.data.sample import sample_image
from zoo.errors import Refused
from zoo.events import Event, Progress

from zoo_sources.row_groups import StoredImage
from zoo_sources.tar import TarMember

TINY: dict[str, Any] = {
    "backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "batch_size": 5, "epochs": 3
}  # fmt: skip


@pytest.fixture
def streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every set is read in windows, of one run of four rows."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "0")
    for place in ("zoo.frozen.windows.RUN", "zoo.frozen.decision.RUN"):
        monkeypatch.setattr(place, 4)
    monkeypatch.setattr("zoo.frozen.decision.WINDOW", 1)
    monkeypatch.setattr("zoo.frozen.outputs.BLOCK", 1)
    return monkeypatch


def weights_of(result: zoo.Result) -> bytes:
    return (result.path / "model" / "model.safetensors").read_bytes()


def stage_of(result: zoo.Result) -> dict[str, Any]:
    stage: dict[str, Any] = json.loads((result.path / "plan.json").read_text("utf-8"))["stages"][0]
    return stage


@pytest.mark.long
def test_rows_from_the_disk_train_to_the_bytes_of_rows_in_memory_from_cold_and_warm_caches(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    in_memory = zoo.finetune(**TINY, data=shapes, out=tmp_path / "memory")
    assert stage_of(in_memory)["window"] == 4 and in_memory.proof == "passed"
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    warm = zoo.finetune(**TINY, data=shapes, out=tmp_path / "warm")
    streaming.setenv("ZOO_CACHE_DIR", str(tmp_path / "other"))
    cold = zoo.finetune(**TINY, data=shapes, out=tmp_path / "cold")
    assert weights_of(cold) == weights_of(warm) == weights_of(in_memory)
    # The order is another one than that of all rows.
    streaming.delenv("ZOO_STREAM_ABOVE")
    plain = zoo.finetune(**TINY, data=shapes, out=tmp_path / "plain")
    assert stage_of(plain)["window"] == 0 and weights_of(plain) != weights_of(cold)


@pytest.mark.long
def test_a_run_that_was_stopped_in_the_middle_of_a_window_goes_on_in_its_own_order(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    streaming.setattr("zoo.training.checkpoint.SECONDS_BETWEEN", {"step": 0, "epoch": 0, "stage": 0})
    whole = zoo.finetune(**TINY, data=shapes, out=tmp_path / "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "head" and event.done == 36 + 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "stopped", on_event=stop)
    # Whatever this machine would choose now.
    streaming.delenv("ZOO_STREAM_ABOVE")
    assert weights_of(zoo.resume(tmp_path / "stopped")) == weights_of(whole)


@pytest.mark.long
def test_features_that_were_interrupted_are_gone_on_with(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)

    def computed(events: list[Event]) -> int:
        return sum(isinstance(event, Progress) and event.task.startswith("features") for event in events)

    first: list[Event] = []

    def stop(event: Event) -> None:
        first.append(event)
        if computed(first) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "stopped", on_event=stop)
    events: list[Event] = []
    resumed = zoo.resume(tmp_path / "stopped", on_event=events.append)
    streaming.setenv("ZOO_CACHE_DIR", str(tmp_path / "other"))
    unbroken: list[Event] = []
    whole = zoo.finetune(**TINY, data=shapes, out=tmp_path / "whole", on_event=unbroken.append)
    assert weights_of(resumed) == weights_of(whole)
    assert computed(events) == computed(unbroken) - 1


@pytest.mark.long
def test_a_bfloat16_run_stores_half_and_ends_alike(shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch) -> None:
    usual = {**TINY, "data": shapes, "precision": "bfloat16"}
    streaming.delenv("ZOO_STREAM_ABOVE")
    cold = zoo.finetune(**usual, out=tmp_path / "cold")
    warm = zoo.finetune(**usual, out=tmp_path / "warm")
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    from_disk = zoo.finetune(**usual, out=tmp_path / "disk")
    assert weights_of(warm) == weights_of(cold) == weights_of(from_disk)
    assert stage_of(cold)["kept_as"] == "bfloat16 where exact" and cold.proof == "passed"
    files = list((tmp_path / "cache").glob("features/*/*.safetensors"))
    stored = sum(path.stat().st_size for path in files)
    assert stored < stage_of(cold)["kept_bytes"] / 2 + 400 * len(files)


def test_the_plan_says_in_which_order_rows_are_read(
    few: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--recipe", "head_only")
    steps = ("--epochs", "3")
    assert "read in windows" not in zoo_inside(*usual, *steps).stdout
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "1KB")
    assert "read in windows of" in " ".join(zoo_inside(*usual, *steps).stdout.split())
    # The solver takes all rows at once, so there is no order.
    assert json.loads(zoo_inside(*usual, "--json").stdout)["stages"][0]["window"] == 0
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "plenty")
    refused = zoo_inside(*usual)
    assert refused.returncode == 2 and "ZOO_STREAM_ABOVE is 'plenty', which is not a size" in refused.stderr


def shuffled_shards(kind: str, folder: Path) -> Path:
    """The same small set, its images in a tar file or a Parquet table as shards have them: classes mixed."""
    images: list[tuple[str, str, str, bytes]] = []
    for split, count in (("train", 12), ("val", 6)):
        for index, name in enumerate(("red", "green", "blue")):
            for number in range(count):
                content = BytesIO()
                sample_image(index, 3, split, number).save(content, "JPEG", quality=90)
                images.append((split, name, f"{number}.jpg", content.getvalue()))
    random.Random(0).shuffle(images)
    folder.mkdir()
    if kind == "tar":
        return write_tar(folder / "all.tar", {f"{split}/{label}/{name}": data for split, label, name, data in images})
    splits, labels, names, contents = zip(*images, strict=True)
    rows = pa.array([{"bytes": data, "path": name} for name, data in zip(names, contents, strict=True)])
    table = pa.table({"image": rows, "label": list(labels), "split": list(splits)})
    parquet.write_table(table, folder / "all.parquet", row_group_size=10)
    return folder / "all.parquet"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tar", pytest.param("parquet", marks=pytest.mark.long)])
def test_shards_are_opened_in_their_order_and_windows_are_runs_of_it(
    kind: str, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    data, places = shuffled_shards(kind, tmp_path / "data"), list[tuple[str, int, int]]()
    for reader in (TarMember, StoredImage):
        whole = reader.__call__
        streaming.setattr(reader, "__call__", lambda self, whole=whole: (places.append(self.place), whole(self))[1])
    usual: dict[str, Any] = {**TINY, "workers": 1}
    in_memory = zoo.finetune(**usual, data=data, out=tmp_path / "memory")
    opened = places[:54]  # what comes after are pictures of the report
    assert all(one < other for one, other in pairwise(opened))
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    streaming.setenv("ZOO_CACHE_DIR", str(tmp_path / "other"))
    from_disk = zoo.finetune(**usual, data=data, out=tmp_path / "disk")
    assert weights_of(from_disk) == weights_of(in_memory) and from_disk.proof == "passed"
    assert len(stage_of(from_disk)["shards"]) == 64


def test_another_order_of_shards_is_no_way_to_go_on(tmp_path: Path, streaming: pytest.MonkeyPatch) -> None:
    data = shuffled_shards("tar", tmp_path / "data")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "head":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=data, out=tmp_path / "run", on_event=stop)
    with tarfile.open(data) as tar:
        members = {info.name: tar.extractfile(info).read() for info in reversed(tar.getmembers())}  # type: ignore[union-attr]
    write_tar(data, members)  # the same pictures under the same names
    with pytest.raises(Refused, match="in the order of their shards, and that is another one"):
        zoo.resume(tmp_path / "run")
