"""Export to ONNX: input `images[batch, 3, H, W]`, output `logits[batch, classes]`, without softmax."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from zoo.errors import Refused
from zoo.exporting.source import ExportSource, Written

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def refuse_without_packages() -> None:
    """Raise Refused where a package of the extra `export` is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise Refused(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.\n"
            "Next: pip install 'zoo-registry[export]'"
        )


def write(source: ExportSource, path: Path) -> Written:
    """Write one file for any number of images, with class names and preprocessing as metadata.

    Raises Refused where a package is missing, and for a classifier that one file cannot hold.
    """
    refuse_without_packages()
    import onnxruntime

    program = torch.onnx.export(
        source.model,
        (source.images,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: Dim("batch", min=1)}},
        verbose=False,
    )
    assert program is not None
    described = json.loads(source.described())
    for name, value in described.items():
        program.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    program.save(path)
    # Beyond what one protobuf message can hold, weights go to further files beside the draft.
    if len(list(path.parent.iterdir())) > 1:
        raise Refused("An ONNX file holds up to 2 GB, and this classifier is larger.\nWhat works: --to pt2")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return Written(run=run, how='onnxruntime.InferenceSession("{path}").run(["logits"], {{"images": images}})')
