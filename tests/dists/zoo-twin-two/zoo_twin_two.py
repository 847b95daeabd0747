"""An entry-point name that another distribution has."""

import zoo


def build(shape, classes, options):
    from torch import nn

    return nn.Linear(shape.pooled, classes)


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="twin_two", summary="Of the other twin.", build=build)]
