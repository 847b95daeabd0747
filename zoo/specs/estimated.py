"""The estimate of a plan: what a run takes in time and memory on the machine that measured it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _EstimatePart(BaseModel):
    # An estimate stands in `plan.json`, which refuses unknown keys as well.
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryEstimate(_EstimatePart):
    """Peak bytes of tensors in a stage, by what they hold."""

    parameters: int
    """Parameters and buffers."""
    gradients: int
    optimizer: int
    activations: int
    """What a step holds beside these; or what validation or computing features holds, where that is more."""
    features: int
    """Cached features of all images."""
    images: int
    """Resized images in memory, and batches that are being prepared."""
    copies: int
    """Copies of parameters: the best stage so far, and the starting point of an L2-SP penalty."""

    @property
    def on_device(self) -> int:
        """Bytes on the device of the model."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def on_host(self) -> int:
        """Bytes that are always in main memory."""
        return self.features + self.images + self.copies

    @property
    def total(self) -> int:
        """All bytes."""
        return self.on_device + self.on_host


class StageEstimate(_EstimatePart):
    """Measured seconds and bytes of one stage."""

    stage: str
    features: float
    """Seconds to put every image through the frozen backbone once; 0 where features are cached already or not used."""
    training: float
    validation: float
    """Seconds of validation in all epochs."""
    seconds: float
    """Seconds of all three."""
    memory: MemoryEstimate


class Estimate(_EstimatePart):
    """What a run will take on the machine that measured this."""

    decode: float
    """Seconds that opening all images takes."""
    decode_fast_saves: float | None = None
    """Of the seconds to decode all images once, how many `--decode fast` would save, by a few files; None where that is
    under a tenth, or where it is asked for already."""
    stages: tuple[StageEstimate, ...]
    test: float
    """Seconds to evaluate the test split once, at the end."""
    seconds: float
    """Seconds of the whole run, without downloads."""
    process: int
    """Bytes beside tensors: Python, its libraries, the workspace of kernels."""
    bytes: int
    """Peak memory of the device; on the CPU, peak main memory."""
    host_bytes: int
    """Peak main memory."""
