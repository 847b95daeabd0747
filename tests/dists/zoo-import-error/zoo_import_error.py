"""Raises while it is imported."""

import zoo

raise RuntimeError(f"no licence key for {zoo.HeadSpec.__name__}")
