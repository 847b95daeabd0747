"""The plan: every choice resolved, nothing run yet. Stored as `plan.json`; a run is a function of it and its data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from zoo.compute import Compute, MemoryFormat, Precision
from zoo.data.dataset import FOLDER
from zoo.recipes import Keep, Stage
from zoo.selectors import TensorKind
from zoo.specs import Needs

FORMAT = 1


Source = Literal["features", "prefix", "images"]
"""What a stage trains on. `features`: the frozen backbone runs once an image, and this is what the head gets.
`prefix`: what the groups before the first that trains put out, likewise. `images`: nothing is computed once."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupPlan(_Record):
    """One of the backbone's groups."""

    name: str
    parameters: int


class BackbonePlan(_Record):
    name: str
    """Qualified, with the tag."""
    asked: str
    tag: str | None
    """Whose configuration and preprocessing are used."""
    features: int
    """Width of what the head gets: F of pooled[N, F], or C of the map[N, C, H, W]."""
    groups: tuple[GroupPlan, ...]
    licence: str | None
    """Of the pretrained weights, as upstream states it."""
    distribution: str
    """Of the plugin that provides it."""
    version: str
    also: tuple[str, ...] = ()
    """What the bare name could have meant as well."""
    idle: tuple[str, ...] = ()
    """Parameters that the logits do not depend on (behind the map, or unused upstream too): never trained."""


class WeightsPlan(_Record):
    label: str
    """The tag, `random`, or `file:NAME`."""
    kind: Literal["tag", "random", "file"]
    path: str | None = None
    digest: str | None = None
    """SHA-256 of the file; None while it has not been read, and for random weights."""
    fallback: str | None = None
    """Why random weights stand in for the asked ones."""


class HeadPlan(_Record):
    name: str
    """Qualified."""
    options: dict[str, Any]
    needs: Needs
    closed_form: bool
    """Fitted in one pass instead of trained by gradients."""
    parameters: int
    distribution: str
    version: str


class StagePlan(_Record):
    settings: Stage
    trains: tuple[str, ...]
    """Whole groups, input to output, and `head`."""
    tensors: tuple[TensorKind, ...] = ()
    """Kinds of tensors that train in the other groups as well."""
    adapters: tuple[str, ...] = ()
    """Layers that get low-rank adapters, by full name; they are merged into the weights when the stage ends."""
    freezes: tuple[str, ...]
    trainable_parameters: int
    frozen_parameters: int
    decayed_parameters: int = 0
    """Those of the trainable ones that weight decay acts on."""
    rates: dict[str, float]
    """Peak learning rate of every group that trains, after layer decay."""
    steps: int
    inputs: Source
    cut: str = ""
    """The first group that runs in every step, of a `prefix`."""
    kept_bytes: int = 0
    """Of what was put out once, for all images; an estimate."""
    why: str = ""
    """Why not more is computed once."""
    batch_norms_frozen: int
    batch_norms_training: int
    views: int = 0
    """Augmented views of each training image that its epochs take in turn, no more than there are
    epochs; a closed form is fitted to all of them."""


class DataPlan(_Record):
    source: str
    path: str
    """The folder, file or pattern of files, in full."""
    reader: str = FOLDER
    """What read it: `folder`, or `plugin/name` of a data source."""
    sample: bool
    digest: str
    images: dict[str, list[int]]
    """Per split, images of each class in the order of `classes`."""
    skipped: tuple[tuple[str, str, str], ...]
    """(file, reason, detail) of every file that is not used."""
    notes: tuple[str, ...]

    @property
    def argument(self) -> str:
        """What `--data` takes to read the same in the same way."""
        return self.path if self.reader == FOLDER else f"{self.reader}:{self.path}"


class MemoryEstimate(_Record):
    """Bytes of tensors in a stage, at most at the same time."""

    parameters: int
    """And buffers."""
    gradients: int
    optimizer: int
    activations: int
    """What a step holds beside these, or validation or computing features where that is more."""
    features: int
    """Kept for the head, of all images."""
    images: int
    """Resized ones that are kept, and batches that are being made."""
    copies: int
    """Of parameters: the best stage so far, and where an L2-SP pull goes."""

    @property
    def on_device(self) -> int:
        """Those that are where the model is."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def on_host(self) -> int:
        """Those that are always in main memory."""
        return self.features + self.images + self.copies

    @property
    def total(self) -> int:
        return self.on_device + self.on_host


class StageEstimate(_Record):
    """Measured seconds and bytes of one stage."""

    stage: str
    features: float
    """Seconds to put every image through the frozen backbone once; 0 where they are known or not used."""
    training: float
    validation: float
    """Seconds over all epochs."""
    seconds: float
    """All three."""
    memory: MemoryEstimate


class Estimate(_Record):
    """What a run will take on the machine that made this."""

    decode: float
    """Seconds that opening all images took."""
    stages: tuple[StageEstimate, ...]
    test: float
    """Seconds to look at the test split once, at the end."""
    seconds: float
    """Of the whole run, without downloads."""
    process: int
    """Bytes beside tensors: Python, its libraries, what kernels work with."""
    bytes: int
    """Most memory of the device; on the CPU with all that is in main memory."""
    host_bytes: int
    """Most main memory."""


class Plan(_Record):
    format: int = FORMAT
    backbone: BackbonePlan
    weights: WeightsPlan
    head: HeadPlan
    recipe: str
    """Qualified name, or the file's."""
    recipe_summary: str
    keep: Keep = "best"
    """Which stage the run ends with."""
    stages: tuple[StagePlan, ...]
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    data: DataPlan
    seed: int
    device: str
    precision: Precision = "float32"
    """Of the backbone's forward and backward pass."""
    memory_format: MemoryFormat = "contiguous"
    speeds: dict[str, float] = {}
    """Images per second of every precision and memory layout that was measured here; empty where none was."""
    chunk: int
    """Images that go through the frozen backbone at a time."""
    threads: int
    workers: int
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    """What it is likely to suffer from, a sentence each with the next step; see `zoo.planning.cautions`."""
    estimate: Estimate | None = None
    """Where `--estimate` asked for it."""

    @property
    def compute(self) -> Compute:
        """How the backbone computes."""
        return Compute(self.precision, self.memory_format)
