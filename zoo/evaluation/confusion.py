"""Draw a confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_READABLE = 40
"""Names and counts are written for at most so many classes; nobody would read more."""
_CELL, _SMALL_CELL, _LETTER = 36, 6, 7
"""In pixels: the side of a cell with and without text, and the width of a letter."""
_LONGEST = 24
"""Class names are shortened to so many letters."""


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a confusion matrix, for observers that show pictures. A darker cell is a greater share of its true class.

    Args:
        counts: Images by [true class][predicted class], as in `RunFinished.confusion`.
        classes: The class names in that order. Names and counts are written for at most 40 classes.

    Returns:
        An RGB picture, uint8[H, W, 3], with H == W.
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
                colour = "white" if share > 0.6 else "black"
                draw.text((left + cell / 2, top + cell / 2), str(count), fill=colour, anchor="mm")
    if written:
        _write_names(image, names, margin=margin, cell=cell)
    return np.asarray(image)


def _write_names(image: Image.Image, names: Sequence[str], *, margin: int, cell: int) -> None:
    """Write the true classes at the left, and the predicted ones at the top, turned by 90 degrees."""
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((margin - 6, margin + middle), name, fill="black", anchor="rm")
        label = Image.new("RGB", (margin - 6, cell), "white")
        ImageDraw.Draw(label).text((0, cell / 2), name, fill="black", anchor="lm")
        turned = label.transpose(Image.Transpose.ROTATE_90)
        image.paste(turned, (margin + index * cell, 0))
