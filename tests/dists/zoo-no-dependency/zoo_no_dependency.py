"""Needs a package that nobody installed."""

import wavelets_of_nobody
import zoo


def build(shape, classes, options):
    from torch import nn

    return wavelets_of_nobody.Linear(nn.Linear(shape.pooled, classes))


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="wavelet", summary="Never built.", build=build)]
