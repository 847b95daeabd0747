"""Its hook returns names instead of specs."""

import zoo


@zoo.hookimpl
def zoo_heads():
    return ["my_head"]
