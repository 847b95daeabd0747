"""Every choice of a run resolved before anything runs."""
