"""The bound below which a prediction is unsure, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from zoo.evaluation.predictions import ImagePrediction, to_csv
from zoo.serving.unsure import EVEN, RIGHT, rule_from, rule_of


def said(probability: float, right: bool, split: str = "val") -> ImagePrediction:
    return ImagePrediction(split, "a.jpg", "cat", "cat" if right else "dog", probability, probability)


@pytest.mark.parametrize("seed", range(40))
def test_at_and_above_the_bound_enough_are_right_and_no_lower_bound_would_do(seed: int) -> None:
    draw = random.Random(seed)
    skill = draw.uniform(0.5, 3)
    predictions = [
        said(probability, draw.random() < probability ** (1 / skill))
        for probability in (round(draw.uniform(0.2, 1), draw.choice([1, 6])) for _ in range(draw.randint(20, 300)))
    ]
    rule = rule_from(predictions)

    def share_right(bound: float) -> float:
        above = [each.right for each in predictions if each.probability >= bound]
        return sum(above) / len(above) if above else 0.0

    if rule.below < 1 or share_right(1.0) >= RIGHT:
        # Even odds bind where fewer would do, and there may be none between them and the next prediction.
        assert share_right(rule.below) >= RIGHT or rule.below == EVEN
    lower = {each.probability for each in predictions if EVEN <= each.probability < rule.below}
    assert all(share_right(bound) < RIGHT for bound in lower)
    assert all(rule.says(each.probability) == (each.probability < rule.below) for each in predictions)


def test_the_numbers_of_the_reason_are_counted_by_hand() -> None:
    predictions = [*[said(0.9, True)] * 19, said(0.9, False), *[said(0.7, False)] * 3, said(0.7, True)]
    rule = rule_from(predictions)
    assert rule.below == 0.9
    assert "19 of 20 (95\N{NO-BREAK SPACE}%)" in rule.why and "below, 1 of 4 (25\N{NO-BREAK SPACE}%)" in rule.why


def test_a_classifier_that_is_never_right_is_never_sure() -> None:
    rule = rule_from([said(0.99, False)] * 30)
    assert rule.below == 1.0 and rule.says(0.999) and "every answer" in rule.why


def test_of_a_perfect_one_even_odds_remain() -> None:
    assert rule_from([said(0.3 + 0.01 * number, True) for number in range(40)]).below == EVEN


def test_the_predictions_beside_the_artefact_decide_and_those_on_test_images_do_not(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    assert rule_of(model).below == EVEN and "not here" in rule_of(model).why
    table = model.parent / "predictions.csv"
    sure = [said(0.8, True)] * 40
    table.write_text(to_csv([*sure, *[said(0.95, False, "test")] * 40]))
    assert rule_of(model).below == EVEN
    table.write_text(to_csv([*sure, *[said(0.6, False)] * 40]))
    assert rule_of(model).below == 0.8
    table.write_text(to_csv([said(0.8, True, "out_of_fold")] * 40 + [said(0.6, False, "out_of_fold")] * 40))
    assert rule_of(model).below == 0.8
    recorded = model.parent / "evaluation.json"
    recorded.write_text(json.dumps({"predictions_digest": hashlib.sha256(table.read_bytes()).hexdigest()}))
    assert rule_of(model).below == 0.8
    table.write_text(table.read_text().replace("0.6", "0.7"))
    assert rule_of(model).below == EVEN and "was changed after the run" in rule_of(model).why
    recorded.unlink()
    table.write_text("nothing")
    assert rule_of(model).below == EVEN and "cannot be read" in rule_of(model).why
    table.write_text(to_csv([said(0.8, False)] * 19))
    assert "19 validation images are too few" in rule_of(model).why
