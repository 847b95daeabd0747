"""Its hook is not marked."""


def zoo_heads():
    return []
