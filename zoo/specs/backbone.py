"""What a plugin declares of a backbone: frozen records, checked when they are made. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zoo.specs.preprocessing import Preprocessing
from zoo.specs.validation import NAME, TAG, check_callables, check_name, check_texts

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Group:
    """One of a backbone's ordered parts, such as its stem or a stage.

    `members` are dotted names of modules, or of single parameters and buffers. A module stands for everything in it.
    """

    name: str
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        check_texts("members", self.members)
        if not self.name or not self.members:
            raise ValueError(f"a group needs a name and members, got {self!r}")


@dataclass(frozen=True, kw_only=True)
class FeatureShape:
    """The widths of the features that a head gets."""

    pooled: int
    """F of the pooled features[N, F]."""
    map: int | None = None
    """C of the map[N, C, H, W], the features before pooling; None where the backbone has no map."""
    layers: tuple[int, ...] | None = None
    """The width of each group's mean, from input to output. zoo fills it in for a head that needs `layers`: such a head
    gets features[N, pooled + sum(layers)]. None for all others."""

    def __post_init__(self) -> None:
        if self.pooled < 1:
            raise ValueError(f"pooled must be at least 1, got {self.pooled}")
        if self.map is not None and self.map < 1:
            raise ValueError(f"map must be at least 1, got {self.map}")
        if self.layers is not None and not (self.layers and min(self.layers) >= 1):
            raise ValueError(f"layers must be widths of at least 1, got {self.layers}")


@dataclass(frozen=True, kw_only=True)
class GroupOutput:
    """Where the output of one of a backbone's groups is read. zoo finds it out; no plugin states it."""

    group: str
    module: str
    """The dotted name of the module whose output it is, in the backbone."""
    channels: tuple[int, ...]
    """Of each tensor that the module returns, the dimension of the channels; the others are images and positions."""
    width: int
    """The number of channels, of all these tensors together."""


def _call(module: nn.Module, images: Tensor) -> Tensor:
    pooled: Tensor = module(images)
    return pooled


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A built backbone: upstream's own module without its classifier, and how to use it."""

    module: nn.Module
    """Upstream's module without its classifier. Its state dict has the upstream library's own keys."""
    shape: FeatureShape
    groups: tuple[Group, ...]
    """The groups from input to output. Together they cover every parameter and buffer exactly once."""
    pool: Callable[[nn.Module, Tensor], Tensor] = _call
    """(module, images[N, 3, H, W]) -> pooled features[N, F]. Default: call the module."""
    map: Callable[[nn.Module, Tensor], Tensor] | None = None
    """(module, images[N, 3, H, W]) -> map[N, C, H', W']; None where the backbone has no map."""
    no_map: str = ""
    """Why there is no map, as the end of a sentence: `its two branches have grids of different sizes`."""
    checkpointing: Callable[[nn.Module, bool], None] | None = None
    """(module, on) switches gradient checkpointing (arXiv:1604.06174); None where upstream has none."""

    def __post_init__(self) -> None:
        # A head with a map is built for `shape.map` channels and called with what `map` returns.
        if (self.map is None) != (self.shape.map is None):
            raise ValueError("a backbone with a map needs both: map, and shape.map with its channels")


class BuildBackbone(Protocol):
    """Builds an architecture, with the weights in `state` or with random ones.

    Args:
        tag: The weights that it is built for, which may set the input size; None where none are published.
        state: The tensors of a weights file under upstream's keys, with or without the classifier. None: random.
        input_size: (height, width) in pixels, passed only where it differs from that of the weights. Position
            embeddings and windows are made for it, and those in `state` are resampled.

    Raises:
        zoo.WeightsMismatch: The state does not fit (`zoo.load_weights` raises it).
        Exception: The architecture cannot take the input size. It may be raised in the first forward pass too.
    """

    def __call__(
        self, *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None = None
    ) -> Backbone: ...


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """Facts of an architecture without its classifier, known without building it. `zoo.measure` finds them out."""

    parameters: int
    gmacs: float
    """Billions of multiply-adds for one image of the default input size, in convolutions and matrix products."""
    pooled: int
    """F of the pooled features[N, F]."""
    map: tuple[int, int, int] | None
    """(C, H, W) of the map for one image of the default input size; None where there is none."""
    groups: int
    """Number of groups, which recipes count."""
    fixed_input: bool
    """Whether the architecture takes images of its default size only."""
    note: str = ""
    """Why there is no map, or what else is unusual."""

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON types, for an index."""
        return {**asdict(self), "gmacs": round(self.gmacs, 4), "map": self.map and list(self.map)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> BackboneFacts:
        """The inverse of `to_dict`. Raises TypeError for other fields."""
        return cls(**{**stored, "map": stored["map"] and tuple(stored["map"])})


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """Weights on the Hugging Face hub."""

    repo_id: str
    filenames: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Names of files. The first one that exists is taken."""
    revision: str | None = None

    def __post_init__(self) -> None:
        check_texts("filenames", self.filenames)


@dataclass(frozen=True, kw_only=True)
class UrlFile:
    """Weights at an address. They are stored in torch's own hub folder under the last part of the address."""

    url: str
    sha256_prefix: str | None = None
    """The first hexadecimal digits of the file's SHA-256, checked after every download."""


@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """One set of pretrained weights of an architecture."""

    tag: str
    preprocessing: Preprocessing
    source: HubFile | UrlFile
    licence: str | None = None
    """Licence as upstream states it; None where it does not."""
    top1: float | None = None
    """ImageNet-1k top-1 accuracy in percent, where the library states it."""

    def __post_init__(self) -> None:
        check_name("weights tag", self.tag, TAG)


@dataclass(frozen=True, kw_only=True)
class OwnWeights:
    """The tensors that a backbone of this process brings along, where nobody publishes a file of them."""

    state: Callable[[], Mapping[str, Tensor]]
    """Takes nothing -> the tensors, of any shape and by their names in the backbone's module."""
    not_drawn: str = ""
    """Why initial values cannot be drawn anew, as the end of a sentence; empty where they can."""
    warning: str = ""
    """What is likely to harm a run that starts from them, a sentence with the next step."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """An architecture and its pretrained weights."""

    provider: str
    architecture: str
    build: BuildBackbone
    preprocessing: Preprocessing
    """Preprocessing for random weights: that of the default tag, where there is one."""
    weights: tuple[WeightsSpec, ...] = ()
    """Published weights, the default first."""
    summary: str = ""
    facts: BackboneFacts | None = None
    """None where they are not known before building. Then `zoo show` measures them."""
    reference: Callable[[str | None], Callable[[Image], Tensor]] | None = None
    """tag -> upstream's own transform from an RGB PIL image to image[3, H, W]. The proof compares zoo's with it."""
    own: OwnWeights | None = None
    """What training starts from by default, where no weights are published and a module was passed with values."""
    warning: str = ""
    """What is likely to harm a result, a sentence with the next step; every plan with this backbone shows it."""

    def __post_init__(self) -> None:
        check_name("provider", self.provider, NAME)
        check_name("architecture", self.architecture, NAME)
        # Not `check_callables`, whose message would print the whole spec, with all its weights.
        if not callable(self.build):
            raise TypeError(f"build of {self.name} must be callable, got {self.build!r}")
        tags = self.tags
        if len(set(tags)) < len(tags):
            # Weights are looked up by their tag, so the second of two would never be found.
            twice = sorted({tag for tag in tags if tags.count(tag) > 1})
            raise ValueError(f"{self.name} has the weights {', '.join(map(repr, twice))} more than once")

    @property
    def name(self) -> str:
        """`provider/architecture`."""
        return f"{self.provider}/{self.architecture}"

    @property
    def tags(self) -> tuple[str, ...]:
        # By way of a list, which is quicker than a generator: `zoo list backbones` asks every architecture.
        return tuple([weights.tag for weights in self.weights])

    def weights_for(self, tag: str | None) -> WeightsSpec | None:
        """The weights with this tag, or None."""
        return next((weights for weights in self.weights if weights.tag == tag), None)

    def preprocessing_for(self, tag: str | None) -> Preprocessing:
        """The preprocessing of the tag's weights; for an unknown or absent tag, the architecture's own."""
        weights = self.weights_for(tag)
        return weights.preprocessing if weights else self.preprocessing


@dataclass(frozen=True, kw_only=True)
class BackboneProvider:
    """A source of backbones."""

    name: str
    summary: str
    architectures: Callable[[], Mapping[str, tuple[str, ...]]]
    """Takes nothing -> architecture -> its weights tags, the default first. It must not import torch: a provider ships
    an index."""
    resolve: Callable[[str], BackboneSpec]
    """architecture -> spec, without importing torch. Raises LookupError for an unknown name."""
    precedence: int = 0
    """Among zoo's own providers, the one with the lowest number holds a bare name that several share."""

    def __post_init__(self) -> None:
        check_name("provider", self.name, NAME)
        check_callables(self, "architectures", "resolve")


def check_catalogue(architectures: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """A provider's architectures, checked. Raises TypeError or ValueError for names and tags that cannot be."""
    catalogue = {}
    for name, tags in architectures.items():
        check_name("architecture", name, NAME)
        # One text is iterable as well: "a1_in1k" would be seven tags of one sign each.
        if isinstance(tags, str):
            raise TypeError(f"the weights tags of {name!r} must be a tuple, got {tags!r}")
        catalogue[name] = tuple(tags)
        for tag in catalogue[name]:
            check_name("weights tag", tag, TAG)
    return catalogue
