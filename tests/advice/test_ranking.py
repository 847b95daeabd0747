"""The order of a shortlist, and who is as good as the first."""

from __future__ import annotations

import torch
from zoo.advice.candidate_backbones import CandidateBackbone
from zoo.advice.ranking import Found, Probe, Shortlist, in_common, ranked
from zoo.data.dataset import Dataset
from zoo.evaluation.metrics import wilson_interval
from zoo.planning.request import Request
from zoo.probes.cross_validation import OutOfFold
from zoo.probes.folds import Folds


def probe(right: int, images: int, *, files: tuple[str, ...] = ()) -> Probe:
    """A probe that is right on the first so many images."""
    share = wilson_interval(right, images)
    assert share is not None
    names = files or tuple(map(str, range(images)))
    return Probe(share, 1 - share.value, torch.arange(images) < right, names)


def found(name: str, probes: dict[int, Probe], *, beaten: bool = False, random: bool = False) -> Found:
    candidate = CandidateBackbone(
        name=name,
        backbone=name,
        weights="random" if random else "default",
        parameters=None,
        gmacs=None,
        top1=None,
        prior=0.0,
        licence=None,
        here=True,
        download_bytes=0,
    )
    return Found(candidate, None, probes, out="", beaten=beaten)


def shortlist(*candidates: Found) -> Shortlist:
    data = Dataset(source="photos", classes=("a", "b"), splits={"train": ()})
    return ranked(
        candidates,
        left_out=(),
        request=Request(backbone="auto"),
        dataset=data,
        head="linear",
        budget=60,
        seconds=1,
        interrupted=False,
    )


def test_the_best_of_a_round_is_first_though_another_one_went_on_without_it() -> None:
    slow = found("slow", {100: probe(95, 100)})
    quick = found("quick", {100: probe(70, 100), 400: probe(310, 400)})
    made = shortlist(quick, slow)
    assert [(each.name, each.images) for each in made.ranked] == [("slow", 100), ("quick", 100)]
    assert not made.ranked[1].as_good
    # Where the best went on as well, the larger sample decides.
    made = shortlist(quick, found("slow", {100: probe(95, 100), 400: probe(300, 400)}))
    assert [(each.name, each.images) for each in made.ranked] == [("quick", 400), ("slow", 400)]


def test_as_good_is_what_neither_the_test_nor_the_interval_tells_apart() -> None:
    first = found("first", {40: probe(38, 40)})
    close = found("close", {40: probe(37, 40)})
    far = found("far", {40: probe(20, 40)})
    made = shortlist(first, close, far)
    assert [each.as_good for each in made.ranked] == [True, True, False]
    assert made.smallest_shown is not None and 0.05 < made.smallest_shown < 0.3
    # Of 40 images five went one way and none the other: p is 0.06, and the interval leaves out 0.
    perfect = found("perfect", {40: probe(40, 40)})
    behind = shortlist(perfect, found("behind", {40: probe(35, 40)})).ranked[1]
    assert behind.p > 0.05 and behind.interval is not None and behind.interval.high < 0 and not behind.as_good
    assert not shortlist(first, found("random", {40: probe(37, 40)}, random=True)).ranked[1].as_good
    assert not shortlist(first, found("beaten", {40: probe(37, 40)}, beaten=True)).ranked[1].as_good
    # Beaten by the best of few images. Of these it has more right than the one that is first on many.
    lucky = found("lucky", {40: probe(38, 40)}, beaten=True)
    best_of_few = found("best of few", {40: probe(40, 40), 160: probe(120, 160)})
    late = shortlist(lucky, best_of_few, found("late", {40: probe(36, 40), 160: probe(150, 160)})).ranked
    assert [each.name for each in late] == ["late", "best of few", "lucky"]
    assert late[2].difference > 0 and not late[2].as_good
    assert shortlist(first).smallest_shown is None


def test_only_images_that_both_could_read_are_paired() -> None:
    one = probe(2, 4, files=("a", "b", "c", "d"))
    other = probe(1, 3, files=("d", "b", "x"))
    aligned, copies = in_common({"one": one, "other": other})
    assert copies is None and aligned["one"].tolist() == [True, False] and aligned["other"].tolist() == [False, True]


def judged(right: torch.Tensor, *, times: int) -> Probe:
    """A probe that is right on these pictures, each of which is there so many times."""
    every = right.repeat(times)
    logits = torch.stack([~every, every], 1).float()
    files = [str(number) for number in range(len(every))]
    pixels = [str(number % len(right)) for number in range(len(every))]
    folds = Folds((0,) * len(every), 1, ())
    return Probe.of(OutOfFold(logits, folds, ()), torch.ones(len(every), dtype=torch.long), files, pixels)


def test_images_that_are_there_twice_make_no_shortlist_surer() -> None:
    draws = torch.Generator().manual_seed(0)
    first, second = (torch.rand(80, generator=draws) < share for share in (0.9, 0.8))
    once, twice = (
        shortlist(
            found("first", {80: judged(first, times=times)}),
            found("second", {80: judged(second, times=times)}),
        )
        for times in (1, 2)
    )
    assert once.copies is None and "copies" not in once.to_dict()
    for one, two in zip(once.ranked, twice.ranked, strict=True):
        assert two.images == 2 * one.images
        assert (two.accuracy, two.difference, two.p, two.as_good) == (one.accuracy, one.difference, one.p, one.as_good)
    assert twice.smallest_shown == once.smallest_shown
    assert twice.to_dict()["copies"] == {"images": 160, "pictures": 80, "effective_images": 80.0}
    told = "160 of the 160 images are copies of one another, pixel for pixel (80 different pictures)"
    assert any(told in str(block) for block in twice.remarks())
