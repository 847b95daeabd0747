"""Load weights into timm's models: timm converts names and shapes of a file, zoo compares and copies the tensors.

Without a classifier, timm loads with `strict=False`, so that a file for another model goes unnoticed. Its conversion
(`checkpoint_filter_fn`, private to each architecture) can only be used by letting timm load. So timm loads here, but
its last step, `load_state_dict`, is replaced by `zoo.load_weights` in the meantime.
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

# The published files of a few tags lack this norm. timm loads them leniently: it stays at its initial ones and zeros.
_MAY_BE_MISSING = "head.norm."
# One load at a time: the method is replaced on a class, which threads share.
_LOCK = threading.Lock()


def create(name: str, **arguments: Any) -> nn.Module:
    """Create timm's model `name` (`architecture[.tag]`) without classifier, with random weights."""
    # On the meta device initialisation has no effect, but would still take most of the building time.
    initialisation = zoo.skip_init() if torch.get_default_device().type == "meta" else contextlib.nullcontext()
    with initialisation:
        module: nn.Module = timm.create_model(name, num_classes=0, **arguments)
    return module


def create_with_weights(name: str, state: Mapping[str, Tensor], **arguments: Any) -> nn.Module:
    """Create the same model with the weights in `state`: tensors of any shape, by their names in timm's files.

    Raises zoo.WeightsMismatch if `state` is for another model.
    """
    with torch.device("meta"):
        empty = create(name, **arguments)
    if _downloads_backbone(empty):
        with zoo.skip_init():
            module = create(name, **arguments)
        _load(name, module, state, strict=True)
        return module
    if not state:  # timm would take an empty state as a request to download one
        raise _mismatch(name, empty, state)
    overlay = {
        "state_dict": {key: tensor.detach().as_subclass(_Uncopied) for key, tensor in state.items()},
        # With these, timm does not touch the classifier in the file, and is lenient only where it knows of a gap.
        "classifier": None,
        "source": None,
        "custom_load": False,
    }
    loaded: list[nn.Module] = []

    def load(module: nn.Module, converted: Mapping[str, Tensor], strict: bool) -> None:
        _load(name, module, converted, strict)
        loaded.append(module)

    try:
        # Some conversions print, and stdout belongs to the command's own output.
        with _replaced_load(type(empty), load), zoo.skip_init(), contextlib.redirect_stdout(sys.stderr):
            module = create(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except zoo.ZooError:
        raise
    except Exception as error:
        # A conversion can fail with any exception on names or shapes that it does not expect.
        mismatch = _mismatch(name, empty, state)
        if mismatch.missing or mismatch.unexpected or mismatch.shapes:
            raise mismatch from error
        raise
    if not any(loaded_module is module for loaded_module in loaded):
        raise RuntimeError(f"timm {timm.__version__} did not load the weights of {name} in the way that zoo expects")
    # timm's own cfg would keep the passed weights in memory.
    module.pretrained_cfg = module.default_cfg = empty.pretrained_cfg
    return module


def _downloads_backbone(model: nn.Module) -> bool:
    """Whether timm, with `pretrained=True`, would download weights for the ResNet inside an unpublished hybrid."""
    cfg: Any = model.pretrained_cfg
    published = cfg.get("hf_hub_id") or cfg.get("url")
    return isinstance(getattr(model, "patch_embed", None), HybridEmbed) and not published


class _Uncopied(Tensor):
    """A tensor that deepcopy does not copy: timm deep-copies the pretrained cfg through which it receives weights."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Uncopied:
        return self


@contextlib.contextmanager
def _replaced_load(model_class: type[nn.Module], load: Load) -> Iterator[None]:
    """Replace `load_state_dict` of this class by `load`, for calls from this thread, while the block runs."""
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
        missing = [key for key in own if key.startswith(_MAY_BE_MISSING) and key not in state]
        state = {key: tensor for key, tensor in state.items() if key in own} | {key: own[key] for key in missing}
    surplus = not own.keys() >= state.keys()
    ignore = classifier_prefixes(name, module) if surplus else ()
    zoo.load_weights(module, state, architecture=f"timm/{name}", ignore=ignore)


def classifier_prefixes(name: str, bare: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that timm's model `name` has and `bare`, built with `num_classes=0`, lacks.

    `pretrained_cfg["classifier"]` does not name all of them: it leaves out auxiliary heads, and norms and hidden layers
    of the classifier.
    """
    cfg: Any = bare.pretrained_cfg
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=cfg.get("num_classes") or 1000).state_dict()
    own = bare.state_dict()
    return tuple(dict.fromkeys(_outermost(key, own) for key in whole if key not in own))


def _outermost(key: str, own: Mapping[str, Tensor]) -> str:
    """Return the shortest module path of `key` under which the model without classifier has no tensors."""
    parts = key.split(".")
    paths = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((path for path in paths if not any(name.startswith(f"{path}.") for name in own)), key)


def _mismatch(name: str, model: nn.Module, state: Mapping[str, Tensor]) -> zoo.WeightsMismatch:
    """Return the differences between `state`, before timm's conversion, and what `model` has."""
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
