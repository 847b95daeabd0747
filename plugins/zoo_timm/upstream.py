"""What timm itself says of its architectures and weights, in the catalogue's words. Imports timm."""

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

from zoo_timm.catalogue import Entry, usual_source

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# timm writes the first digits of a file's SHA-256 at the end of its name; fewer than eight are no hash (`-300e`).
_HASH = re.compile(r"-([0-9a-f]{8,})\.")
_RESIZE = {"center": "cover", "squash": "exact", "border": "longest"}
_PICKLE, _SAFE = "pytorch_model.bin", "model.safetensors"


def names() -> list[str]:
    """Every architecture that is not deprecated."""
    listed: list[str] = timm.list_models()
    return listed


def entry(architecture: str) -> Entry:
    """Raises LookupError for a name that timm does not know."""
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
    """timm's own evaluation transform from an RGB PIL image to tensor[3, H, W]; tag None: of the default weights."""
    cfg = dict(_trained(architecture))[tag] if tag else _default_cfg(architecture)
    transform: Callable[[Image], Tensor] = create_transform(**_data_config(cfg), is_training=False)
    return transform


def preprocessing(cfg: dict[str, Any]) -> zoo.Preprocessing:
    """What `transforms_imagenet_eval` does with a pretrained cfg, as data."""
    data = _data_config(cfg)
    channels, height, width = data["input_size"]
    target = (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"]))
    # Any other crop mode is treated as `center` there too.
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
    """(tag, pretrained cfg), the default first; the tag is empty where there is none."""
    known = timm.is_model(architecture) and "." not in architecture  # timm ignores what follows a dot
    if not known or architecture in get_deprecated_models():
        raise LookupError(f"timm {timm.__version__} has no architecture {architecture!r}")
    cfgs = get_arch_pretrained_cfgs(architecture)
    return [(name.partition(".")[2], cfg.to_dict()) for name, cfg in cfgs.items()]  # type: ignore[no-untyped-call]


def _trained(architecture: str) -> list[tuple[str, dict[str, Any]]]:
    """Those that have weights: a tag without any is a plan of timm's, nothing to download."""
    return [(tag, cfg) for tag, cfg in _cfgs(architecture) if tag and (cfg.get("hf_hub_id") or cfg.get("url"))]


def _default_cfg(architecture: str) -> dict[str, Any]:
    every = _trained(architecture) or _cfgs(architecture)
    return every[0][1] if every else {"input_size": (3, 224, 224)}


def _source(architecture: str, tag: str, cfg: dict[str, Any]) -> zoo.HubFile | zoo.UrlFile:
    """As timm's `_resolve_pretrained_source` decides: the hub before an address."""
    hub_id, filename = cfg.get("hf_hub_id"), cfg.get("hf_hub_filename")
    if not hub_id:
        url = cfg["url"]
        found = _HASH.search(url.rpartition("/")[2])
        return zoo.UrlFile(url=url, sha256_prefix=found.group(1) if found else None)
    repo_id, _, revision = hub_id.partition("@")
    source = replace(usual_source(architecture, tag), repo_id=repo_id, revision=revision or None)
    return replace(source, filenames=(_safe_alternative(filename), filename)) if filename else source


def _safe_alternative(filename: str) -> str:
    """The safetensors file that timm looks for before this one."""
    if filename == f"open_clip_{_PICKLE}":
        return f"open_clip_{_SAFE}"
    return _SAFE if filename == _PICKLE else re.sub(r"\.bin$", ".safetensors", filename)


def _summary(architecture: str) -> str:
    """The first line that timm's source has on the architecture, else on its module, without addresses."""
    function = model_entrypoint(architecture)
    module = sys.modules[function.__module__]
    for text in (function.__doc__, module.__doc__):
        lines = inspect.cleandoc(text or "").splitlines()
        title = re.sub(r"( from| at|,)?[\s(<`-]*https?://\S+", "", lines[0]).strip(" `.,:;-") if lines else ""
        if title:
            return title
    return ""
