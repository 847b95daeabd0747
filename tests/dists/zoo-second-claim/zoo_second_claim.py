"""Claims a head name that another distribution claims."""

import zoo


def build(shape, classes, options):
    from torch import nn

    return nn.Linear(shape.pooled, classes)


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="contested", summary="The second one's.", build=build)]
