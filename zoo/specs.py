"""What a plugin contributes: frozen descriptions, checked when they are made. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from zoo.preprocessing import Preprocessing
from zoo.source_listing import SourceListing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from zoo.events import Event

Needs = Literal["pooled", "map"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One of a backbone's ordered parts, such as its stem or a stage.

    `members` are dotted names of modules or of single parameters and buffers; a module stands for all below it.
    """

    name: str
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_texts("members", self.members)
        if not self.name or not self.members:
            raise ValueError(f"a group needs a name and members, got {self!r}")


@dataclass(frozen=True, kw_only=True)
class FeatureShape:
    """What a head can count on."""

    pooled: int
    """F of the pooled features[N, F]."""
    map: int | None = None
    """C of the map[N, C, H, W], the features before they are pooled; None where the backbone has none."""

    def __post_init__(self) -> None:
        if self.pooled < 1:
            raise ValueError(f"pooled must be at least 1, got {self.pooled}")
        if self.map is not None and self.map < 1:
            raise ValueError(f"map must be at least 1, got {self.map}")


def _call(module: nn.Module, images: Tensor) -> Tensor:
    pooled: Tensor = module(images)
    return pooled


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A built backbone: upstream's own module without its classifier, and how to use it."""

    module: nn.Module
    """Its state dict has the upstream library's own keys."""
    shape: FeatureShape
    groups: tuple[Group, ...]
    """Ordered from input to output; together they cover every parameter and buffer exactly once."""
    pool: Callable[[nn.Module, Tensor], Tensor] = _call
    """(module, images[N, 3, H, W]) -> pooled features[N, F]. Default: call the module."""
    map: Callable[[nn.Module, Tensor], Tensor] | None = None
    """(module, images[N, 3, H, W]) -> map[N, C, H', W']; None where there is none."""
    no_map: str = ""
    """Why there is no map, as the end of a sentence: `its two branches have grids of different sizes`."""
    checkpointing: Callable[[nn.Module, bool], None] | None = None
    """(module, on): switch gradient checkpointing (arXiv:1604.06174); None where upstream offers none."""

    def __post_init__(self) -> None:
        if (self.map is None) != (self.shape.map is None):
            raise ValueError("a backbone with a map needs both: map, and shape.map with its channels")


class BuildBackbone(Protocol):
    """Builds an architecture, with the weights in `state` or with random ones.

    `tag` says for which weights it is built (they may set the input size); None where none exist. `state` holds a
    weights file's tensors under upstream's keys, classifier included or not; None means random. A state that does
    not fit raises `zoo.WeightsMismatch` (`zoo.load_weights` does).

    `input_size`, (height, width), is passed only where another size than that of the weights was asked for: position
    embeddings and windows are made for it, and those in `state` resampled. A size that the architecture cannot take
    raises any exception, here or in the first forward pass; zoo looks before it trains.
    """

    def __call__(
        self, *, tag: str | None, state: Mapping[str, Tensor] | None, input_size: tuple[int, int] | None = None
    ) -> Backbone: ...


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """What is known of an architecture without building it; `zoo.measure` finds it out. Without the classifier."""

    parameters: int
    gmacs: float
    """Billions of multiply-adds for one image of the default input size, in convolutions and matrix products."""
    pooled: int
    """F of the pooled features[N, F]."""
    map: tuple[int, int, int] | None
    """(C, H, W) of the map for one image of the default input size; None where there is none."""
    groups: int
    """How many; recipes count them."""
    fixed_input: bool
    """Whether it takes images of its default size only."""
    note: str = ""
    """Why there is no map, or what else is unusual."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for an index."""
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
    """The first that exists is taken."""
    revision: str | None = None

    def __post_init__(self) -> None:
        _check_texts("filenames", self.filenames)


@dataclass(frozen=True, kw_only=True)
class UrlFile:
    """Weights at an address; kept in torch's own hub folder under the address's last part."""

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
    """As upstream states it; None where it does not."""
    top1: float | None = None
    """ImageNet-1k top-1 accuracy in percent, where the library states it."""

    def __post_init__(self) -> None:
        _check_name("weights tag", self.tag, _TAG)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """An architecture and its pretrained weights."""

    provider: str
    architecture: str
    build: BuildBackbone
    preprocessing: Preprocessing
    """For random weights: that of the default tag where there is one."""
    weights: tuple[WeightsSpec, ...] = ()
    """The default first; empty where nobody published any."""
    summary: str = ""
    facts: BackboneFacts | None = None
    """None where they are not known before building: then `zoo show` measures them."""
    reference: Callable[[str | None], Callable[[Image], Tensor]] | None = None
    """tag -> upstream's own transform from an RGB PIL image to tensor[3, H, W]: the proof compares zoo's with it."""

    def __post_init__(self) -> None:
        _check_name("provider", self.provider, _NAME)
        _check_name("architecture", self.architecture, _ARCHITECTURE)
        if not callable(self.build):
            raise TypeError(f"build of {self.name} must be callable, got {self.build!r}")
        tags = self.tags
        if len(set(tags)) < len(tags):
            twice = sorted({tag for tag in tags if tags.count(tag) > 1})
            raise ValueError(f"{self.name} has the weights {', '.join(map(repr, twice))} more than once")

    @property
    def name(self) -> str:
        """`provider/architecture`."""
        return f"{self.provider}/{self.architecture}"

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple([weights.tag for weights in self.weights])

    def weights_for(self, tag: str | None) -> WeightsSpec | None:
        """The weights with this tag, or None."""
        return next((weights for weights in self.weights if weights.tag == tag), None)

    def preprocessing_for(self, tag: str | None) -> Preprocessing:
        """That of the tag's weights; for an unknown or absent tag the architecture's own."""
        weights = self.weights_for(tag)
        return weights.preprocessing if weights else self.preprocessing


@dataclass(frozen=True, kw_only=True)
class BackboneProvider:
    """A source of backbones."""

    name: str
    summary: str
    architectures: Callable[[], Mapping[str, tuple[str, ...]]]
    """architecture -> its weights tags, the default first. Must not import torch: an index ships with the provider."""
    resolve: Callable[[str], BackboneSpec]
    """architecture -> spec, without importing torch. Raises LookupError for a name that it does not know."""
    precedence: int = 0
    """Among zoo's own providers, the lowest holds a bare name that several share."""

    def __post_init__(self) -> None:
        _check_name("provider", self.name, _NAME)
        _check_callables(self, "architectures", "resolve")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For a head without options."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Features to logits, for the user's classes."""

    name: str
    summary: str
    build: Callable[[FeatureShape, int, Any], nn.Module]
    """(shape, classes, options) -> module; the module maps the features that it needs to logits[N, classes].
    A ValueError says why these options cannot be with this backbone; it is shown to the user."""
    needs: Needs = "pooled"
    """`pooled`: the module gets pooled features[N, F]. `map`: the map[N, C, H, W]; `shape.map` is then never None."""
    options: type[Any] = NoOptions
    """A frozen dataclass with a default for every field; its ValueErrors are shown to the user."""
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """(module, features, targets[N]) -> mean loss over the batch. None: cross-entropy of the logits."""
    fit: Callable[[nn.Module, Tensor, Tensor], None] | None = None
    """(module, features, targets[N]): fits the head to all training features in closed form, in place. Such a head
    has no parameters that gradients could train; it is trained on a frozen backbone alone. None: by gradients."""
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("head", self.name, _NAME)
        _check_callables(self, "build", *(field for field in ("loss", "fit") if getattr(self, field) is not None))
        if self.needs not in get_args(Needs):
            raise ValueError(f"needs of head {self.name!r} must be one of {get_args(Needs)}, got {self.needs!r}")
        _check_texts("references", self.references)
        if not (isinstance(self.options, type) and is_dataclass(self.options)):
            raise TypeError(f"options of head {self.name!r} must be a frozen dataclass, got {self.options!r}")
        if not self.options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(
                f"options of head {self.name!r} must be a frozen dataclass: {self.options.__name__} is not frozen"
            )
        try:
            self.options()
        except TypeError as error:
            raise TypeError(f"every option of head {self.name!r} needs a default: {error}") from None


@dataclass(frozen=True, kw_only=True)
class ObserverSpec:
    """Somebody who is told how a run goes: keeps curves, sends messages. It cannot change or break the run."""

    name: str
    summary: str
    build: Callable[[], Callable[[Event], None]]
    """() -> what is called with every event, in the main thread, in order. Built before anything runs, only for runs
    that ask for it. An ImportError or ValueError says why it cannot be; it is shown to the user as it is."""

    def __post_init__(self) -> None:
        _check_name("observer", self.name, _NAME)
        _check_callables(self, "build")


@dataclass(frozen=True, kw_only=True)
class DataSourceSpec:
    """A way in which labelled images are kept: archives, tables, data sets of another library."""

    name: str
    """What `--data NAME:PATH` says."""
    summary: str
    recognises: Callable[[Path], bool]
    """Whether a path, which may be a pattern such as `train-{000..003}.tar`, is of this kind: quick, without reading
    more than it must, False for what is not there. A path that zoo reads by itself is not taken over."""
    read: Callable[[Path], SourceListing]
    """Lists all of it; the images are not opened yet. A ValueError says what is wrong with the data and is shown to the
    user as it is, as a `zoo.DataError` is; an ImportError says what is missing."""

    def __post_init__(self) -> None:
        _check_name("data source", self.name, _NAME)
        _check_callables(self, "recognises", "read")


def check_catalogue(architectures: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """A provider's architectures as the registry keeps them. Raises TypeError or ValueError for what cannot be."""
    catalogue = {}
    for name, tags in architectures.items():
        _check_name("architecture", name, _ARCHITECTURE)
        if isinstance(tags, str):
            raise TypeError(f"the weights tags of {name!r} must be a tuple, got {tags!r}")
        catalogue[name] = tuple(tags)
        for tag in catalogue[name]:
            _check_name("weights tag", tag, _TAG)
    return catalogue


def _check_name(kind: str, name: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(name, str) or not pattern.fullmatch(name):
        signs = "'_', '-' and '.'" if pattern is _TAG else "'_' and '-'"
        raise ValueError(f"{name!r} is no {kind} name: letters, digits, {signs}, a letter or digit first")


def _check_callables(spec: object, *fields: str) -> None:
    for field in fields:
        if not callable(getattr(spec, field)):
            raise TypeError(f"{field} of {spec!r} must be callable")


def _check_texts(field: str, texts: object) -> None:
    # A lone string would pass for its letters.
    if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{field} must be a tuple of strings, got {texts!r}")
