"""Raises an error that cannot even be printed."""


class UnspeakableError(BaseException):
    def __str__(self):
        raise ValueError("not even that")


raise UnspeakableError
