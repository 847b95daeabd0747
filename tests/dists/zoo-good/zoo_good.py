"""A head that works."""

import zoo


def build(shape, classes, options):
    from torch import nn

    return nn.Linear(shape.pooled, classes)


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="good_linear", summary="One linear layer.", build=build)]
