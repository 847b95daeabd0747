"""What may be said of a comparison, in plain words, and what may not."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.comparing.comparison import Against, Compared, Tested
from zoo.comparing.differences import value_of
from zoo.comparing.wording import SPLIT_WORDS, p_text, points, share

_FEW_APART = 10
"""Below so many images that tell two runs apart, a bootstrap interval is too narrow to be believed."""


def conclusion_of(against: Against) -> tuple[str, ...]:
    """Sentences about one run and the first: the difference, what it may be put down to, and what limits it."""
    main, *others = against.tested
    sentences = [_verdict(against, main), *(_beside(against, each) for each in others), _cause(against)]
    if not against.same_images:
        sentences.append(_other_images(against))
    return tuple(sentences)


def cautions_of(runs: Sequence[Compared], comparisons: Sequence[Against]) -> tuple[str, ...]:
    """Sentences that hold for the comparison as a whole."""
    found = [
        f"The proof of {run.letter} failed: do not believe its numbers before you know why "
        f"({run.record.path}/proof.json)."
        for run in runs
        if run.proof != "passed"
    ]
    if len(comparisons) > 1:
        found.append(
            f"{len(comparisons)} runs are compared with {runs[0].letter}: by chance alone, one of many comparisons "
            "looks good. The p-values are corrected for that (Holm); the intervals are not."
        )
    found.append(_selection(runs, comparisons))
    surroundings = dict.fromkeys(name for each in comparisons for name in each.differences.surroundings)
    if surroundings:
        found.append(
            f"Not chosen, but different as well: {', '.join(surroundings)}. That may move a result a little by itself."
        )
    return tuple(found)


def _verdict(against: Against, tested: Tested) -> str:
    first, run = against.first.letter, against.run.letter
    counted = tested.outcomes
    images = f"{counted.images:,} {SPLIT_WORDS[tested.split]} image{'s' if counted.images != 1 else ''}"
    both = f"{first} {share(tested.accuracy[0])}, {run} {share(tested.accuracy[1])}"
    if counted.apart == 0:
        return (
            f"{first} and {run} are right on the same of the {images} ({share(tested.accuracy[0])}): nothing tells "
            f"them apart here, and differences below about {points(_unseen(counted.images), signed=False)} points "
            "could not have been seen."
        )
    difference = f"The difference of {points(counted.difference)} points on the {images} ({both})"
    if counted.only_first == counted.only_second:
        difference = f"{first} and {run} are right equally often on the {images} ({share(tested.accuracy[0])})"
    interval = f"95 % interval {points(tested.interval.low)} to {points(tested.interval.high)} points"
    if tested.significant:
        return f"{difference} is more than chance explains: {p_text(tested.p_adjusted)}, {interval}.{_few(tested)}"
    says = ", which does not show that they are equally good" if counted.difference == 0 else " may be chance"
    return f"{difference}{says}: {p_text(tested.p_adjusted)}, {interval}; {_can_show(tested)}.{_few(tested)}"


def _unseen(images: int) -> float:
    """What nothing seen in so many images still allows, at 95 %: the rule of three (Hanley and Lippman-Hand 1983,
    doi:10.1001/jama.1983.03330370053031)."""
    return min(1.0, 3 / images)


def _can_show(tested: Tested) -> str:
    count = tested.outcomes.images
    if tested.smallest_shown is None:
        return f"{count:,} image{'s' if count != 1 else ''} cannot show any difference"
    return (
        f"{count:,} images can show differences of about {points(tested.smallest_shown, signed=False)} points or more"
    )


def _few(tested: Tested) -> str:
    apart = tested.outcomes.apart
    if apart >= _FEW_APART:
        return ""
    return (
        f" Only {apart} image{'s tell' if apart != 1 else ' tells'} them apart: believe p, the interval is too narrow."
    )


def _beside(against: Against, tested: Tested) -> str:
    """The other split, on which things were chosen."""
    counted = tested.outcomes
    return (
        f"On the {counted.images:,} {SPLIT_WORDS[tested.split]} images, on which stages were chosen: "
        f"{points(counted.difference)} points, {p_text(tested.p_adjusted)}."
    )


def _cause(against: Against) -> str:
    choices, seed = against.differences.choices, against.differences.seed
    first, run = against.first.letter, against.run.letter
    if not choices and seed:
        return (
            f"Only the seed differs between {first} and {run}: this is how far chance in training moves a result, and "
            "no reason to prefer either."
        )
    if not choices:
        return f"No choice differs between {first} and {run}."
    if len(choices) == 1 and not seed:
        (name,) = choices
        values = " to ".join(value_of(each.record.plan, name) for each in (against.first, against.run))
        if against.tested[0].significant:
            cause = "so that the difference can be put down to it, for this seed; another seed may move it"
        else:
            cause = "so that a difference, had one shown, could be put down to it"
        return f"One choice differs, {name} ({values}), {cause}."
    if len(choices) == 1:
        return (
            f"One choice differs, {choices[0]}, and the seed as well, which moves results by itself. "
            "Next: repeat one of the two with the other's seed."
        )
    also = ", and the seed" if seed else ""
    return (
        f"{len(choices)} choices differ ({', '.join(choices)}{also}): which of them made a difference cannot be told. "
        "Next: change one at a time."
    )


def _other_images(against: Against) -> str:
    shared = ", ".join(
        f"{each.outcomes.images:,} of the {SPLIT_WORDS[each.split]} images ({against.first.letter} judged "
        f"{against.first.scores[each.split].images:,}, {against.run.letter} {against.run.scores[each.split].images:,})"
        for each in against.tested
    )
    return (
        f"The two judged different images; compared are only those that are the same in both: {shared}. Their metrics "
        "side by side are each of its own images."
    )


def _selection(runs: Sequence[Compared], comparisons: Sequence[Against]) -> str:
    if all(each.tested[0].split == "test" for each in comparisons):
        return (
            "Nothing was chosen on the test images until now. Whoever picks a run by this comparison chooses on them: "
            "the picked one's score is then a little too good."
        )
    among = ", ".join(f"{run.letter} among {run.candidates}" for run in runs if run.candidates > 1)
    if among:
        chosen = (
            f"The validation images have chosen which stage was kept ({among}), and whoever picks a run chooses anew"
        )
    else:
        chosen = "Whoever picks a run by this comparison chooses on the validation images"
    return (
        f"{chosen}: the picked one's score is then a little too good. Next: judge what you pick, once, on images that "
        "chose nothing, in a test/ folder."
    )
