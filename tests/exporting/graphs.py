"""Small ONNX models whose answers a test knows."""

from __future__ import annotations

from typing import Any


def passing_on(height: int, width: int, *, quarters: bool = False) -> Any:
    """A model whose logits are the images that it gets, images[N, 3, H, W] -> logits[N, 3 * H * W].

    With `quarters` they are the brightness of each quarter, logits[N, 4]; height and width must be even then.
    """
    from onnx import TensorProto, helper

    size = 4 if quarters else 3 * height * width
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size])
    half = [height // 2, width // 2]
    nodes = [
        helper.make_node("AveragePool", ["images"], ["parts"], kernel_shape=half, strides=half),
        helper.make_node("ReduceMean", ["parts", "channels"], ["grey"], keepdims=0),
        helper.make_node("Flatten", ["grey"], ["logits"], axis=1),
    ]
    channels = helper.make_tensor("channels", TensorProto.INT64, [1], [1])
    whole = [helper.make_node("Flatten", ["images"], ["logits"], axis=1)]
    parts = (nodes, [channels]) if quarters else (whole, [])
    graph = helper.make_graph(parts[0], "graph", [images], [logits], parts[1])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
