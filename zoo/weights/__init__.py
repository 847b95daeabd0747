"""Pretrained weights: where they are on this machine, how they are fetched, and what is recorded about them."""
