"""Write the page of a check of labels: each suspect beside its nearest neighbours of the given and suggested class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.advice.label_check import JudgedLabels, LabelCheck
from zoo.advice.suspects import Suspect
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.errors import DataError
from zoo.events import Progress, Report
from zoo.reporting.examples import data_uri
from zoo.reporting.page import environment, styles

SHOWN = 60
"""Most suspects on the page, about 40 kB each. suspects.csv lists all."""
NEIGHBOURS = 2
"""Of each of the two classes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the page shows it."""

    file: str
    uri: str
    """A `data:` address; empty where the image can no longer be read."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A suspect with its neighbours."""

    suspect: Suspect
    picture: Picture
    of_given: tuple[Picture, ...]
    of_suggested: tuple[Picture, ...]


def render(check: LabelCheck, judged: JudgedLabels, report: Report) -> str:
    """The page as HTML that loads nothing from outside. The same check gives the same text."""
    rows = judged.ranked[:SHOWN]
    # One image may be the neighbour of several suspects, and is decoded once.
    pictures: dict[int, Picture] = {}

    def picture(row: int) -> Picture:
        if row not in pictures:
            pictures[row] = _picture(judged.files[row])
        return pictures[row]

    shown = []
    pulled = directions(judged.features)
    # Rows and suspects are in one order; of the suspects there may be more than the page shows.
    for number, (row, suspect) in enumerate(zip(rows, check.suspects, strict=False), start=1):
        given, suggested = (
            tuple(picture(each) for each in nearest_of_class(judged, pulled, row, int(label)))
            for label in (judged.labels[row], judged.suggested[row])
        )
        shown.append(Shown(suspect, picture(row), given, suggested))
        report(Progress(task="draw page", done=number, total=len(rows), unit="suspects"))
    templates = environment("zoo.advice")
    return templates.get_template("labels.html").render(css=styles(templates), check=check, shown=shown)


def directions(features: Tensor) -> Tensor:
    """Centre features[N, F] and scale every row to length 1, so that products of rows are cosines -> [N, F]."""
    return torch.nn.functional.normalize(features.double() - features.double().mean(0), dim=1)


def nearest_of_class(judged: JudgedLabels, pulled: Tensor, row: int, label: int) -> list[int]:
    """Return the rows of the images labelled `label` that are nearest to an image, neither itself nor its copies.

    Images whose own label confident learning counts as wrong come after all others, for they show another class.

    Args:
        judged: The images.
        pulled: directions[N, F] of them, as `directions` makes them.
        row: The image.
        label: The class.
    """
    # Cosines lie between -1 and 1, so 4 less is behind all of them.
    near = pulled @ pulled[row] - 4.0 * judged.issues
    others = torch.tensor([group != judged.groups[row] for group in judged.groups]) & (judged.labels == label)
    near[~others] = -torch.inf
    # A class may have fewer other images than are asked for; those at minus infinity fall out again.
    ranked = torch.sort(near, descending=True, stable=True).indices[:NEIGHBOURS]
    return [each for each in ranked.tolist() if others[each]]


def _picture(file: ImageFile) -> Picture:
    try:
        return Picture(file.relative, data_uri(decode(file.content(), name=file.relative)))
    except DataError:
        return Picture(file.relative, "")
