"""Export to a folder that timm loads, with `timm.create_model("local-dir:PATH", pretrained=True)`, and transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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

    Raises Refused for another library's backbone, a head or classifier that is not one linear layer, layers that
    several blocks share, and preprocessing that timm's config cannot describe.
    """
    linear = linear_of(source, LIBRARY)
    refuse_provider(source, LIBRARY)
    data_config = describe_to_timm(source.model.preprocessing)
    whole = _create_whole(source)
    state = upstream_state(source, whole, linear, LIBRARY)
    _refuse_shared(source, state)
    # Assigned, as the module is on the meta device and has no memory that could be filled.
    whole.load_state_dict(state, assign=True)
    save_for_hf(
        whole,
        str(path),
        model_config={"label_names": list(source.config.classes)},
        safe_serialization=True,
        data_config=data_config,
    )
    _leave_the_number_of_classes_once(path / "config.json")
    with skip_init():
        module: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    _refuse_other_preprocessing(source, module)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return Written(run=run, how='timm.create_model("local-dir:{path}", pretrained=True).eval()')


def _refuse_shared(source: ExportSource, state: Mapping[str, Tensor]) -> None:
    """Raise Refused where tensors share memory, as those of a layer that several blocks use do: timm writes none."""
    memory = [tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()]
    if len(set(memory)) < len(memory):
        raise Refused(
            f"Blocks of {source.config.backbone.name} share layers, and timm does not write a folder of such a model.\n"
            f"{WHAT_WORKS}"
        )


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


def _leave_the_number_of_classes_once(config: Path) -> None:
    """Take the number of classes out of `model_args`: both libraries read it at the top level, where it stays.

    transformers hands timm that number beside `model_args`, and Python refuses an argument that comes twice.
    """
    content = json.loads(config.read_text("utf-8"))
    content.get("model_args", {}).pop("num_classes", None)
    config.write_text(json.dumps(content, indent=2), "utf-8")


def describe_to_timm(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing in the keys of timm's config, from which transformers reads it as well.

    Raises Refused where no share of the crop gives the size that images are resized to.
    """
    return {
        "input_size": preprocessing.input_size,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": _crop_share(preprocessing),
        "crop_mode": _CROP_MODES[preprocessing.resize],
    }


def _crop_share(preprocessing: Preprocessing) -> float:
    """Return the number by which timm divides height and width, rounding down, to find the size to resize to.

    Where the division's own rounding would lose a pixel, half a pixel more is safe. A height and a width in different
    proportions to their targets leave a narrow range, or none.
    """
    sides = tuple(zip(preprocessing.input_size[1:], preprocessing.resize_size, strict=True))
    for more in (0.0, 0.5):
        for side, target in sides:
            share = side / (target + more)
            if all(math.floor(other / share) == wanted for other, wanted in sides):
                return share
    raise _cannot_describe(preprocessing)


def _cannot_describe(preprocessing: Preprocessing) -> Refused:
    return Refused(f"timm's config cannot describe this preprocessing ({preprocessing.describe()}).\n{WHAT_WORKS}")


def _refuse_other_preprocessing(source: ExportSource, module: nn.Module) -> None:
    """Raise Refused where timm's transform, made from the written config, gives other bits on pictures of any shape."""
    preprocessing = source.model.preprocessing
    config: Any = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    transform: Any = create_transform(**config, is_training=False)
    for pictures in (source.pictures, *_of_other_shapes(source.pictures, preprocessing)):
        arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()
        theirs = torch.stack([transform(Image.fromarray(array)) for array in arrays])
        if not torch.equal(theirs, preprocess(pictures, preprocessing)):
            raise _cannot_describe(preprocessing)


def _of_other_shapes(pictures: Tensor, preprocessing: Preprocessing) -> list[Tensor]:
    """Return parts of pictures[N, 3, h, w] that are wide, high, or smaller than the input, each uint8[1, 3, h', w'].

    The pictures all have one shape, which cannot tell every way to resize from every other.
    """
    _, height, width = preprocessing.input_size
    shapes = ((60, pictures.shape[3]), (pictures.shape[2], 50), (max(1, height // 3), max(1, width // 4)))
    return [pictures[:1, :, :high, :wide] for high, wide in shapes]
