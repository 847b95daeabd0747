"""Measurements that anyone can repeat; what was seen stands in docs/measurements.md."""
