"""A trial on kept features has the scores of the run with the same settings, to the last bit, whatever is varied."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zoo
from tests.packing import write_tar
from torch import nn
from zoo.events import silent
from zoo.planning.request import Request, make_request
from zoo.planning.resolve import dataset_of, resolve
from zoo.registry.registry import default_registry
from zoo.sweeping.kept_features import features_key, kept_features

SETTINGS: list[dict[str, Any]] = [
    {"head": "linear"},
    {"head": "linear", "set": ["head.lr=1e-2", "head.epochs=4"], "seed": 1},
    {"head": "linear", "set": ["head.lr=1e-2", "head.epochs=4"], "seed": 2},
    {"head": "dropout_linear", "head_options": {"p": "0.5"}, "set": ["head.epochs=3", "head.optimizer=sgd"], "seed": 3},
    {"head": "cosine", "set": ["head.epochs=3", "head.label_smoothing=0.1", "head.class_weights=balanced"]},
    {"head": "linear", "set": ["head.epochs=4", "head.keep_epoch=best", "head.ema=0.5", "head.clip=1"], "seed": 4},
    {"head": "linear", "set": ["head.epochs=3", "head.lr=auto"]},
    {"head": "linear", "set": ["head.epochs=4", "head.augment=flip", "head.views=2"], "seed": 5},
    {"head": "linear", "set": ["head.epochs=4", "head.augment=crop", "head.views=2"], "seed": 5},
    {"head": "mlp", "set": ["head.epochs=3", "head.sampling=balanced"], "seed": 6},
    {"head": "prototype"},
]


def asked(data: Path, settings: dict[str, Any]) -> Request:
    weights = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only"}
    return make_request(**{**weights, "seed": 0, "data": data, "tune": False, **settings})


_QUICK = (0, 3, 8, 10)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [pytest.param(each, marks=() if place in _QUICK else pytest.mark.long) for place, each in enumerate(SETTINGS)],
    ids=lambda each: " ".join([each["head"], *each.get("set", ())]),
)
def test_a_trial_has_the_scores_of_the_run(settings: dict[str, Any], few: Path, tmp_path: Path) -> None:
    registry, request = default_registry(), asked(few, settings)
    dataset = dataset_of(request, registry, silent)
    with kept_features(request, registry, silent, dataset) as kept:
        before = {**settings, "head": "linear", "set": ["head.epochs=2"], "head_options": {}}
        assert kept.run(asked(few, before)).feature_seconds > 0
        found, again = kept.run(request), kept.run(request)
    run = zoo.finetune(
        **{**settings, "backbone": "timm/test_resnet"}, **RUN, data=few, out=tmp_path / "run", report=False
    )
    assert found.fault == again.fault == ""
    assert found.val == again.val == dict(run.metrics["val"])
    assert again.feature_seconds == 0 < again.seconds, "only the first that needs features waits for them"


RUN: dict[str, Any] = {"weights": "random", "recipe": "head_only", "tune": False}


def test_another_seed_of_random_weights_has_other_features(few: Path) -> None:
    registry = default_registry()

    def key(**settings: Any) -> object:
        return features_key(resolve(asked(few, {"head": "linear", **settings}), registry, silent))

    assert key() == key(head="cosine") and key() == key(set=["head.lr=1e-2"])
    assert key() != key(seed=1) and key() != key(backbone="timm/test_vit")
    assert key() != key(input_size=(64, 64))


def test_rows_in_the_order_of_shards_are_of_trials_that_shuffle_them_in_windows_alone(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "0")
    files = sorted(few.rglob("*.jpg"), reverse=True)
    data = write_tar(tmp_path / "all.tar", {path.relative_to(few).as_posix(): path.read_bytes() for path in files})
    registry = default_registry()
    in_windows = asked(data, {"head": "linear", "set": ["head.epochs=3", "head.batch_size=3", "head.lr=0.1"]})
    drawn = asked(data, {"head": "linear", "set": ["head.epochs=3", "head.batch_size=3", "head.sampling=balanced"]})
    dataset = dataset_of(in_windows, registry, silent)
    with kept_features(in_windows, registry, silent, dataset) as kept:
        expected = kept.run(in_windows)
    with kept_features(drawn, registry, silent, dataset) as kept:
        before, found = kept.run(drawn), kept.run(in_windows)
    assert before.fault == found.fault == expected.fault == "" and found.val == expected.val


def two_layers(width: int) -> zoo.HeadSpec:
    def build(shape: zoo.FeatureShape, classes: int, _: zoo.NoOptions) -> nn.Module:
        return nn.Sequential(nn.Linear(shape.pooled, width), nn.ReLU(), nn.Linear(width, classes))

    return zoo.HeadSpec(name="two_layers", summary="A head for the test.", build=build)


def test_heads_of_one_name_from_two_plugins_are_two_heads(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin, width in (("test_narrow", 2), ("test_wide", 64)):
        module = ModuleType(plugin)

        @zoo.hookimpl
        def zoo_heads(width: int = width) -> list[zoo.HeadSpec]:
            return [two_layers(width)]

        module.zoo_heads = zoo_heads  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, plugin, module)
    points = [EntryPoint(name, name, "zoo") for name in ("test_narrow", "test_wide")]
    registry = zoo.Registry([*entry_points(group="zoo"), *points])
    narrow, wide = (asked(few, {"head": f"{point.name}/two_layers", "set": ["head.epochs=2"]}) for point in points)
    dataset = dataset_of(narrow, registry, silent)
    with kept_features(narrow, registry, silent, dataset) as kept:
        alone = kept.run(wide)
    with kept_features(narrow, registry, silent, dataset) as kept:
        first, second = kept.run(narrow), kept.run(wide)
    assert first.fault == second.fault == "" and second.val == alone.val != first.val


def test_a_trial_that_diverges_fails_and_the_next_one_does_not(few: Path) -> None:
    registry, request = default_registry(), asked(few, {"head": "linear", "set": ["head.epochs=2"]})
    dataset = dataset_of(request, registry, silent)
    with kept_features(request, registry, silent, dataset) as kept:
        before = kept.run(request)
        wild = kept.run(asked(few, {"head": "linear", "set": ["head.lr=1e30", "head.epochs=9", "head.optimizer=sgd"]}))
        after = kept.run(request)
    assert "not finite" in wild.fault and not wild.val
    assert after.val == before.val
