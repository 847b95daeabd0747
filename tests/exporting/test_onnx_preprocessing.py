"""The preprocessing in an ONNX graph gives Pillow's pixels, for every kind of preprocessing and any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.exporting.graphs import passing_on
from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import Refused
from zoo.specs.preprocessing import Preprocessing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = ((208, 176), (101, 100), (40, 33), (64, 64), (30, 200), (203, 31), (1, 1), (176, 5), (90, 73))
"""Width and height in pixels of the pictures: as they are drawn, odd, small, long, narrow."""
TARGETS = (((73, 73), (64, 64)), ((60, 60), (64, 64)), ((80, 56), (64, 48)), ((64, 64), (67, 91)))
"""What pictures are resized to, and the crop: smaller, larger, not square."""


def grey_levels_apart(preprocessing: Preprocessing, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Any]:
    """For a picture of each size, the differences in grey levels, of 255, of all pixels from Pillow's."""
    from zoo.exporting.onnx_preprocessing import with_preprocessing

    model = with_preprocessing(passing_on(*preprocessing.input_size[1:]), preprocessing)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    std = np.array(preprocessing.std).reshape(3, 1, 1)
    found = []
    for number, size in enumerate(sizes):
        picture = sample_image(number, 10, "test", number).crop((0, 0, *size))
        expected = transform(picture, preprocessing).numpy()
        (logits,) = session.run(["logits"], {"pictures": np.asarray(picture)[None]})
        found.append(np.abs((logits.reshape(expected.shape) - expected) * std * 255))
    return found


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["shorter", "exact", "cover", "longest"])
def test_pictures_of_any_size_become_pillows_images(resize: Any, interpolation: Any) -> None:
    for resize_size, crop in TARGETS:
        if resize == "shorter" and resize_size[0] != resize_size[1]:
            continue
        preprocessing = Preprocessing(
            input_size=(3, *crop),
            resize_size=resize_size,
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.25, 0.3),
            resize=resize,
            interpolation=interpolation,
            fill=(10, 200, 77),
        )
        found = grey_levels_apart(preprocessing)
        assert max(float(each.max()) for each in found) < 2.01
        assert float(np.mean([(each > 0.5).mean() for each in found])) < 0.05


def test_a_batch_of_pictures_gives_what_each_gives_alone() -> None:
    from zoo.exporting.onnx_preprocessing import with_preprocessing

    preprocessing = Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
    model = with_preprocessing(passing_on(32, 32), preprocessing)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = np.stack([np.asarray(sample_image(number, 10, "test", 0)) for number in range(3)])
    together = session.run(None, {"pictures": pictures})
    alone = [session.run(None, {"pictures": pictures[index : index + 1]}) for index in range(3)]
    for output in range(2):
        np.testing.assert_array_equal(together[output], np.concatenate([each[output] for each in alone]))
    np.testing.assert_allclose(together[0].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos", "box", "hamming"])
def test_filters_that_onnx_lacks_are_refused(interpolation: Any) -> None:
    from zoo.exporting.onnx_preprocessing import with_preprocessing

    preprocessing = Preprocessing(
        input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation=interpolation
    )
    with pytest.raises(Refused, match=f"the filter {interpolation}.*only bilinear and bicubic(?s:.*)Next: --to onnx"):
        with_preprocessing(passing_on(8, 8), preprocessing)
