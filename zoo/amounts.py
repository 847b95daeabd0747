"""Amounts in words."""

from __future__ import annotations


def size(value: float) -> str:
    """`12 kB`, `12 MB`, `1.4 GB`."""
    if value < 100e3:
        return f"{value / 1e3:.{0 if value >= 10e3 else 1}f} kB"
    return f"{value / 1e9:.1f} GB" if value >= 999.5e6 else f"{value / 1e6:.{0 if value >= 10e6 else 1}f} MB"
