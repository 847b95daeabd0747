"""Draw a confusion matrix as a picture. Of many classes, the part is drawn that can be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from zoo.evaluation.confusion_matrix import DENSE_MOST, ConfusionMatrix, cells_of, most_confused

_READABLE = 40
"""Names and counts are written for at most so many classes; nobody would read more."""
_CELL, _SMALL_CELL, _LETTER, _LINE = 36, 6, 7, 22
"""In pixels: the side of a cell with and without text, the width of a letter, and the height of a line."""
_LONGEST = 24
"""Class names are shortened to so many letters."""


def draw_confusion(counts: ConfusionMatrix, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a confusion matrix, for observers that show pictures. A darker cell is a greater share of its true class.

    Args:
        counts: Images by `[true class][predicted class]`, as in `RunFinished.confusion`.
        classes: The class names in that order. Names and counts are written for at most 40 classes. Of more than 200,
            the 40 most confused are drawn, and a line above says so.

    Returns:
        An RGB picture, uint8[H, W, 3]. Up to 200 classes it is as high as wide.
    """
    if len(classes) <= DENSE_MOST:
        return np.asarray(_drawn(counts, range(len(classes)), classes))
    chosen = most_confused(counts, _READABLE)
    said = f"The {len(chosen)} most confused of {len(classes):,} classes." if chosen else ""
    heading = said or f"None of {len(classes):,} classes is confused with another."
    return np.asarray(_under(heading, _drawn(counts, chosen, [classes[label] for label in chosen])))


def _drawn(counts: ConfusionMatrix, chosen: Sequence[int], classes: Sequence[str]) -> Image.Image:
    """Draw the rows and columns of the chosen classes, whose names are `classes`."""
    written = len(classes) <= _READABLE
    cell = _CELL if written else _SMALL_CELL
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..." for name in classes]
    margin = _LETTER * max(map(len, names)) + 12 if written and names else 0
    side = margin + cell * len(classes)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    place = {label: index for index, label in enumerate(chosen)}
    images_of = dict.fromkeys(chosen, 0)
    found: dict[tuple[int, int], int] = {}
    for true, predicted, images in cells_of(counts):
        if true in place:
            # Those predicted as a class that is not drawn count, too: a shade is a share of the whole class.
            images_of[true] += images
            if predicted in place:
                found[true, predicted] = images
    for row, true in enumerate(chosen):
        for column, predicted in enumerate(chosen):
            count = found.get((true, predicted), 0)
            share = count / max(1, images_of[true])
            left, top = margin + column * cell, margin + row * cell
            shade = (round(255 - 215 * share), round(255 - 165 * share), 255)
            draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=shade, outline="lightgray")
            if written and count:
                # Black could not be read on so dark a cell.
                colour = "white" if share > 0.6 else "black"
                draw.text((left + cell / 2, top + cell / 2), str(count), fill=colour, anchor="mm")
    if written:
        _write_names(image, names, margin=margin, cell=cell)
    return image


def _write_names(image: Image.Image, names: Sequence[str], *, margin: int, cell: int) -> None:
    """Write the true classes at the left, and the predicted ones at the top, turned by 90 degrees."""
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        middle = index * cell + cell // 2
        draw.text((margin - 6, margin + middle), name, fill="black", anchor="rm")
        # Pillow draws no turned text, so a picture of the text is turned.
        label = Image.new("RGB", (margin - 6, cell), "white")
        ImageDraw.Draw(label).text((0, cell / 2), name, fill="black", anchor="lm")
        turned = label.transpose(Image.Transpose.ROTATE_90)
        image.paste(turned, (margin + index * cell, 0))


def _under(heading: str, image: Image.Image) -> Image.Image:
    """Put the picture under a line of text, and widen it where the text needs that."""
    rows = "Rows are true classes, columns predicted ones. Images predicted as a class that is not drawn are left out."
    lines = [heading, rows] if image.width else [heading]
    top = _LINE * len(lines) + 6
    whole = Image.new("RGB", (max(image.width, _LETTER * max(map(len, lines)) + 12), top + image.height), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(whole).text((6, _LINE * number + _LINE / 2 + 3), line, fill="black", anchor="lm")
    whole.paste(image, (0, top))
    return whole
