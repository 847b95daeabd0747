"""The record of a curve: what is said, what is not, and why."""

from __future__ import annotations

import json

import torch
from tests.probes.test_learning_curve import clouds
from zoo.probes.curve_record import LEAST_OF_A_CLASS, WIDEST, record_of
from zoo.probes.learning_curve import learning_curve

NAMES = ("red", "green", "blue")


def test_the_record_is_plain_json_with_intervals_around_every_number() -> None:
    curve = learning_curve(*clouds(80), 3)
    record = record_of(curve, NAMES, of=1000)
    assert json.loads(json.dumps(record.to_dict())) == json.loads(
        json.dumps(record_of(curve, NAMES, of=1000).to_dict())
    )
    assert record.images == 240 and record.of == 1000
    for point, accuracy in zip(record.points, curve.accuracies, strict=True):
        assert point.accuracy.low < accuracy == point.accuracy.value < point.accuracy.high
    twice, four = record.forecasts
    assert (twice.images, four.images) == (480, 960)
    assert twice.gain is not None and four.gain is not None and twice.accuracy is not None
    assert twice.gain.value <= four.gain.value
    assert twice.accuracy.high - twice.accuracy.low > twice.gain.high - twice.gain.low, "images are chance, too"


def test_what_cannot_be_said_is_not_and_the_reason_stands_there() -> None:
    short = record_of(learning_curve(*clouds(4), 3), NAMES)
    assert all(each.gain is None and "too few images" in each.why for each in short.forecasts)
    wide = record_of(learning_curve(*clouds(12, noise=4.0), 3), NAMES)
    assert any("wider than" in each.why for each in wide.forecasts)
    said = [each.gain for record in (short, wide) for each in record.forecasts if each.gain]
    assert all(each.value - each.low <= WIDEST for each in said)


def test_of_a_small_class_nothing_is_forecast() -> None:
    features, targets = clouds(60)
    kept = (targets != 2) | (torch.cumsum(targets == 2, 0) < LEAST_OF_A_CLASS)
    record = record_of(learning_curve(features[kept], targets[kept], 3), NAMES)
    assert [each.gain is None for each in record.classes] == [False, False, True]
    assert [each.images for each in record.classes] == [60, 60, LEAST_OF_A_CLASS - 1]
