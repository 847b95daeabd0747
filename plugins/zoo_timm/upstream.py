"""What timm itself says about its architectures and weights, as entries of the index. Imports timm."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import zoo
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import get_arch_pretrained_cfgs, get_deprecated_models, model_entrypoint

from zoo_timm.index import Entry, usual_source

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# timm writes the first digits of a file's SHA-256 at the end of its name. Fewer than eight are no hash (`-300e`).
_HASH = re.compile(r"-([0-9a-f]{8,})\.")
_RESIZE = {"center": "cover", "squash": "exact", "border": "longest"}
_PICKLE, _SAFE = "pytorch_model.bin", "model.safetensors"


def names() -> list[str]:
    """Return the names of the architectures of the installed timm, without deprecated ones."""
    listed: list[str] = timm.list_models()
    return listed


def entry(architecture: str) -> Entry:
    """Return the index entry of an architecture. Nothing is built, so it has no facts.

    Raises LookupError if timm has none of this name.
    """
    weights = [
        zoo.WeightsSpec(
            tag=tag,
            preprocessing=preprocessing(cfg),
            source=_source(architecture, tag, cfg),
            licence=cfg.get("license"),
        )
        for tag, cfg in _trained(architecture)
    ]
    default = preprocessing(_default_cfg(architecture))
    return Entry(preprocessing=default, weights=tuple(weights), summary=_summary(architecture))


def reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    """Return timm's own evaluation transform for the weights `tag` (None: the default ones).

    It maps an RGB PIL image to a tensor[3, H, W].
    """
    cfg = dict(_trained(architecture))[tag] if tag else _default_cfg(architecture)
    transform: Callable[[Image], Tensor] = create_transform(**_data_config(cfg), is_training=False)
    return transform


def preprocessing(cfg: dict[str, Any]) -> zoo.Preprocessing:
    """Describe what timm's `transforms_imagenet_eval` does for a pretrained cfg."""
    data = _data_config(cfg)
    channels, height, width = data["input_size"]
    target = (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"]))
    # timm too treats any other crop mode as `center`.
    resize: Any = _RESIZE.get(data["crop_mode"], "cover")
    if resize == "cover" and target[0] == target[1]:
        resize = "shorter"
    red, green, blue = (round(255 * value) if resize == "longest" else 0 for value in data["mean"])
    return zoo.Preprocessing(
        input_size=(channels, height, width),
        resize_size=target,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        resize=resize,
        fill=(red, green, blue),
    )


def _data_config(cfg: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=cfg)  # type: ignore[no-untyped-call]
    return config


def _cfgs(architecture: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (tag, pretrained cfg) pairs, the default first. The tag is empty if the cfg has none."""
    exists = timm.is_model(architecture) and "." not in architecture  # timm ignores what follows a dot
    if not exists or architecture in get_deprecated_models():
        raise LookupError(f"timm {timm.__version__} has no architecture {architecture!r}")
    cfgs = get_arch_pretrained_cfgs(architecture)
    return [(name.partition(".")[2], cfg.to_dict()) for name, cfg in cfgs.items()]  # type: ignore[no-untyped-call]


def _trained(architecture: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the pairs that have weights. timm also lists tags for which nothing is published yet."""
    return [(tag, cfg) for tag, cfg in _cfgs(architecture) if tag and (cfg.get("hf_hub_id") or cfg.get("url"))]


def _default_cfg(architecture: str) -> dict[str, Any]:
    cfgs = _trained(architecture) or _cfgs(architecture)
    return cfgs[0][1] if cfgs else {"input_size": (3, 224, 224)}


def _source(architecture: str, tag: str, cfg: dict[str, Any]) -> zoo.HubFile | zoo.UrlFile:
    """Choose as timm's `_resolve_pretrained_source` does: the hub takes precedence over an address."""
    hub_id, filename = cfg.get("hf_hub_id"), cfg.get("hf_hub_filename")
    if not hub_id:
        url = cfg["url"]
        digest = _HASH.search(url.rpartition("/")[2])
        return zoo.UrlFile(url=url, sha256_prefix=digest.group(1) if digest else None)
    repo_id, _, revision = hub_id.partition("@")
    source = replace(usual_source(architecture, tag), repo_id=repo_id, revision=revision or None)
    return replace(source, filenames=(_safe_alternative(filename), filename)) if filename else source


def _safe_alternative(filename: str) -> str:
    """Return the name of the safetensors file that timm prefers to this one."""
    if filename == f"open_clip_{_PICKLE}":
        return f"open_clip_{_SAFE}"
    return _SAFE if filename == _PICKLE else re.sub(r"\.bin$", ".safetensors", filename)


def _summary(architecture: str) -> str:
    """Return the first line of the architecture's docstring, or else of its module's, without addresses."""
    function = model_entrypoint(architecture)
    module = sys.modules[function.__module__]
    for text in (function.__doc__, module.__doc__):
        lines = inspect.cleandoc(text or "").splitlines()
        title = re.sub(r"( from| at|,)?[\s(<`-]*https?://\S+", "", lines[0]).strip(" `.,:;-") if lines else ""
        if title:
            return title
    return ""
