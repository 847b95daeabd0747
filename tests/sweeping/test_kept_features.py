"""A trial on kept features has the scores of the run with the same settings, to the last bit, whatever is varied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zoo
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


def test_a_trial_that_diverges_fails_and_the_next_one_does_not(few: Path) -> None:
    registry, request = default_registry(), asked(few, {"head": "linear", "set": ["head.epochs=2"]})
    dataset = dataset_of(request, registry, silent)
    with kept_features(request, registry, silent, dataset) as kept:
        before = kept.run(request)
        wild = kept.run(asked(few, {"head": "linear", "set": ["head.lr=1e30", "head.epochs=9", "head.optimizer=sgd"]}))
        after = kept.run(request)
    assert "not finite" in wild.fault and not wild.val
    assert after.val == before.val
