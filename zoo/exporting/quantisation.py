"""A classifier's ONNX file in 8 bits, by onnxruntime's static quantisation (QDQ, weights for each channel).

Activations are uint8, weights int8 of 7 bits: on x86 without VNNI the sum of two products of 8 bits saturates without a
word, and what was measured on one machine would not hold on another. (onnxruntime calls that `reduce_range`.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from zoo.exporting.onnx_file import open_session, runner

LAYERS = ("Conv", "Gemm", "MatMul")
"""The operators that have weights; a layer is one of these with constant weights."""
BLOCKS = 48
"""Most parts of a network whose sensitivity is measured; of more layers, several together are a part."""
_SENSITIVITY_IMAGES = 32
_BATCH = 16


class Quantiser:
    """A classifier in float32 that can be written in 8 bits again and again: its ranges are calibrated once."""

    def __init__(self, original: Path, work: Path) -> None:
        """Prepare the file `original`; `work` is a folder for drafts."""
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._work = work
        self._prepared = work / "prepared.onnx"
        self._ranges: Any = None
        with _quiet():
            # Batch norms are folded; symbolic shapes are only needed by other programs than onnxruntime.
            quant_pre_process(str(original), str(self._prepared), skip_symbolic_shape=True)
        model = onnx.load(self._prepared)
        self.layers = _layers(model)
        # Logits of 256 steps would tie: on flowers, one picture in a hundred had two best classes.
        (self._last,) = [node for node in model.graph.node if model.graph.output[0].name in node.output]

    def blocks(self) -> list[tuple[str, ...]]:
        """The layers in their order, in at most `BLOCKS` parts."""
        parts = np.array_split(np.arange(len(self.layers)), min(BLOCKS, len(self.layers)))
        return [tuple(self.layers[index] for index in part) for part in parts]

    def calibrate(self, images: Tensor, progress: Callable[[int], None]) -> None:
        """Find the range of every activation on images[N, 3, H, W]; `progress` gets the number that is done."""
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        with _quiet():
            calibrator = create_calibrator(
                self._prepared,
                augmented_model_path=str(self._work / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            calibrator.collect_data(_Images(images, progress))
            self._ranges = calibrator.compute_data()

    def write(self, path: Path, *, in_float: Collection[str] = (), only: Collection[str] | None = None) -> None:
        """Write the classifier in 8 bits.

        Args:
            path: The file.
            in_float: Layers that stay in float32.
            only: The layers to quantise; None: all that can be.
        """
        from onnxruntime.quantization import QDQQuantizer, QuantType

        with _quiet():
            # Not quantize_static, which calibrates every time that it is called: ranges are computed once here.
            quantizer = QDQQuantizer(
                onnx.load(self._prepared),
                per_channel=True,
                reduce_range=True,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=list(only or ()),
                nodes_to_exclude=[*in_float, *([] if self._last.op_type in LAYERS else [self._last.name])],
                op_types_to_quantize=_quantised_operators(),
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(path))

    def sensitivities(self, images: Tensor, progress: Callable[[int], None]) -> list[float]:
        """How much each of `blocks()` changes the answers where it alone is in 8 bits.

        It is the mean Kullback-Leibler divergence of the probabilities from those in float32, in nats, on the first
        calibration images of images[N, 3, H, W]. `progress` gets the number of blocks that are done.
        """
        images = images[:_SENSITIVITY_IMAGES]
        expected = runner(open_session(self._prepared))(images).log_softmax(1)
        draft = self._work / "one.onnx"
        found = []
        for done, block in enumerate(self.blocks(), start=1):
            self.write(draft, only=block)
            log_probabilities = runner(open_session(draft))(images).log_softmax(1)
            divergence = torch.nn.functional.kl_div(log_probabilities, expected, log_target=True, reduction="batchmean")
            found.append(float(divergence))
            progress(done)
        return found


class _Images:
    """Calibration images in batches, as onnxruntime reads them."""

    def __init__(self, images: Tensor, progress: Callable[[int], None]) -> None:
        self._batches = self._in_batches(images, progress)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)

    @staticmethod
    def _in_batches(images: Tensor, progress: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        for begin in range(0, len(images), _BATCH):
            yield {"images": images[begin : begin + _BATCH].numpy()}
            progress(min(begin + _BATCH, len(images)))  # the batch was computed when the next is asked for


def worst_first(blocks: Sequence[tuple[str, ...]], sensitivities: Sequence[float]) -> list[tuple[str, ...]]:
    """The blocks by their sensitivity, the highest first; a divergence that is no number is the highest."""
    order = sorted(range(len(blocks)), key=lambda index: -np.nan_to_num(sensitivities[index], nan=np.inf))
    return [blocks[index] for index in order]


def _layers(model: onnx.ModelProto) -> tuple[str, ...]:
    constants = {constant.name for constant in model.graph.initializer}
    return tuple(
        node.name for node in model.graph.node if node.op_type in LAYERS and constants.intersection(node.input)
    )


def _quantised_operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    # What quantize_static takes where nobody names operators. QDQQuantizer itself has no such default.
    return sorted({*QDQRegistry, *QLinearOpsRegistry})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime logs for those who call it by hand."""
    # It logs by the root logger, so there is no logger of its own that could be quietened.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
