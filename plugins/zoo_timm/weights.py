"""Weights into timm's models: timm converts the file's names and shapes, zoo compares and copies.

timm loads with `strict=False` whenever the classifier is left out, so that a file for another model goes unnoticed.
Its conversion (`checkpoint_filter_fn`, private to each architecture) can be had only by letting timm load. So timm
does, and `load_state_dict`, the last step, is replaced by `zoo.load_weights` while it does.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import timm
import torch
import zoo
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn

Load = Callable[[nn.Module, Mapping[str, Tensor], bool], None]

# What the published files of a few tags lack; timm loads those leniently. It stays as initialised: ones and zeros.
_MAY_LACK = "head.norm."
# One at a time: the replacement is made on a class that threads share.
_LOCK = threading.Lock()


def created(name: str, **arguments: Any) -> nn.Module:
    """timm's model `name` (`architecture[.tag]`) without classifier, with random weights."""
    # The meta device holds no values to draw, and still takes most of the building time for it.
    drawn = contextlib.nullcontext() if torch.get_default_device().type != "meta" else zoo.undrawn()
    with drawn:
        module: nn.Module = timm.create_model(name, num_classes=0, **arguments)
    return module


def built_with(name: str, state: Mapping[str, Tensor], **arguments: Any) -> nn.Module:
    """The same with the weights in `state`.

    Raises zoo.WeightsMismatch where `state` is for another model.
    """
    with torch.device("meta"):
        empty = created(name, **arguments)
    if _fetches_by_itself(empty):
        with zoo.undrawn():
            module = created(name, **arguments)
        _load(name, module, state, strict=True)
        return module
    if not state:  # timm would take no state for the wish to download one
        raise _mismatch(name, empty, state)
    overlay = {
        "state_dict": {key: tensor.detach().as_subclass(_Uncopied) for key, tensor in state.items()},
        # So timm leaves the file's classifier to us, and is lenient only where it knows the file to differ.
        "classifier": None,
        "source": None,
        "custom_load": False,
    }
    loaded: list[nn.Module] = []

    def load(module: nn.Module, converted: Mapping[str, Tensor], strict: bool) -> None:
        _load(name, module, converted, strict)
        loaded.append(module)

    try:
        # Some conversions print.
        with _replaced_load(type(empty), load), zoo.undrawn(), contextlib.redirect_stdout(sys.stderr):
            module = created(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except zoo.ZooError:
        raise
    except Exception as error:
        # A conversion that meets names or shapes that it does not expect fails in any way.
        mismatch = _mismatch(name, empty, state)
        if mismatch.missing or mismatch.unexpected or mismatch.shapes:
            raise mismatch from error
        raise
    if not any(each is module for each in loaded):
        raise RuntimeError(f"timm {timm.__version__} did not load the weights of {name} in the way that zoo expects")
    # timm's holds on to the weights that were passed in it.
    module.pretrained_cfg = module.default_cfg = empty.pretrained_cfg
    return module


def _fetches_by_itself(model: nn.Module) -> bool:
    """Whether timm, asked for weights, downloads others: a ResNet's, inside a hybrid without any of its own."""
    cfg: Any = model.pretrained_cfg
    published = cfg.get("hf_hub_id") or cfg.get("url")
    return isinstance(getattr(model, "patch_embed", None), HybridEmbed) and not published


class _Uncopied(Tensor):
    """timm's pretrained cfg, through which it takes weights, copies what it holds; this much is not worth it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Uncopied:
        return self


@contextlib.contextmanager
def _replaced_load(model_class: type[nn.Module], load: Load) -> Iterator[None]:
    """While it is active, `load_state_dict` of this class is `load`, in this thread."""
    own = vars(model_class).get("load_state_dict")
    original = model_class.load_state_dict
    here = threading.get_ident()

    def load_state_dict(
        self: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        if threading.get_ident() != here:
            return original(self, state_dict, strict, assign)
        load(self, state_dict, strict)
        return SimpleNamespace(missing_keys=[], unexpected_keys=[])

    with _LOCK:
        model_class.load_state_dict = load_state_dict  # type: ignore[method-assign]
        try:
            yield
        finally:
            if own is None:
                del model_class.load_state_dict
            else:
                model_class.load_state_dict = own  # type: ignore[method-assign]


def _load(name: str, module: nn.Module, converted: Mapping[str, Tensor], strict: bool) -> None:
    own = module.state_dict()
    state = dict(converted)
    if not strict:
        lacking = [key for key in own if key.startswith(_MAY_LACK) and key not in state]
        state = {key: tensor for key, tensor in state.items() if key in own} | {key: own[key] for key in lacking}
    surplus = not own.keys() >= state.keys()
    ignore = classifier_prefixes(name, module) if surplus else ()
    zoo.load_weights(module, state, architecture=f"timm/{name}", ignore=ignore)


def classifier_prefixes(name: str, bare: nn.Module) -> tuple[str, ...]:
    """Names of the modules that hold only what `bare`, timm's model `name` with `num_classes=0`, lacks.

    `pretrained_cfg["classifier"]` does not name all: auxiliary heads, a norm or a hidden layer in the classifier.
    """
    cfg: Any = bare.pretrained_cfg
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=cfg.get("num_classes") or 1000).state_dict()
    own = bare.state_dict()
    return tuple(dict.fromkeys(_outermost(key, own) for key in whole if key not in own))


def _outermost(key: str, own: Mapping[str, Tensor]) -> str:
    """The shortest module path of `key` under which the model without classifier has nothing."""
    parts = key.split(".")
    paths = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((path for path in paths if not any(kept.startswith(f"{path}.") for kept in own)), key)


def _mismatch(name: str, model: nn.Module, state: Mapping[str, Tensor]) -> zoo.WeightsMismatch:
    """How `state`, as it came, differs from what `model` has."""
    own = model.state_dict()
    ignore = tuple(f"{prefix}." for prefix in classifier_prefixes(name, model))
    return zoo.WeightsMismatch(
        f"timm/{name}",
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own and not key.startswith(ignore)],
        shapes=[
            (key, tuple(tensor.shape), tuple(own[key].shape))
            for key, tensor in state.items()
            if key in own and tensor.shape != own[key].shape
        ],
    )
