"""Confident learning: which given labels disagree with probabilities that never saw them, and how many are wrong.

Northcutt, Jiang and Chuang (2021), arXiv:1911.00068. An image counts as confidently of a class where its probability is
at least the mean probability that the class gives to the images labelled so. Counted by given and by confident class,
images form the confident joint; what lies beside its diagonal estimates the wrong labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CLOSE = 1e-6
"""Probabilities this close to a threshold reach it, and no threshold is below twice as much."""
_NEVER = 2.0
"""The threshold of a class without images: no probability reaches it."""


def class_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean self-confidence of each class, thresholds[classes]: how probable its own images are to it.

    Args:
        probabilities: probabilities[N, classes], each row by a fit that has not seen that image.
        labels: The given class indices[N].
    """
    own = probabilities.double().gather(1, labels[:, None])[:, 0]
    counts = _counts(labels, probabilities.shape[1])
    means = torch.zeros_like(counts).index_add(0, labels, own) / counts.clamp(min=1)
    return torch.where(counts > 0, means.clamp(min=2 * _CLOSE), _NEVER)


def confident_classes(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Return the class of which each image confidently is, classes[N]; -1 where it is of none.

    Where it reaches the thresholds of several classes, it is the most probable class of all.

    Args:
        probabilities: probabilities[N, classes].
        thresholds: thresholds[classes].
    """
    reaches = probabilities.double() >= thresholds - _CLOSE
    # Of a single class that is reached, argmax of the mask is its index; it need not be the most probable class.
    found = torch.where(reaches.sum(1) > 1, probabilities.argmax(1), reaches.int().argmax(1))
    return torch.where(reaches.any(1), found, -1)


def confident_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return how many images have each given and each confident class, counts[given, confident], float64.

    Args:
        probabilities: probabilities[N, classes], out of sample.
        labels: The given class indices[N].
    """
    classes = probabilities.shape[1]
    found = confident_classes(probabilities, class_thresholds(probabilities, labels))
    known = found >= 0
    pairs = labels[known] * classes + found[known]
    counts = torch.bincount(pairs, minlength=classes * classes).view(classes, classes).double()
    # A class of which nobody is sure is not thereby wrong altogether.
    counts.diagonal().clamp_(min=1)
    return counts


def calibrated(joint: Tensor, labels: Tensor) -> Tensor:
    """Scale the rows of joint[given, confident] so that each sums to the number of images with that given label.

    The sum of all entries is then the number of images, those of which nobody is confident included.

    Args:
        joint: As `confident_joint` counts it.
        labels: The given class indices[N].
    """
    # No row sums to 0, for no entry of the diagonal is below 1.
    return joint / joint.sum(1, keepdim=True) * _counts(labels, len(joint))[:, None]


def wrong_labels(probabilities: Tensor, labels: Tensor) -> float:
    """Estimate how many of the given labels are wrong: what the calibrated joint holds beside its diagonal.

    Args:
        probabilities: probabilities[N, classes], out of sample.
        labels: The given class indices[N].
    """
    joint = calibrated(confident_joint(probabilities, labels), labels)
    return float(joint.sum() - joint.diagonal().sum())


def label_issues(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return which images are counted beside the diagonal of the confident joint, bool[N].

    These are confidently of another class than the given one, and that class is more probable than the given one.

    Args:
        probabilities: probabilities[N, classes], out of sample.
        labels: The given class indices[N].
    """
    found = confident_classes(probabilities, class_thresholds(probabilities, labels))
    return (found >= 0) & (found != labels) & (probabilities.argmax(1) != labels)


def suggested_classes(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the most probable class of each image beside the given one, classes[N].

    Args:
        probabilities: probabilities[N, classes].
        labels: The given class indices[N].
    """
    return _without_given(probabilities, labels).argmax(1)


def label_margins(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return ln(probability of the given class / that of the most probable other one), margins[N], float64.

    Sorted upwards they rank labels, the likeliest to be wrong first. A difference of probabilities hardly tells 0.01
    from 0.0001 for the given class; their ratio does, and found more of the labels that were exchanged on purpose.

    Args:
        probabilities: probabilities[N, classes], out of sample.
        labels: The given class indices[N].
    """
    own = probabilities.double().gather(1, labels[:, None])[:, 0]
    other = _without_given(probabilities, labels).amax(1)
    smallest = torch.finfo(torch.float64).tiny
    return own.clamp(min=smallest).log() - other.clamp(min=smallest).log()


def _without_given(probabilities: Tensor, labels: Tensor) -> Tensor:
    """probabilities[N, classes] with -1 in place of that of the given class."""
    # Below every probability, so that it is the highest of no image.
    return probabilities.double().scatter(1, labels[:, None], -1.0)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """Number of images with each given label, counts[classes], float64."""
    return torch.bincount(labels, minlength=classes).double()
