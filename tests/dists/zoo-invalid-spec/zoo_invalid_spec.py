"""A head whose options cannot be."""

from dataclasses import dataclass

import zoo


@dataclass
class Options:
    p: float = 0.5


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="thawed", summary="Never built.", build=print, options=Options)]
