"""Low-rank adapters (LoRA, arXiv:2106.09685) in a backbone, by the peft library: put in, merged, taken out again.

While they are in, peft's layers stand where the adapted ones were: `x.weight` is called `x.base_layer.weight`, and the
adapters are `x.lora_A.default.weight` and `x.lora_B.default.weight`. `AdaptedNames` is the only place that knows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import Refused

if TYPE_CHECKING:
    from zoo.model.model import ZooModel

_BASE = "base_layer"
_PREFIX = "backbone."


@dataclass(frozen=True, slots=True)
class AdaptedNames:
    """What names of parameters, buffers and modules mean while adapters are in."""

    layers: frozenset[str] = frozenset()
    """Adapted layers, by full name."""

    def upstream(self, name: str) -> str:
        """A tensor's or module's name without adapters; what adapters brought with them keeps its own."""
        layer, rest = self._split(name)
        first, _, inside = rest.partition(".")
        if layer is None or first != _BASE:
            return name
        return f"{layer}.{inside}" if inside else layer

    def adapted_by(self, name: str) -> str | None:
        """The layer whose adapter holds this tensor or module; None for what is upstream's own."""
        layer, rest = self._split(name)
        return None if not rest or rest.partition(".")[0] == _BASE else layer

    def _split(self, name: str) -> tuple[str | None, str]:
        end = len(name) if self.layers else -1
        while end > 0:
            if name[:end] in self.layers:
                return name[:end], name[end + 1 :]
            end = name.rfind(".", 0, end)
        return None, ""


def refuse_without_peft(source: str, stage: str) -> None:
    """Raise Refused where the library that makes adapters is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise Refused(
            f"The recipe {source} trains low-rank adapters in its stage {stage!r}, which the peft library makes, and "
            "it is not installed here.\nNext: pip install 'zoo-registry[lora]', or another recipe: zoo list recipes"
        )


def put_in(model: ZooModel, layers: Sequence[str], *, rank: int, alpha: float) -> None:
    """Give each layer an adapter that changes nothing yet, on the layer's device; torch's generator draws its values.

    The layer puts out what it did, and `alpha / rank` times what the adapter adds.
    """
    if not layers:
        return
    from peft import LoraConfig, inject_adapter_in_model

    names = [name.removeprefix(_PREFIX) for name in layers]
    # One pattern for whole names: in a list, `conv1` would stand for `layer1.0.conv1` as well.
    pattern = "|".join(map(re.escape, names))
    # peft says that alpha is whole, and divides it as any number.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern)  # type: ignore[arg-type]
    on_meta = next(model.parameters()).is_meta
    with torch.device("meta" if on_meta else "cpu"):
        inject_adapter_in_model(config, model.backbone)
    model.adapted = AdaptedNames(frozenset(layers))
    model.compute_as(model.compute)


@contextlib.contextmanager
def adapted(model: ZooModel, layers: Sequence[str], *, rank: int, alpha: float) -> Iterator[None]:
    """As `put_in`, and `take_out` at the end, whatever happens in between."""
    put_in(model, layers, rank=rank, alpha=alpha)
    try:
        yield
    finally:
        take_out(model)


def merge(model: ZooModel) -> None:
    """Add what the adapters learned to the weights of their layers, and take them out."""
    for name in model.adapted.layers:
        layer: Any = model.get_submodule(name)
        layer.merge()
    take_out(model)


def take_out(model: ZooModel) -> None:
    """Put upstream's own layers back, as they are; nothing happens where no adapters are in."""
    for name in model.adapted.layers:
        parent, _, last = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    if model.adapted.layers:
        del model.backbone.peft_config
    model.adapters_taken_out()
