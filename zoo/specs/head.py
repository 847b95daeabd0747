"""What a plugin declares of a head. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.specs.backbone import BackboneFacts, FeatureShape
from zoo.specs.validation import NAME, check_callables, check_name, check_texts

if TYPE_CHECKING:
    from torch import Tensor, nn

Needs = Literal["pooled", "map", "layers"]
HeadCallable = Callable[[FeatureShape, int], "nn.Module"]
"""(shape, classes) -> module, which maps pooled features[N, F] to logits[N, classes]: a head without a spec."""


def meets(needs: Needs, facts: BackboneFacts | None) -> bool:
    """Whether a backbone with these facts gives what a head needs; without facts only where every backbone does.

    Of the outputs of groups, positions are told from channels by images of twice the size.
    """
    if needs == "pooled":
        return True
    if facts is None:
        return False
    return facts.map is not None if needs == "map" else not facts.fixed_input


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a head that has none."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """A head: features to logits[N, classes], for the user's classes."""

    name: str
    summary: str
    build: Callable[[FeatureShape, int, Any], nn.Module]
    """(shape, classes, options) -> module, which maps the features that it needs to logits[N, classes]. The text of a
    ValueError says why these options cannot work with this backbone; it is shown to the user."""
    needs: Needs = "pooled"
    """`pooled`: the module gets pooled features[N, F]. `map`: it gets the map[N, C, H, W], and `shape.map` is not
    None. `layers`: it gets features[N, L], the pooled ones followed by the mean of every group's output over its
    positions, from input to output and each divided by its root mean square; `shape.layers` has their widths."""
    options: type[Any] = NoOptions
    """A frozen dataclass with a default for every field. Its ValueErrors are shown to the user."""
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """(module, features[N, ...], targets[N]) -> mean loss over the batch. None: cross-entropy of the logits."""
    fit: Callable[[nn.Module, Tensor, Tensor], None] | None = None
    """(module, features[N, ...], targets[N]): fits the head in closed form to all training features, in place. Such a
    head has no parameters for gradients to train, and its backbone stays frozen. None: the head trains by gradients."""
    linear: Callable[[nn.Module], nn.Linear] | None = None
    """module -> the one linear layer, with a bias, that its logits come from in evaluation mode; dropout may come
    before it, and nothing else. A solver can fit such a head to the minimum of its loss. None: it is more than that."""
    references: tuple[str, ...] = ()
    """Papers or sources, such as `arXiv:1812.01187`."""

    def __post_init__(self) -> None:
        check_name("head", self.name, NAME)
        optional = [field for field in ("loss", "fit", "linear") if getattr(self, field) is not None]
        check_callables(self, "build", *optional)
        if self.linear is not None and len(optional) > 1:
            raise ValueError(
                f"head {self.name!r} gives linear and {optional[0]}: linear is for heads whose loss is the "
                "cross-entropy of one linear layer, so leave one of the two out"
            )
        if self.needs not in get_args(Needs):
            raise ValueError(f"needs of head {self.name!r} must be one of {get_args(Needs)}, got {self.needs!r}")
        check_texts("references", self.references)
        if not (isinstance(self.options, type) and is_dataclass(self.options)):
            raise TypeError(f"options of head {self.name!r} must be a frozen dataclass, got {self.options!r}")
        # No public function tells whether a dataclass is frozen.
        if not self.options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise TypeError(
                f"options of head {self.name!r} must be a frozen dataclass: {self.options.__name__} is not frozen"
            )
        # Made once now: an option without a default would fail only when somebody uses the head without it.
        try:
            self.options()
        except TypeError as error:
            raise TypeError(f"every option of head {self.name!r} needs a default: {error}") from None
