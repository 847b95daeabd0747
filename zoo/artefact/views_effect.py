"""What test-time views bring on labelled images, and what they cost: with and without them, on the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from zoo.evaluation.copies import Copies
from zoo.evaluation.metrics import Scores, score
from zoo.evaluation.significance import ALPHA, Interval, Outcomes, PairedOutcomes
from zoo.specs.views import Views, passes
from zoo.text import points


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsEffect:
    """A classifier with views, compared with the same one without."""

    views: Views
    passes: int
    """Images that the model sees for each one."""
    averaged: str
    """What is averaged over the views: `probabilities`."""
    without: Scores
    """The scores without views."""
    outcomes: Outcomes
    """The first is the classifier without views, the second that with views."""
    interval: Interval
    """Of `outcomes.difference`. Copies are one observation."""
    p: float
    """McNemar's exact test of the difference in accuracy, two-sided, in which a picture counts once."""
    seconds_without: float
    """Seconds for an image, reading it included; they vary from time to time."""
    seconds_with: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.views,
            "passes": self.passes,
            "averaged": self.averaged,
            "without": self.without.to_dict(),
            "difference": self.outcomes.difference,
            "interval": asdict(self.interval),
            "p": self.p,
            "only_with": self.outcomes.only_second,
            "only_without": self.outcomes.only_first,
            "seconds_per_image": {"without": self.seconds_without, "with": self.seconds_with},
        }

    def sentences(self) -> tuple[str, str]:
        """What the views brought, and what they cost, for people."""
        gained, lost = self.outcomes.only_second, self.outcomes.only_first
        # By the test, which is exact; the interval is there for the size of the difference.
        chance = "more than chance explains" if self.p < ALPHA else "which may be chance"
        brought = (
            f"views {self.views} against the image alone: {points(self.outcomes.difference)} of accuracy "
            f"({gained:,} gained, {lost:,} lost; 95 % interval {points(self.interval.low)} to "
            f"{points(self.interval.high)}; McNemar p {self.p:.2g}), {chance}; accuracy without "
            f"{self.without.accuracy:.3f}, loss without {self.without.loss:.4f}"
        )
        times = self.seconds_with / self.seconds_without if self.seconds_without > 0 else float(self.passes)
        cost = (
            f"cost: {self.passes} passes for each image, {1000 * self.seconds_with:.1f} ms for "
            f"{1000 * self.seconds_without:.1f} ms here ({times:.1f} times), reading included"
        )
        return brought, cost


def views_effect(
    views: Views,
    plain: Tensor,
    logits: Tensor,
    targets: Tensor,
    *,
    seconds: tuple[float, float],
    copies: Copies | None = None,
) -> ViewsEffect:
    """Compare a classifier with views with the same one without, on the same N images.

    Args:
        views: The views.
        plain: logits[N, classes] without views.
        logits: logits[N, classes] with views.
        targets: Class indices targets[N].
        seconds: What all images took (without views, with views).
        copies: Which of the images are copies of one another; None where none are known.
    """
    # Image by image: on the same images only those count of which one is right and the other wrong.
    paired = PairedOutcomes(plain.argmax(1) == targets, logits.argmax(1) == targets, copies)
    return ViewsEffect(
        views=views,
        passes=passes(views),
        averaged="probabilities",
        without=score(plain, targets),
        outcomes=paired.outcomes,
        interval=paired.interval(),
        p=paired.p,
        seconds_without=seconds[0] / len(targets),
        seconds_with=seconds[1] / len(targets),
    )
