"""From names to a model that can be built: backbone, head, their fit, options, weights and input size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import OptionError, Refused, WeightsError, first_line
from zoo.model.build import build_headless, build_model, build_outline, build_with_state, layers_of
from zoo.model.measure import accepts_size, nearest_accepted_sizes
from zoo.model.model import ZooModel
from zoo.registry.names import ResolvedBackbone
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.specs.backbone import GroupOutput
from zoo.specs.head import HeadSpec
from zoo.specs.options import build_options
from zoo.specs.preprocessing import Decode
from zoo.weights.fitting import Architecture
from zoo.weights.obtain import WeightsChoice, choose_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """A backbone and a head that go together: all that building them needs beside classes and tensors."""

    backbone: ResolvedBackbone
    head: Contribution[HeadSpec]
    options: Any
    """An instance of the head's options class."""
    weights: WeightsChoice
    input_size: tuple[int, int] | None
    """(height, width) in pixels; None: that of the weights."""
    decode: Decode = "exact"
    """How image files are decoded."""
    # A list, because the record is frozen: it is filled when somebody asks, as finding the layers builds the backbone.
    known_layers: list[tuple[GroupOutput, ...]] = field(default_factory=list, compare=False, repr=False)
    """Where the groups' outputs are read, once that is known; empty until then."""

    def layers(self) -> tuple[GroupOutput, ...]:
        """Where the groups' outputs are read, for a head that needs them; empty for others.

        Raises Refused where no group has an output that can be pooled.
        """
        if self.head.spec.needs != "layers":
            return ()
        if not self.known_layers:
            found = layers_of(self.backbone, self.head.spec.name, tag=self.weights.tag, input_size=self.input_size)
            self.known_layers.append(found)
        return self.known_layers[-1]

    def check_input_size(self) -> None:
        """Raise OptionError, naming sizes that work, where the architecture cannot take the input size."""
        if self.input_size is not None:
            check_takes_size(self.backbone, self.weights.tag, self.input_size)

    def build(self, classes: tuple[str, ...], state: Mapping[str, Tensor] | None) -> ZooModel:
        """The model on the current device; `state` None: with random weights.

        Raises Refused for a pair that cannot work, WeightsMismatch, PluginError.
        """
        model = build_model(
            self.backbone,
            self.head,
            self.options,
            classes=classes,
            tag=self.weights.tag,
            state=state,
            input_size=self.input_size,
            layers=self.layers(),
        )
        return self._decoding(model)

    def outline(self, classes: tuple[str, ...]) -> ZooModel:
        """The same model on the meta device: shapes and groups, no memory, no weights."""
        outline = build_outline(
            self.backbone,
            self.head,
            self.options,
            classes=classes,
            tag=self.weights.tag,
            input_size=self.input_size,
            layers=self.layers(),
        )
        return self._decoding(outline)

    def _decoding(self, model: ZooModel) -> ZooModel:
        """The model, whose preprocessing decodes files as asked: upstream's says nothing of that."""
        if self.decode != model.preprocessing.decode:
            model.preprocessing = replace(model.preprocessing, decode=self.decode)
        return model

    def architecture(self) -> Architecture:
        """What a user's weights file is fitted to."""

        def own() -> dict[str, tuple[int, ...]]:
            with torch.device("meta"):
                module = self.headless().backbone
            return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}

        def refusal(state: Mapping[str, Tensor], values: bool) -> WeightsError | None:
            try:
                build_with_state(self.backbone, state, tag=self.weights.tag, input_size=self.input_size, values=values)
            except WeightsError as error:
                return error
            except Exception as error:
                # A provider's conversion may fail in any way on names that it does not expect.
                refused = WeightsError(
                    f"{self.backbone.spec.name} could not be built with these weights: "
                    f"{type(error).__name__}: {first_line(error)}\nNext: pass the file of this architecture."
                )
                # As `raise ... from` would set it: this error is returned, and raised by whoever asked.
                refused.__cause__ = error
                return refused
            return None

        return Architecture(label=self.backbone.spec.name, own=own, refusal=refusal)

    def headless(self) -> ZooModel:
        """The backbone alone with random weights: what it gives a head comes out."""
        return build_headless(
            self.backbone,
            self.head.spec.needs,
            tag=self.weights.tag,
            input_size=self.input_size,
            layers=self.layers(),
        )


def resolve_model(
    registry: Registry,
    backbone: str,
    head: str,
    *,
    head_options: Mapping[str, Any],
    weights: str = "random",
    input_size: tuple[int, int] | None = None,
    decode: Decode = "exact",
) -> ResolvedModel:
    """Look up a backbone and a head, and check that they go together. Nothing is built or downloaded.

    Args:
        registry: Where the names are looked up.
        backbone: `[provider/]architecture[.tag]`.
        head: `[plugin/]name`.
        head_options: By name; the rest have their defaults.
        weights: `default`, a tag, `random`, or the path of a file.
        input_size: (height, width) in pixels, checked by `ResolvedModel.check_input_size`, which takes longer.
        decode: How image files are decoded.

    Raises:
        Refused: An unknown name, an option that cannot be, a head that this backbone cannot take.
        WeightsError: A weights file that is not there.
    """
    found_backbone = registry.backbone(backbone)
    found_head = registry.head(head)
    check_compatible(found_backbone, found_head, registry)
    return ResolvedModel(
        backbone=found_backbone,
        head=found_head,
        options=build_options(found_head.spec.name, found_head.spec.options, head_options),
        weights=choose_weights(found_backbone, weights),
        input_size=input_size,
        decode=decode,
    )


def check_compatible(backbone: ResolvedBackbone, head: Contribution[HeadSpec], registry: Registry) -> None:
    """Raise Refused, naming the heads that work, where the head needs a map and the backbone has none.

    A backbone that is not in its provider's index passes; building it tells.
    """
    # From the provider's index, so that a pair that cannot be is refused before torch builds anything.
    facts = backbone.spec.facts
    if head.spec.needs != "map" or facts is None or facts.map is not None:
        return
    works = ", ".join(each.spec.name for each in registry.heads() if each.spec.needs == "pooled")
    raise Refused(
        f"Head {head.spec.name!r} needs a map[N, C, H, W] of features, and {backbone.spec.name} has none"
        f"{': ' + facts.note if facts.note else ''}.\n"
        f"Next: a head that works there: {works}; or a backbone with a map: "
        f"zoo list backbones --head {head.spec.name}"
    )


def check_takes_size(backbone: ResolvedBackbone, tag: str | None, asked: tuple[int, int]) -> None:
    """Raise OptionError, naming sizes that work, where the architecture cannot take `asked`; found out by trying."""
    spec = backbone.spec
    _, *sides = spec.preprocessing_for(tag).input_size
    native = (sides[0], sides[1])
    if asked == native or accepts_size(spec.build, tag, asked):
        return
    # Looking for sizes builds the architecture once for each, and here none would do.
    if spec.facts is not None and spec.facts.fixed_input:
        allowed = f"It takes {_text(native)} alone."
    else:
        near = nearest_accepted_sizes(spec.build, tag, asked, native)
        allowed = f"Sizes near it that work: {', '.join(map(_text, near))}."
    raise OptionError(
        f"{spec.name} does not take images of {_text(asked)}. {allowed}\n"
        "Next: one of these, or another backbone; zoo show NAME says whether it takes other sizes."
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
