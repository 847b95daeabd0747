"""The plan: every choice resolved, nothing run yet. It is stored as `plan.json`, and a run is a function of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from zoo.specs.backbone import GroupOutput
from zoo.specs.compute import Compute as Compute
from zoo.specs.compute import ComputeOrigin as ComputeOrigin
from zoo.specs.compute import MemoryFormat as MemoryFormat
from zoo.specs.compute import Precision as Precision
from zoo.specs.data import FOLDER
from zoo.specs.drawn import drawn
from zoo.specs.estimated import Estimate
from zoo.specs.head import Needs
from zoo.specs.recipe import BatchNorm, ChooseBy, Keep, RecipeSpec, Stage
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.specs.selectors import TensorKind
from zoo.specs.solver import FittedBy

FORMAT = 1

Source = Literal["features", "prefix", "images"]
"""What a stage trains on. `features`: cached features; the frozen backbone runs once an image. `prefix`: cached outputs
of the groups before the first one that trains. `images`: nothing is cached."""


class _PlanPart(BaseModel):
    # Unlike an artefact's config, a plan of a later version is refused: a run must not leave out what it does not know.
    model_config = ConfigDict(frozen=True, extra="forbid")


class _OfPlugin(_PlanPart):
    """What a plugin provides: it has the field `installed_from`."""

    @model_serializer(mode="wrap")
    def _of_an_index_goes_without_saying(self, to_content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = to_content(self)
        return {key: value for key, value in content.items() if key != "installed_from" or value is not None}


class GroupPlan(_PlanPart):
    """A group of the backbone."""

    name: str
    parameters: int


class BackbonePlan(_OfPlugin):
    """The backbone of the plan."""

    name: str
    """Qualified name, with the tag."""
    asked: str
    """The name that the user gave."""
    tag: str | None
    """The weights tag whose configuration and preprocessing are used."""
    features: int
    """Width of what the head gets: F of pooled[N, F], or C of the map[N, C, H, W]."""
    groups: tuple[GroupPlan, ...]
    licence: str | None
    """Licence of the pretrained weights, as upstream states it."""
    distribution: str
    """Distribution of the plugin that provides the backbone."""
    version: str
    """Version of that distribution."""
    installed_from: str | None = None
    """The folder, file or address that it was installed from. Not in the file where a package index gave it."""
    also: tuple[str, ...] = ()
    """Other qualified names that the bare name could have meant."""
    idle: tuple[str, ...] = ()
    """Parameters that the logits do not depend on: behind the map, or unused by upstream too. They are never
    trained."""


class WeightsPlan(_PlanPart):
    """The weights that the run starts from."""

    label: str
    """The tag, `random`, `file:NAME`, or `own`: the values of a module that was passed as the backbone."""
    kind: Literal["tag", "random", "file", "own"]
    path: str | None = None
    digest: str | None = None
    """SHA-256 of the file, or over the module's tensors; None for random weights, and in a dry run."""
    fallback: str | None = None
    """The reason where random weights stand in for those that were asked for."""
    taken: str | None = None
    """What was taken from a user's file, such as `state_dict_ema, without the prefix 'module.'`; None where it is the
    tensors at the top of the file, as they are."""
    download: str | None = None
    """In a dry run, the address that the weights are still to be downloaded from; None where they are on this
    machine."""
    download_bytes: int | None = None
    """About how many bytes that download has: those of the backbone's tensors."""
    trained_on: dict[str, int] = {}
    """Split that judges the run -> how many of its images trained these weights before, in a run of zoo. Not in the
    file where none did, as far as is known."""

    @model_serializer(mode="wrap")
    def _trained_on_none_goes_without_saying(self, to_content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = to_content(self)
        # So the plan of a run with pretrained weights has the bytes that it had before this was known.
        return {key: value for key, value in content.items() if key != "trained_on" or value}


class HeadPlan(_OfPlugin):
    """The head of the plan."""

    name: str
    """Qualified name."""
    options: dict[str, Any]
    needs: Needs
    layers: tuple[GroupOutput, ...] | None = None
    """Where the groups' outputs are read, from input to output, for a head that needs them; None for others, as in
    plans and checkpoints of versions without them."""
    closed_form: bool
    """Whether the head is fitted in one pass instead of trained by gradients."""
    parameters: int
    distribution: str
    version: str
    installed_from: str | None = None
    """As for the backbone."""


class StagePlan(_PlanPart):
    """A stage of the plan: a stage of the recipe, resolved for this model."""

    settings: Stage
    trains: tuple[str, ...]
    """Names of the groups that train as a whole, from input to output, and `head`."""
    tensors: tuple[TensorKind, ...] = ()
    """Kinds of tensors that train in the other groups as well."""
    adapters: tuple[str, ...] = ()
    """Full names of the layers that get low-rank adapters. They are merged into the weights when the stage ends."""
    freezes: tuple[str, ...]
    trainable_parameters: int
    frozen_parameters: int
    decayed_parameters: int = 0
    """Number of trainable parameters that weight decay acts on."""
    rates: dict[str, float]
    """Peak learning rate of every group that trains, after layer decay."""
    steps: int
    inputs: Source
    cut: str = ""
    """For `prefix`: the first group that runs in every step."""
    kept_bytes: int = 0
    """Estimated bytes of the cached outputs of all images, in float32."""
    kept_as: str = ""
    """The type that they are stored in: `float32`, or `bfloat16 where exact`, which halves them where no bit is lost.
    Empty where nothing is cached, and in plans of versions without it."""
    window: int = 0
    """Number of training images that an epoch shuffles together, in windows of runs of neighbours; 0: all at once."""
    shards: str = ""
    """Digest of the order in which shards hold the training images, where these runs are of that order; else empty."""
    why: str = ""
    """The reason where nothing is cached."""
    batch_norms_frozen: int
    batch_norms_training: int
    batch_norm: BatchNorm = "train"
    """What the batch norms of groups in `trains` do, where `settings` may say `auto`."""
    batch_norm_why: str = ""
    """How `auto` was decided; empty where the recipe decided, and where there are none in groups that train."""
    views: int = 0
    """Number of augmented views of each training image, at most one an epoch. Epochs take them in turn; a closed form
    and the solver are fitted to all of them."""
    solver: FittedBy = "gradient"
    """What `auto` became. `lbfgs`: the stage has no steps and no rates."""
    solver_why: str = ""
    """The reason, where the recipe left it open."""

    @property
    def epochs(self) -> int:
        """Most epochs that the stage has; a stage without gradient steps has one."""
        # `settings` may say more: a recipe with `auto` has epochs for heads that the solver cannot fit.
        return self.settings.epochs if self.steps else 1

    @model_validator(mode="before")
    @classmethod
    def _before_auto(cls, content: Any) -> Any:
        """Fill in what plans did not say when recipes alone decided on batch norms."""
        if not isinstance(content, dict) or "batch_norm" in content:
            return content
        settings = content.get("settings")
        # From a file these are a dictionary; in Python a `Stage` may be given.
        asked = settings.get("batch_norm") if isinstance(settings, dict) else getattr(settings, "batch_norm", None)
        return content if asked in (None, "auto") else {**content, "batch_norm": asked}

    @property
    def head_alone(self) -> bool:
        """Whether nothing but the head trains, so that the backbone ends the stage as it began it."""
        return self.trains == ("head",) and not self.tensors and not self.adapters

    def view_keys(self, seed: int) -> tuple[str, ...]:
        """Keys of the random draws of each augmented view, for a run with this seed. They differ from epochs' keys."""
        # The number of views is not in the keys, so with more of them the first ones are found in the cache.
        return tuple(f"{seed}/{self.settings.name}/view/{number}" for number in range(1, self.views + 1))


class FoldsPlan(_PlanPart):
    """The folds of a run that has no validation split."""

    count: int
    every_stage: bool
    """Whether stages that train the backbone are repeated, too."""
    images: tuple[int, ...]
    """Number of images that each fold holds out."""
    kept_together: int
    """Number of images that are copies or near-duplicates of another one, and in the same fold as that."""
    digest: str
    """SHA-256 over the fold of every image."""


class ExaminedPlan(_PlanPart):
    """How many images were opened for a plan that does not know all of them.

    They are drawn by the plan's seed over splits and classes. Files that cannot be read, copies, and what decoding
    loses were looked for in these alone; only files without a byte were found wherever they are.
    """

    images: int
    """Images that were drawn and opened."""
    of: int
    """All images, as their names tell."""


class DataPlan(_PlanPart):
    """The data set of the plan."""

    source: str
    """The data set as the user named it."""
    path: str
    """Absolute path of the folder, file or pattern of files; for an object of a session, what it was, in words."""
    reader: str = FOLDER
    """What read it: `folder`, or `plugin/name` of a data source."""
    sample: bool
    """Whether it is the generated sample set."""
    digest: str
    """Digest of every file's content, label and split. Where a part was opened it begins with `part:`, and covers the
    contents of that part, and names, sizes, labels and splits of all."""
    images: dict[str, list[int]]
    """Split -> number of images of each class, in the order of `classes`."""
    skipped: tuple[tuple[str, str, str], ...]
    """(file, reason, detail) of every file that is not used."""
    notes: tuple[str, ...]
    examined: ExaminedPlan | None = None
    """The part of the images that was opened; None: all were, as in the plan of every run that trains."""

    @property
    def argument(self) -> str:
        """The value of `--data` that reads the same data in the same way."""
        return self.path if self.reader == FOLDER else f"{self.reader}:{self.path}"


class ShortlistedBackbone(_PlanPart):
    """A backbone that was compared with others before one was chosen."""

    name: str
    images: int
    """Training images that its probe was judged on, each by a fit without it."""
    accuracy: float
    """Top-1, 0 to 1."""
    low: float
    high: float
    """The ends of its 95 % interval."""
    as_good: bool
    """Whether it could not be told from the best."""
    milliseconds: float | None
    """For one image on this machine."""
    out: str
    """Why it was not compared on all images; empty where it was."""


class ShortlistPlan(_PlanPart):
    """What `--backbone auto` compared. The best is first, and is the backbone of the plan."""

    seconds: float
    images: int
    """Training images there are; each of `backbones` says on how many it was judged."""
    compared: int
    left_out: int
    """Candidates that were not compared."""
    backbones: tuple[ShortlistedBackbone, ...]


class Plan(_PlanPart):
    """Everything that a run is a function of, beside its images."""

    format: int = FORMAT
    backbone: BackbonePlan
    weights: WeightsPlan
    head: HeadPlan
    recipe: str
    """Qualified name, or the path of a file."""
    recipe_summary: str
    keep: Keep = "best"
    """Which stage the run ends with."""
    choose_by: ChooseBy = "loss"
    """What the best stage is."""
    stages: tuple[StagePlan, ...]
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    data: DataPlan
    folds: FoldsPlan | None = None
    """None: the run has a validation split. So had all runs of versions without folds."""
    seed: int
    device: str
    precision: Precision = "float32"
    """Precision of the backbone's forward and backward pass."""
    memory_format: MemoryFormat = "contiguous"
    speeds: dict[str, float] = {}
    """Images per second of every candidate that was measured, on a CPU those of one core; empty where none was."""
    compute_origin: ComputeOrigin | None = None
    """Whence the two came; None in plans of versions that did not say."""
    chunk: int
    """Number of images that go through the frozen backbone at a time."""
    threads: int
    """Number of threads that torch computes with."""
    workers: int
    """Number of decoding threads."""
    processes: int = 1
    """Into how many shares a batch of a stage that trains the backbone is cut. Not in the file where it is 1."""
    shard_backbone: bool = False
    """Whether each process holds a part of the layers that train. Not in the file where it does not."""
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    """What is likely to harm the result, a sentence each with the next step; see `zoo.planning.warnings`."""
    estimate: Estimate | None = None
    """Time and memory, where `--estimate` asked for it."""
    shortlist: ShortlistPlan | None = None
    """What was compared, where `--backbone auto` left the choice to zoo."""

    @model_serializer(mode="wrap")
    def _one_process_goes_without_saying(self, to_content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = to_content(self)
        # So the plan of one process has the bytes that it had before there could be several.
        usual = {"processes": 1, "shard_backbone": False}
        return {key: value for key, value in content.items() if key not in usual or value != usual[key]}

    @property
    def compute(self) -> Compute:
        """How the backbone computes."""
        return Compute(self.precision, self.memory_format)

    @model_validator(mode="before")
    @classmethod
    def _chose_by_accuracy(cls, content: Any) -> Any:
        """Plans of before there was a choice do not say by what: it was accuracy."""
        # A run that keeps its last stage chooses nothing, and another value would be refused with `last`.
        if not isinstance(content, dict) or "choose_by" in content or content.get("keep") == "last":
            return content
        return {**content, "choose_by": "accuracy"}

    @property
    def judged_on(self) -> str:
        """What stages are judged by, as `result.json` names it: `val`, or `out_of_fold`."""
        return "val" if self.folds is None else OUT_OF_FOLD

    def recipe_spec(self) -> RecipeSpec:
        """The recipe as the run uses it, with every `--set` and shorthand option applied."""
        # The name of the recipe may be the path of a file, which is no name of a recipe.
        return RecipeSpec(
            name="stored",
            summary=self.recipe_summary,
            keep=self.keep,
            choose_by=self.choose_by,
            stages=tuple(stage.settings for stage in self.stages),
        )

    def __repr__(self) -> str:
        images = sum(self.data.images["train"])
        return (
            f"Plan({self.backbone.name}, head {self.head.name}, recipe {self.recipe}: "
            f"{images:,} images of {len(self.classes):,} classes to train on)"
        )

    def _repr_html_(self) -> str | None:
        """The tables of `zoo plan`, for a notebook."""
        return drawn(self)
