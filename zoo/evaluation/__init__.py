"""Scores of a classifier on one split, from nothing but logits and targets."""
