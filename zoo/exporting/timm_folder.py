"""Export to a folder that `timm.create_model("local-dir:PATH", pretrained=True)` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import Tensor, nn

from zoo.artefact.golden import preprocess
from zoo.errors import Refused
from zoo.exporting.formats import WHAT_WORKS
from zoo.exporting.layout import architecture_of, linear_of, refuse_provider, upstream_state
from zoo.exporting.source import ExportSource, Written
from zoo.model.build import skip_init
from zoo.specs.preprocessing import Preprocessing

LIBRARY = "timm"
# Our names for how images are resized, and timm's `crop_mode`.
_CROP_MODES = {"shorter": "center", "cover": "center", "exact": "squash", "longest": "border"}


def write(source: ExportSource, path: Path) -> Written:
    """Write timm's own layout: model.safetensors, and config.json with label names and preprocessing.

    Raises Refused for another library's backbone, a head or classifier that is not one linear layer, and preprocessing
    that timm's config cannot describe.
    """
    linear = linear_of(source, LIBRARY)
    refuse_provider(source, LIBRARY)
    whole = _create_whole(source)
    state = upstream_state(source, whole, linear, LIBRARY)
    whole.load_state_dict(state, assign=True)
    save_for_hf(
        whole,
        str(path),
        model_config={"label_names": list(source.config.classes)},
        safe_serialization=True,
        data_config=_data_config(source.model.preprocessing),
    )
    with skip_init():
        module: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    _refuse_other_preprocessing(source, module)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return Written(run=run, how='timm.create_model("local-dir:{path}", pretrained=True).eval()')


def _create_whole(source: ExportSource) -> nn.Module:
    """Create timm's model with its own classifier on the meta device, for the input size of the exported backbone."""
    architecture, tag = architecture_of(source)
    name = f"{architecture}.{tag}" if tag else architecture
    classes = len(source.config.classes)
    plain = _outline(name, num_classes=classes)
    size = source.model.preprocessing.input_size[1:]
    cfg: Any = plain.pretrained_cfg
    if tuple(cfg["input_size"][1:]) == size:
        return plain
    try:
        return _outline(name, num_classes=classes, img_size=size)
    except TypeError as error:
        # Models that take images of any size have no such argument.
        if "img_size" not in str(error):
            raise
    return plain


def _outline(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"), skip_init():
        module: nn.Module = timm.create_model(name, **arguments)
    return module


def _data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    _, height, _ = preprocessing.input_size
    target = preprocessing.resize_size[0]
    # timm resizes to size / crop_pct, rounded down. Where the division's own rounding would lose a pixel, half a pixel
    # more is safe.
    exact = height / target
    return {
        "input_size": preprocessing.input_size,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": exact if int(height / exact) == target else height / (target + 0.5),
        "crop_mode": _CROP_MODES[preprocessing.resize],
    }


def _refuse_other_preprocessing(source: ExportSource, module: nn.Module) -> None:
    """Raise Refused where timm's transform, made from the written config, gives other bits on the test pictures."""
    config: Any = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    transform: Any = create_transform(**config, is_training=False)
    arrays = source.pictures.permute(0, 2, 3, 1).contiguous().numpy()
    theirs = torch.stack([transform(Image.fromarray(array)) for array in arrays])
    if not torch.equal(theirs, preprocess(source.pictures, source.model.preprocessing)):
        raise Refused(
            f"timm's config cannot describe this preprocessing ({source.model.preprocessing.describe()}).\n"
            + WHAT_WORKS
        )
