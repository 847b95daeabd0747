"""Export to ONNX: input `images[batch, 3, H, W]`, output `logits[batch, classes]`, without softmax.

What `--input image` and `--int8` make of that file is in `zoo.exporting.onnx_prepared`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    write_traced(source, path, metadata_of(source))
    return Written(run=runner(open_session(path)), how=HOW)


HOW = 'onnxruntime.InferenceSession("{path}").run(["logits"], {{"images": images}})'
"""The Python that loads a file whose input is preprocessed images."""


def metadata_of(source: ExportSource) -> dict[str, str]:
    """Return the file's metadata: what the tensors do not tell, each value as text or as JSON."""
    described = json.loads(source.described())
    return {name: as_metadata(value) for name, value in described.items()}


def as_metadata(value: Any) -> str:
    """Return a value of the metadata, which are all text: anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_traced(source: ExportSource, path: Path, metadata: Mapping[str, str]) -> None:
    """Trace the classifier and write it; `path` must be in an empty folder. Raises Refused where one file is too small
    for it.
    """
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
    for name, value in metadata.items():
        program.model.metadata_props[name] = value
    program.save(path)
    # Beyond what one protobuf message can hold, weights go to further files beside the draft.
    if len(list(path.parent.iterdir())) > 1:
        raise Refused("An ONNX file holds up to 2 GB, and this classifier is larger.\nNext: --to pt2")


def open_session(path: Path) -> Any:
    """Load a file in onnxruntime, on the CPU, and with as many threads as torch computes with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are for those who write graphs
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Callable[[Tensor], Tensor]:
    """Return the function images[N, 3, H, W] -> logits[N, classes] of a loaded file."""

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run
