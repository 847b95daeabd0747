"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_READABLE = 40
"""Classes up to which names and counts are written: more would not be read."""
_CELL, _SMALL_CELL, _LETTER = 36, 6, 7
"""Pixels: a cell's side, with and without writing, and the width of a letter."""
_LONGEST = 24
"""Letters of a class name."""


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """A confusion matrix as a picture, for observers that show pictures: darker is a greater share of the class.

    Args:
        counts: [class, predicted class], as `RunFinished.confusion` has it.
        classes: Their names in that order; written, as the counts are, where there are at most 40.

    Returns:
        uint8[H, W, 3], with H == W.
    """
    written = len(classes) <= _READABLE
    cell = _CELL if written else _SMALL_CELL
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..." for name in classes]
    margin = _LETTER * max(map(len, names)) + 12 if written else 0
    side = margin + cell * len(classes)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            share = count / max(1, sum(line))
            left, top = margin + column * cell, margin + row * cell
            shade = (round(255 - 215 * share), round(255 - 165 * share), 255)
            draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=shade, outline="lightgray")
            if written and count:
                ink = "white" if share > 0.6 else "black"
                draw.text((left + cell / 2, top + cell / 2), str(count), fill=ink, anchor="mm")
    if written:
        _write_names(image, names, margin=margin, cell=cell)
    return np.asarray(image)


def _write_names(image: Image.Image, names: Sequence[str], *, margin: int, cell: int) -> None:
    """Classes at the left, predicted classes at the top, these turned."""
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((margin - 6, margin + middle), name, fill="black", anchor="rm")
        label = Image.new("RGB", (margin - 6, cell), "white")
        ImageDraw.Draw(label).text((0, cell / 2), name, fill="black", anchor="lm")
        turned = label.transpose(Image.Transpose.ROTATE_90)
        image.paste(turned, (margin + index * cell, 0))
