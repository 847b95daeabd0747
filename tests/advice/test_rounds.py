"""Samples that grow, and what is dropped on the way."""

from __future__ import annotations

import torch
from zoo.advice.rounds import FIRST, cannot_win, sample_order, sample_sizes
from zoo.evaluation.copies import copies_among
from zoo.evaluation.significance import Outcomes, PairedOutcomes


def test_samples_grow_fourfold_to_all_images_and_small_sets_are_taken_whole() -> None:
    assert sample_sizes(FIRST, 5) == [FIRST] and sample_sizes(100, 5) == [100]
    assert sample_sizes(FIRST + 1, 5) == [FIRST, FIRST + 1]
    assert sample_sizes(50_000, 5) == [512, 2048, 8192, 32768, 50_000]
    # Ten of a class on average, in whole blocks of the cache.
    assert sample_sizes(50_000, 1000) == [10_112, 40_448, 50_000]


def test_a_part_is_no_larger_than_asked_and_no_smaller_than_a_round() -> None:
    assert sample_sizes(50_000, 5, 1000) == [512, 1000] and sample_sizes(50_000, 5, 10) == [512]
    assert sample_sizes(50_000, 1000, 1000) == [10_112], "ten of a class"
    for images in (100, 512, 513, 1000):
        assert sample_sizes(images, 5, 1000) == sample_sizes(images, 5)


def test_every_beginning_of_the_order_holds_each_class_in_its_share() -> None:
    labels = [0] * 700 + [1] * 200 + [2] * 100
    order = sample_order(labels, seed=0)
    assert sorted(order) == list(range(1000))
    assert sorted(labels[index] for index in order[:6]) == [0, 0, 1, 1, 2, 2], "a probe knows every class"
    for size in (10, 100, 512, 999):
        counts = [sum(labels[index] == label for index in order[:size]) for label in range(3)]
        assert all(abs(count - size * share) <= 3 for count, share in zip(counts, (0.7, 0.2, 0.1), strict=True))
    assert sample_order(labels, seed=0) == order != sample_order(labels, seed=1)
    assert order[:700] != sorted(order[:700])


def test_only_what_a_paired_test_tells_from_the_best_is_dropped_and_never_the_best_by_prior() -> None:
    best = torch.tensor([True] * 90 + [False] * 10)
    a_little = torch.tensor([True] * 87 + [False] * 13)
    far = torch.tensor([True] * 60 + [False] * 40)
    right = {"best": best, "a little": a_little, "far": far, "prior": far.clone()}
    assert list(cannot_win(right, stays="prior")) == ["far"]
    assert list(cannot_win(right, stays="far")) == ["prior"]
    assert cannot_win({"one": far}, stays="one") == {}
    # As far behind on a tenth of the images is not enough, and ten copies of these are no more.
    few = {name: each[::10] for name, each in right.items()}
    assert cannot_win(few, stays="prior") == {}
    copies = copies_among([str(index % 10) for index in range(100)])
    assert cannot_win({name: each.repeat(10) for name, each in few.items()}, stays="prior", copies=copies) == {}


def test_pairs_are_counted_image_by_image() -> None:
    pairs = PairedOutcomes(
        torch.tensor([True, True, False, False, False]), torch.tensor([True, False, True, False, True])
    )
    assert pairs.outcomes == Outcomes(both_right=1, only_first=1, only_second=2, both_wrong=1)
