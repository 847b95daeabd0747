"""Test-time views: a saved classifier judges several views of an image, and its probabilities are averaged.

Each view is one more pass. The mean is taken of probabilities, after the softmax, as Krizhevsky et al. 2012 (ten crops,
doi:10.1145/3065386) and Simonyan and Zisserman 2015 (mirrored images, arXiv:1409.1556) do. Logits have no common scale,
so in their mean one confident view can outvote the others. What views bring differs between models and data, and they
also turn right answers into wrong ones (Shanmugam et al. 2021, arXiv:2011.11156), so `zoo evaluate` measures both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from zoo.errors import OptionError, Refused, meant
from zoo.specs.preprocessing import Preprocessing
from zoo.text import folded, some

Views = Literal["flip", "five"]
"""`flip`: the image and its mirror image. `five`: the crop in the centre and those in the four corners."""
PASSES: dict[Views, int] = {"flip": 2, "five": 5}
"""How many views there are, the plain one included, which comes first."""
_SIDES = (
    *(("left", "right"), ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"), ("sinistra", "destra")),
    *(("counterclockwise", "clockwise"), ("anticlockwise", "clockwise")),
)
_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def passes(views: Views | None) -> int:
    """How many images the model sees for each one; 1 without views."""
    return 1 if views is None else PASSES[views]


def check_views(asked: str | None) -> Views | None:
    """The views that are asked for; None where none are. Raises OptionError for an unknown name."""
    if asked is None:
        return None
    for views in PASSES:
        if asked == views:
            return views
    # What other libraries call them, which no likeness of letters leads to.
    also = {"hflip": "flip", "mirror": "flip", "tta": "flip", "fivecrop": "five", "5": "five", "crops": "five"}
    close = also.get(str(asked).lower().replace("-", "").replace("_", ""))
    hint = f" Did you mean {close!r}?" if close else meant(str(asked), PASSES, count=1)
    raise OptionError(
        f"--views {asked!r} is not one of {', '.join(PASSES)}.{hint}\n"
        "Next: flip, the image and its mirror image; five, the centre and four corners; or leave --views out."
    )


def refuse_views(views: Views, classes: Sequence[str], preprocessing: Preprocessing) -> None:
    """Raise Refused where views make no sense: mirroring turns a class into another one, or all crops are the same."""
    if views == "five" and _one_crop(preprocessing):
        _, height, width = preprocessing.input_size
        raise Refused(
            f"--views five takes crops of the resized image, and this classifier resizes images to {height}x{width} "
            "and crops nothing: all five would be the same.\nNext: --views flip, or leave --views out."
        )
    pair = _mirrored_pair(classes) if views == "flip" else None
    if pair is not None:
        otherwise = "leave --views out" if _one_crop(preprocessing) else "--views five, which mirrors nothing"
        raise Refused(
            f"--views flip mirrors images, and the mirror image of {pair[0]!r} is {pair[1]!r}, another class.\n"
            f"Next: {otherwise}."
        )


def doubt(views: Views, classes: Sequence[str]) -> str:
    """A warning where the name of a class says that mirroring may change it; empty where none does."""
    named = [name for name in classes if views == "flip" and _names_a_side(name)]
    if not named:
        return ""
    return (
        f"--views flip mirrors images, and class names speak of sides: {some(named, 4)}. If the mirror image of one is "
        "another class, the predictions are worse. zoo evaluate --views flip measures it."
    )


def _one_crop(preprocessing: Preprocessing) -> bool:
    """Whether the resized image is never larger than the crop."""
    _, height, width = preprocessing.input_size
    fits = preprocessing.resize_size[0] <= height and preprocessing.resize_size[1] <= width
    return preprocessing.resize in ("exact", "longest") and fits


def _mirrored_pair(classes: Sequence[str]) -> tuple[str, str] | None:
    """Two classes that differ in the side they name alone; None where there are none."""
    # Folded, so that a side is found however it is written.
    known = {folded(name): name for name in classes}
    for name in classes:
        for one, other in _SIDES:
            for word, instead in ((one, other), (other, one)):
                mirrored = known.get(re.sub(word, instead, folded(name)))
                if mirrored is not None and mirrored != name:
                    return name, mirrored
    return None


def _names_a_side(name: str) -> bool:
    words = [word.lower() for part in _WORD.findall(name) for word in _BETWEEN_WORDS.split(part)]
    # Also as the beginning of a word: `leftmost`, `linksabbieger`.
    return any(word.startswith(side) for word in words for pair in _SIDES for side in pair)
