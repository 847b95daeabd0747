"""A hook that does not exist."""

import zoo


@zoo.hookimpl
def zoo_haeds():
    return []
