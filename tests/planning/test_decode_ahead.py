"""What is decoded ahead of a run: the images that it will open first, and only where looking at them does no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zoo
from zoo.data import ahead
from zoo.data.sources import DataLocation
from zoo.planning import decode_ahead as module
from zoo.planning.decode_ahead import decode_ahead
from zoo.planning.request import make_request


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], ahead.Work | None]]:
    works: list[Callable[[], ahead.Work | None]] = []
    monkeypatch.setattr(ahead, "begin", works.append)
    return works


def test_all_images_are_prepared_as_the_plan_says(few: Path, begun: list[Callable[[], ahead.Work | None]]) -> None:
    asked = {"backbone": "timm/test_resnet", "weights": "random", "data": few, "input_size": 96, "decode": "fast"}
    decode_ahead(make_request(**asked))
    found = begun[0]()
    assert found is not None
    files, preprocessing, threads = found
    plan = zoo.plan(**asked)
    assert len(files) == sum(map(sum, plan.data.images.values())) and threads >= 1
    assert preprocessing.to_dict() == plan.preprocessing


def test_nothing_is_decoded_where_it_is_not_known_what_will_be_opened(
    few: Path, begun: list[Callable[[], ahead.Work | None]]
) -> None:
    decode_ahead(None)
    decode_ahead(make_request(backbone="auto", data=few))
    decode_ahead(make_request(backbone="timm/test_resnet"))
    assert not begun
    decode_ahead(make_request(backbone="timm/test_resnet", data=few, examine=10))
    assert begun[0]() is None, "which ten images are opened is drawn later"


def test_a_data_source_of_others_is_called_by_the_run_alone(
    few: Path, begun: list[Callable[[], ahead.Work | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object, **named: object) -> None:
        raise AssertionError("it may download at its first call")

    foreign = SimpleNamespace(plugin=SimpleNamespace(own=False))
    monkeypatch.setattr(module, "find_data", lambda *arguments: DataLocation(str(few), few, foreign))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "read_dataset", read)
    decode_ahead(make_request(backbone="timm/test_resnet", data=few))
    assert begun[0]() is None
