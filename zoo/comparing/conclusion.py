"""Conclusions in plain words: what a comparison shows, what may have caused it, and what it cannot show.

Also how numbers and splits are written, on the terminal and on the page.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo.comparing.comparison import ComparedRun, PairedTest, RunPair
from zoo.comparing.differences import value_of
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.text import counted, in_points

SPLIT_WORDS = {"test": "test", "val": "validation", OUT_OF_FOLD: "out-of-fold"}
_FEW_DISCORDANT = 10
"""Below so many discordant images, a bootstrap interval is too narrow to rely on."""


def conclusion_of(against: RunPair) -> tuple[str, ...]:
    """Sentences about one run and the first: the difference, its possible cause, and its limits."""
    # The first is `test`, where there is one: nothing was chosen on it.
    main, *other_splits = against.tested
    sentences = [_verdict(against, main), *map(_other_split, other_splits), _cause(against)]
    if against.relabelled:
        sentences.append(_different_labels(against))
    if against.ambiguous:
        sentences.append(_unknown_which(against))
    sentences += [_copies(against, split) for split in against.copies]
    if not against.copies_known:
        sentences += _unknown_copies(against)
    if not against.same_images:
        sentences.append(_different_images(against))
    return tuple(sentences)


def cautions_of(runs: Sequence[ComparedRun], comparisons: Sequence[RunPair]) -> tuple[str, ...]:
    """Sentences that hold for the comparison as a whole, the most serious first."""
    cautions = [
        f"The proof of {run.letter} failed: do not rely on its numbers until you know why "
        f"({run.record.path}/proof.json)."
        for run in runs
        if run.proof != "passed"
    ]
    if len(comparisons) > 1:
        cautions.append(
            f"{len(comparisons)} runs are compared with {runs[0].letter}: of many comparisons, one may look good by "
            "chance alone. The p-values are corrected for that (Holm); the intervals are not."
        )
    cautions.append(_selection(runs, comparisons))
    surroundings = dict.fromkeys(name for pair in comparisons for name in pair.differences.surroundings)
    if surroundings:
        cautions.append(
            f"Not chosen by anyone, but different too: {', '.join(surroundings)}. This may change results slightly."
        )
    return tuple(cautions)


def p_value_text(p: float) -> str:
    """A p-value: `p = 0.62`, `p = 0.0031`, `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _verdict(against: RunPair, tested: PairedTest) -> str:
    """Whether the two runs differ by more than chance explains."""
    first, run = against.first.letter, against.run.letter
    outcomes = tested.outcomes
    images = f"{outcomes.images:,} {SPLIT_WORDS[tested.split]} image{'s' if outcomes.images != 1 else ''}"
    if outcomes.discordant == 0:
        return (
            f"{first} and {run} are right on exactly the same of the {images} ({_share(tested.accuracy[0])}). That "
            "does not show that they are equally good: differences below about "
            f"{in_points(_unseen(tested.of_pictures.images), signed=False)} points could not have been seen."
        )
    both = f"{first} {_share(tested.accuracy[0])}, {run} {_share(tested.accuracy[1])}"
    difference = f"The difference of {in_points(outcomes.difference)} points on the {images} ({both})"
    if outcomes.difference == 0:
        # Equally often is not on the same images: there are some that only one of them gets right.
        difference = f"{first} and {run} are right equally often on the {images} ({_share(tested.accuracy[0])})"
    interval = f"95 % interval {in_points(tested.interval.low)} to {in_points(tested.interval.high)} points"
    if tested.significant:
        return (
            f"{difference} is more than chance explains: {p_value_text(tested.p_adjusted)}, {interval}.{_few(tested)}"
        )
    # Never "equal": a large p-value says only that these images cannot tell the runs apart.
    verdict = ", which does not show that they are equally good" if outcomes.difference == 0 else " may be chance"
    return f"{difference}{verdict}: {p_value_text(tested.p_adjusted)}, {interval}; {_can_show(tested)}.{_few(tested)}"


def _unseen(images: int) -> float:
    """The share (0 to 1) that an event may have, at 95 % confidence, if it occurred on none of so many images.

    The rule of three (Hanley and Lippman-Hand 1983, doi:10.1001/jama.1983.03330370053031).
    """
    return min(1.0, 3 / images)


def _can_show(tested: PairedTest) -> str:
    count = tested.of_pictures.images
    if tested.smallest_shown is None:
        return f"{count:,} image{'s' if count != 1 else ''} cannot show any difference"
    return (
        f"{count:,} images can show differences of about {in_points(tested.smallest_shown, signed=False)} points or "
        "more"
    )


def _few(tested: PairedTest) -> str:
    count = tested.of_pictures.discordant
    if count >= _FEW_DISCORDANT:
        return ""
    return (
        f" Only {count} image{'s tell' if count != 1 else ' tells'} them apart, so the interval is too narrow: "
        "rely on p."
    )


def _other_split(tested: PairedTest) -> str:
    """The validation split beside the test split."""
    outcomes = tested.outcomes
    return (
        f"On the {outcomes.images:,} {SPLIT_WORDS[tested.split]} images"
        f"{', on which stages were chosen' if tested.split == 'val' else ''}: "
        f"{in_points(outcomes.difference)} points, {p_value_text(tested.p_adjusted)}."
    )


def _cause(against: RunPair) -> str:
    """Which choice, if any, may have caused the difference."""
    choices, seed = against.differences.choices, against.differences.seed
    first, run = against.first.letter, against.run.letter
    if not choices and seed:
        return (
            f"Only the seed differs between {first} and {run}. The difference shows how much results vary by chance in "
            "training; it is no reason to prefer either."
        )
    if not choices:
        return f"No choice differs between {first} and {run}."
    if len(choices) == 1 and not seed:
        (name,) = choices
        values = " to ".join(value_of(one.record.plan, name) for one in (against.first, against.run))
        if against.tested[0].significant:
            return (
                f"One choice differs, {name} ({values}), so the difference is due to it, for this seed. "
                "With another seed, the difference may be another."
            )
        return f"One choice differs, {name} ({values}). A real difference would be due to this change."
    if len(choices) == 1:
        return (
            f"One choice differs, {choices[0]}, but so does the seed, which changes results by itself. "
            "Next: repeat one of the two with the other's seed."
        )
    also = ", and the seed" if seed else ""
    return (
        f"{len(choices)} choices differ ({', '.join(choices)}{also}), so it is unknown which of them made a "
        "difference. Next: change one at a time."
    )


def _different_labels(against: RunPair) -> str:
    first, run = against.first.letter, against.run.letter
    number = [f"{count:,} {SPLIT_WORDS[split]}" for split, count in against.relabelled.items()]
    one = sum(against.relabelled.values()) == 1
    return (
        f"{' and '.join(number)} image{' has' if one else 's have'} another label in {run} than in {first}, and "
        f"{'is' if one else 'are'} left out of the comparison."
    )


def _copies(against: RunPair, split: str) -> str:
    pictures = counted(against.pictures[split], "different picture")
    return (
        f"{against.copies[split]:,} {SPLIT_WORDS[split]} images are copies of one another ({pictures}). The test "
        "counts each picture once, and the interval takes its copies for one observation; the accuracy counts every "
        "copy. Next: remove the copies, which zoo data check names, and train again."
    )


def _unknown_copies(against: RunPair) -> list[str]:
    """What the first run knew of copies among images that are gone now."""
    evaluation = against.first.record.evaluation
    splits = [tested.split for tested in against.tested if "copies" in evaluation.get(tested.split, {})]
    return [
        f"{evaluation[split]['copies']['images']:,} {SPLIT_WORDS[split]} images of {against.first.letter} were copies "
        "of one another, but the images are gone, and nobody knows which. So the test and the interval take each image "
        "for an independent one: both make a difference look surer than it is. "
        "Next: put the images back, and compare again."
        for split in splits
    ]


def _unknown_which(against: RunPair) -> str:
    number = [f"{count:,} {SPLIT_WORDS[split]}" for split, count in against.ambiguous.items()]
    one = sum(against.ambiguous.values()) == 1
    return (
        f"{' and '.join(number)} image{' has another name' if one else 's have other names'} in {against.run.letter} "
        f"than in {against.first.letter} and copies there, so it is unknown which is which: "
        f"{'it is' if one else 'they are'} left out of the comparison."
    )


def _different_images(against: RunPair) -> str:
    also = " or labels" if against.relabelled else ""
    also += ", or images that cannot be told apart" if against.ambiguous else ""
    shared = ", ".join(
        f"{tested.outcomes.images:,} of the {SPLIT_WORDS[tested.split]} images ({against.first.letter} judged "
        f"{against.first.scores[tested.split].images:,}, {against.run.letter} "
        f"{against.run.scores[tested.split].images:,})"
        for tested in against.tested
    )
    return (
        f"The two judged different images{also}. They are compared on what both "
        f"judged alike: {shared}. The metrics side by side are measured on each run's own images."
    )


def _selection(runs: Sequence[ComparedRun], comparisons: Sequence[RunPair]) -> str:
    """How picking a run by this comparison makes its score too good."""
    if all(pair.tested[0].split == "test" for pair in comparisons):
        return (
            "Nothing was chosen on the test images so far. If you pick a run by this comparison, you choose on them, "
            "and its score becomes slightly optimistic."
        )
    images = " and ".join(dict.fromkeys(f"{SPLIT_WORDS[pair.tested[0].split]} images" for pair in comparisons))
    among = ", ".join(f"{run.letter} among {run.candidates}" for run in runs if run.candidates > 1)
    if among:
        chosen = (
            f"The kept stage was already chosen on the {images} ({among}). If you pick a run by this "
            "comparison, you choose on them again"
        )
    else:
        chosen = f"If you pick a run by this comparison, you choose on the {images}"
    return (
        f"{chosen}, and its score becomes slightly optimistic. Next: evaluate the run you pick once, on images on "
        "which nothing was chosen, in a test/ folder."
    )
