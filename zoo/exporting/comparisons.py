"""What the comparisons of an export found: pictures beside Pillow's preprocessing, 8 bits beside float32.

These are the records. `picture_comparison` and `int8` beside them do the comparing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from zoo.text import counted

LEAST_EQUAL = 0.995
"""Share of pictures that must get the same class as with Pillow's preprocessing."""
LEAST_EQUAL_INT8 = 0.97
"""The same in 8 bits, beside 8 bits: there a grey level more or less can move an activation by a whole step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureComparison:
    """How far an export's own preprocessing is from Pillow's, on the same pictures, before the same classifier."""

    precision: Literal["float32", "int8"]
    """Of the classifier, on both sides. How far 8 bits are from float32 is said by `Int8Comparison`."""
    pictures: int
    """Number of pictures that were compared."""
    real: int
    """How many of them are images of the run; the others were generated."""
    split: str
    """The split of the run's images; empty where none was compared."""
    equal: int
    """Pictures that get the same class."""
    largest_difference: float
    """Largest absolute difference of a probability, 0 to 1."""
    least_equal: float
    """The share of equal classes below which an export is not kept."""

    @property
    def share(self) -> float:
        """Share of pictures that get the same class."""
        return self.equal / self.pictures

    @property
    def _classifier(self) -> str:
        if self.precision == "float32":
            return "float32 beside float32, prepared by the graph and by Pillow"
        return "8 bits beside 8 bits, prepared by the graph and by Pillow; int8 says how far 8 bits are from float32"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        of_run = f"{self.real} {self.split} images of the run" if self.real else "no image of the run"
        return (
            f"{self.equal} of {self.pictures} pictures ({of_run}, {self.pictures - self.real} generated of odd sizes) "
            f"get the class that they get with Pillow's preprocessing, {self.share:.1%}; probabilities differ by up to "
            f"{self.largest_difference:.2g} ({self._classifier})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Images a second of float32 and of 8 bits, in rounds that take turns: the medians."""

    batch: int
    """Images at a time."""
    float32: float
    int8: float
    rounds: int
    threads: int

    @property
    def ratio(self) -> float:
        """How many times faster 8 bits are."""
        return self.int8 / self.float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One way to quantise."""

    in_float: int
    """Layers that were left in float32."""
    accuracy: float
    """Share of right answers, 0 to 1."""
    lost: float
    """Points of accuracy that it loses, 0 to 100; negative where it gains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Comparison:
    """A classifier in 8 bits beside the same one in float32, in onnxruntime, on the same images."""

    calibrated: int
    """Training images that the ranges come from."""
    seed: int
    """The run's seed, by which they were drawn."""
    split: str
    images: int
    """Images that both were judged on."""
    accuracy_float32: float
    accuracy: float
    lost: float
    """Points of accuracy that 8 bits lose; negative where they gain."""
    max_loss: float
    """Points that they may lose."""
    only_float32: int
    """Images that float32 alone gets right."""
    only_int8: int
    p_value: float
    """Of McNemar's exact test, in which copies of a picture count once: how likely so unequal a pair of counts is if
    neither is better."""
    agreement: float
    """Share of the images that get the same class."""
    largest_difference: float
    """Largest absolute difference of a probability on these images, 0 to 1."""
    layers: int
    in_float: tuple[str, ...]
    """Layers that stayed in float32, by their names in the graph, those that lose most first."""
    attempts: tuple[Attempt, ...]
    """Everything that was judged on these images, in order; the last one was kept."""
    bytes_float32: int
    bytes: int
    speeds: tuple[Speed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def facts(self) -> dict[str, Any]:
        """The same without what another machine would measure otherwise."""
        # They go into the file, and the same export should have the same bytes.
        return {name: value for name, value in self.to_dict().items() if name != "speeds"}

    def __str__(self) -> str:
        kept = f"; {len(self.in_float)} of {counted(self.layers, 'layer')} stayed in float32" if self.in_float else ""
        # A sign before "lost" could be read either way.
        change = f"{abs(self.lost):.2f} points {'lost' if self.lost >= 0 else 'gained'}"
        speeds = ", ".join(
            f"{speed.int8:.0f} images/s instead of {speed.float32:.0f} ({speed.ratio:.2f} times) "
            f"{speed.batch} at a time"
            for speed in self.speeds
        )
        return (
            f"In 8 bits the accuracy on {self.images} {self.split} images is {self.accuracy:.4f}, in float32 "
            f"{self.accuracy_float32:.4f}: {change} (up to {self.max_loss:g} may be lost); "
            f"{counted(self.only_float32, 'image is', 'images are')} right in float32 alone, "
            f"{self.only_int8} in 8 bits alone (McNemar p = {self.p_value:.2g}); {self.agreement:.1%} get the "
            f"same class, and a probability differs from float32 by up to {self.largest_difference:.2g}{kept}. "
            f"{self.bytes / 1e6:.2f} MB instead of {self.bytes_float32 / 1e6:.2f}"
            + (f"; {speeds}, on this machine" if speeds else "")
        )
