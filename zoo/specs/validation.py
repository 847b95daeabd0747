"""Checks that the specs share: names, callables, tuples of text."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
"""Of providers, architectures, heads, recipes, observers and data sources."""
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""Of weights."""


def check_name(kind: str, name: object, pattern: re.Pattern[str]) -> None:
    """Raise ValueError for a name that does not match the pattern."""
    if not isinstance(name, str) or not pattern.fullmatch(name):
        signs = "'_', '-' and '.'" if pattern is TAG else "'_' and '-'"
        raise ValueError(f"{name!r} is no {kind} name: letters, digits, {signs}, a letter or digit first")


def fit_name(text: str) -> str:
    """A text made fit for the rules of names: `<lambda>` becomes `lambda`, and a text without any letter `object`."""
    return re.sub(r"[^A-Za-z0-9_\-]+", "-", text).strip("-_") or "object"


def check_callables(spec: object, *fields: str) -> None:
    """Raise TypeError for a field that cannot be called."""
    for field in fields:
        if not callable(getattr(spec, field)):
            raise TypeError(f"{field} of {spec!r} must be callable")


def check_texts(field: str, texts: object) -> None:
    """Raise TypeError for anything but a tuple of strings."""
    # A lone string would pass for its letters.
    if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{field} must be a tuple of strings, got {texts!r}")
