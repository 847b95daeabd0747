"""A folder that `timm.create_model("local-dir:PATH", pretrained=True)` loads."""

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

from zoo.artefact.golden import preprocessed
from zoo.errors import Refused
from zoo.exporting.layout import WHAT_WORKS, architecture_of, linear_of, refuse_provider, upstream_state
from zoo.exporting.subject import Subject, Written
from zoo.model.undrawn import undrawn
from zoo.preprocessing import Preprocessing

LIBRARY = "timm"
_CROP_MODES = {"shorter": "center", "cover": "center", "exact": "squash", "longest": "border"}


def write(subject: Subject, path: Path) -> Written:
    """timm's own layout: config.json and model.safetensors, with label names and preprocessing. Raises Refused."""
    linear = linear_of(subject, LIBRARY)
    refuse_provider(subject, LIBRARY)
    whole = _whole(subject)
    state = upstream_state(subject, whole, linear, LIBRARY)
    whole.load_state_dict(state, assign=True)
    save_for_hf(
        whole,
        str(path),
        model_config={"label_names": list(subject.config.classes)},
        safe_serialization=True,
        data_config=_data_config(subject.model.preprocessing),
    )
    with undrawn():
        module: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    _refuse_other_preprocessing(subject, module)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return Written(run=run, how='timm.create_model("local-dir:{path}", pretrained=True).eval()')


def _whole(subject: Subject) -> nn.Module:
    """timm's model with its own classifier, without memory, for the images' size as the backbone was built for it."""
    architecture, tag = architecture_of(subject)
    name = f"{architecture}.{tag}" if tag else architecture
    classes = len(subject.config.classes)
    plain = _outline(name, num_classes=classes)
    size = subject.model.preprocessing.input_size[1:]
    cfg: Any = plain.pretrained_cfg
    if tuple(cfg["input_size"][1:]) == size:
        return plain
    try:
        return _outline(name, num_classes=classes, img_size=size)
    except TypeError as error:
        # Models that take any size as it is do not know the argument.
        if "img_size" not in str(error):
            raise
    return plain


def _outline(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"), undrawn():
        module: nn.Module = timm.create_model(name, **arguments)
    return module


def _data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    _, height, _ = preprocessing.input_size
    target = preprocessing.resize_size[0]
    # timm rounds size / crop_pct down; half a pixel more keeps the division's own rounding out of it.
    exact = height / target
    return {
        "input_size": preprocessing.input_size,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": exact if int(height / exact) == target else height / (target + 0.5),
        "crop_mode": _CROP_MODES[preprocessing.resize],
    }


def _refuse_other_preprocessing(subject: Subject, module: nn.Module) -> None:
    config: Any = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    transform: Any = create_transform(**config, is_training=False)
    arrays = subject.pictures.permute(0, 2, 3, 1).contiguous().numpy()
    theirs = torch.stack([transform(Image.fromarray(each)) for each in arrays])
    if not torch.equal(theirs, preprocessed(subject.pictures, subject.model.preprocessing)):
        raise Refused(
            f"timm's config cannot describe this preprocessing ({subject.model.preprocessing.describe()}).\n"
            + WHAT_WORKS
        )
