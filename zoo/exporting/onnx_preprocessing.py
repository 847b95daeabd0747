"""Preprocessing as a part of an ONNX graph: pictures uint8[N, H, W, 3] of any size in, probabilities out.

ONNX's Resize with `antialias` has Pillow's filters: it rounds to whole grey levels between its two passes and after
them, as Pillow does, and with `exclude_outside` its weights at the border are Pillow's. Sums differ in their last bits,
so a few pixels in a thousand are one grey level off. Sizes and places of the crop are those of `zoo.data.transform`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

from zoo.errors import Refused
from zoo.specs.preprocessing import Preprocessing

PICTURES, PROBABILITIES, LOGITS = "pictures", "probabilities", "logits"
"""The names of the input and of the outputs."""
_IMAGES = "images"
_MODES: Mapping[str, Mapping[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}
"""Filter -> the attributes of Resize that make it Pillow's."""


def refuse_other_filters(preprocessing: Preprocessing) -> None:
    """Raise Refused for a filter that ONNX's Resize does not have."""
    if preprocessing.interpolation not in _MODES:
        raise Refused(
            f"This classifier's pictures are resized with the filter {preprocessing.interpolation}, and ONNX's Resize "
            f"has only {' and '.join(_MODES)} with Pillow's weights.\n"
            "Next: --to onnx without --input image, and prepare pictures as the file's metadata say."
        )


def with_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Put the preprocessing before a model and a softmax behind it.

    The result has the input `pictures`, uint8[N, H, W, 3] in RGB, all of one size, which may be any; and the outputs
    `probabilities` and `logits`, float32[N, classes].

    Args:
        model: From `images`, float32[N, 3, H, W], to `logits`, float32[N, classes].
        preprocessing: What the model was trained with.

    Raises Refused for a filter that ONNX's Resize does not have.
    """
    refuse_other_filters(preprocessing)
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    graph = joined.graph
    writing = _Writing({*_names(graph)})
    writing.prepare(preprocessing)
    last = helper.make_node("Softmax", [LOGITS], [PROBABILITIES], name=PROBABILITIES, axis=1)
    nodes = [*writing.nodes, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writing.constants)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    # `images` is computed now, and an input of that name would have to be given.
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(PICTURES, TensorProto.UINT8, ["batch", "height", "width", 3]))
    for name in (PROBABILITIES, LOGITS):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes]))
    onnx.checker.check_model(joined)
    return joined


def _names(graph: onnx.GraphProto) -> list[str]:
    """Every name of a tensor or a node in the graph."""
    of_nodes = [name for node in graph.node for name in (node.name, *node.input, *node.output)]
    return [*of_nodes, *(constant.name for constant in graph.initializer)]


class _Writing:
    """Nodes and constants in the order in which they are computed. Names that are taken are avoided."""

    def __init__(self, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken = taken

    def prepare(self, preprocessing: Preprocessing) -> None:
        """From `pictures` to `images`: resize, crop, normalise."""
        pixels = self._op("Transpose", PICTURES, perm=[0, 3, 1, 2])
        height, width = (self._op("Shape", pixels, start=axis, end=axis + 1) for axis in (2, 3))
        height, width = self._resized_to(height, width, preprocessing)
        pixels = self._resize(pixels, height, width, preprocessing)
        values = self._op("Cast", pixels, to=TensorProto.FLOAT)
        values = self._crop(values, height, width, preprocessing)
        values = self._op("Div", values, self._numbers([255.0]))
        values = self._op("Sub", values, self._of_channels(preprocessing.mean))
        self._op("Div", values, self._of_channels(preprocessing.std), output=_IMAGES)

    def _resized_to(self, height: str, width: str, preprocessing: Preprocessing) -> tuple[str, str]:
        """The size in pixels, int64[1] each, that a picture of `height` and `width` is resized to."""
        high, wide = preprocessing.resize_size
        if preprocessing.resize == "exact":
            return self._whole(high), self._whole(wide)
        if preprocessing.resize == "shorter":
            # The longer side is truncated, as whole numbers are when they are divided.
            short = self._op("Min", height, width)
            return tuple(  # type: ignore[return-value]
                self._op("Div", self._op("Mul", side, self._whole(high)), short) for side in (height, width)
            )
        # In double precision, as Python divides: in float32 some sides round to another pixel.
        sides = [self._op("Cast", side, to=TensorProto.DOUBLE) for side in (height, width)]
        ratios = [self._op("Div", side, self._double(target)) for side, target in zip(sides, (high, wide), strict=True)]
        ratio = self._op("Max" if preprocessing.resize == "longest" else "Min", *ratios)
        rounded = [self._op("Round", self._op("Div", side, ratio)) for side in sides]
        found = [self._op("Cast", side, to=TensorProto.INT64) for side in rounded]
        return self._op("Max", found[0], self._whole(1)), self._op("Max", found[1], self._whole(1))

    def _resize(self, pixels: str, height: str, width: str, preprocessing: Preprocessing) -> str:
        shape = self._op("Shape", pixels, start=0, end=2)
        sizes = self._op("Concat", shape, height, width, axis=0)
        filtered = _MODES[preprocessing.interpolation]
        # No region and no scales: the sizes in pixels say it all, without rounding.
        return self._op("Resize", pixels, "", "", sizes, antialias=1, exclude_outside=1, **filtered)

    def _crop(self, values: str, height: str, width: str, preprocessing: Preprocessing) -> str:
        """Crop values[N, 3, H', W'] in the centre, or fill what is missing around them."""
        targets = [self._whole(side) for side in preprocessing.input_size[1:]]
        sides = [height, width]
        if preprocessing.resize == "longest" or _is_smaller(preprocessing):
            values, sides = self._pad(values, sides, targets, preprocessing)
        begins = [self._half_to_even(self._op("Sub", side, to)) for side, to in zip(sides, targets, strict=True)]
        begin = self._op("Concat", *begins, axis=0)
        end = self._op("Add", begin, self._op("Concat", *targets, axis=0))
        return self._op("Slice", values, begin, end, self._integers([2, 3]))

    def _pad(
        self, values: str, sides: list[str], targets: list[str], preprocessing: Preprocessing
    ) -> tuple[str, list[str]]:
        """Pad values[N, 3, H', W'] with the fill colour to at least the targets -> (values, their new sides)."""
        missing = [
            self._op("Max", self._op("Sub", to, side), self._whole(0)) for side, to in zip(sides, targets, strict=True)
        ]
        before = [self._op("Div", pixels, self._whole(2)) for pixels in missing]
        after = [self._op("Sub", pixels, half) for pixels, half in zip(missing, before, strict=True)]
        none = self._integers([0, 0])
        borders = self._op("Concat", none, *before, none, *after, axis=0)
        # Pad has one number for all channels, so the colour is taken away first and comes back with what is padded.
        fill = self._of_channels(preprocessing.fill)
        values = self._op("Add", self._op("Pad", self._op("Sub", values, fill), borders), fill)
        return values, [self._op("Max", side, to) for side, to in zip(sides, targets, strict=True)]

    def _half_to_even(self, pixels: str) -> str:
        """Half of a number of pixels, int64[1]; a half rounds to the even number, as in Python."""
        half = self._op("Div", self._op("Cast", pixels, to=TensorProto.DOUBLE), self._double(2))
        return self._op("Cast", self._op("Round", half), to=TensorProto.INT64)

    def _of_channels(self, numbers: tuple[float, ...]) -> str:
        return self._constant(helper.make_tensor("", TensorProto.FLOAT, [1, 3, 1, 1], numbers))

    def _numbers(self, numbers: list[float]) -> str:
        return self._constant(helper.make_tensor("", TensorProto.FLOAT, [len(numbers)], numbers))

    def _double(self, number: float) -> str:
        return self._constant(helper.make_tensor("", TensorProto.DOUBLE, [1], [number]))

    def _whole(self, number: int) -> str:
        return self._integers([number])

    def _integers(self, numbers: list[int]) -> str:
        return self._constant(helper.make_tensor("", TensorProto.INT64, [len(numbers)], numbers))

    def _constant(self, tensor: onnx.TensorProto) -> str:
        tensor.name = self._free("constant")
        self.constants.append(tensor)
        return tensor.name

    def _op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        output = output or self._free(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}_node", **attributes))
        return output

    def _free(self, kind: str) -> str:
        number = 0
        while (name := f"preprocessing_{kind}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _is_smaller(preprocessing: Preprocessing) -> bool:
    """Whether the crop is larger than what pictures are resized to."""
    return any(to < side for to, side in zip(preprocessing.resize_size, preprocessing.input_size[1:], strict=True))
