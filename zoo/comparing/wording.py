"""How numbers and splits are written, on the terminal and on the page."""

from __future__ import annotations

SPLIT_WORDS = {"test": "test", "val": "validation"}


def points(value: float, *, signed: bool = True) -> str:
    """A share as percentage points: `+1.3`."""
    rounded = round(100 * value, 1) + 0.0  # without the sign of a negative zero
    return f"{rounded:{'+' if signed else ''}.1f}"


def share(value: float) -> str:
    """A share from 0 to 1: `84.3 %`."""
    return f"{100 * value:.1f} %"


def p_text(p: float) -> str:
    """`p = 0.62`, `p = 0.0031`, `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
