"""When a data set is in trouble: one set of numbers for the plan, its warnings and `zoo data check`."""

from __future__ import annotations

UNREADABLE_SHARE = 0.01
"""Of the images; more unreadable ones are a fault of the data."""
FEW_IMAGES = 5
"""Of a class in a split."""
UNEQUAL = 10
"""Times as many images in the largest class as in the smallest."""
