"""How a notebook shows a record: drawn by a module that lies above the record and registers here.

A record's `_repr_html_` asks `drawn`. Whoever makes records of a kind imports what draws them.
"""

from __future__ import annotations

import functools


@functools.singledispatch
def drawn(record: object) -> str | None:
    """The record as HTML. None for a kind that nothing draws in this process: a notebook shows its text then."""
    return None
