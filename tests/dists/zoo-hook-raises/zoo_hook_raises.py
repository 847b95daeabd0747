"""Its hook raises."""

import zoo


@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(**{}["settings"])]
