"""Takes its time to be imported, and to be asked."""

import time

import zoo

time.sleep(0.4)


def build(shape, classes, options):
    from torch import nn

    return nn.Linear(shape.pooled, classes)


@zoo.hookimpl
def zoo_heads():
    time.sleep(0.2)
    return [zoo.HeadSpec(name="slow_linear", summary="One linear layer.", build=build)]
