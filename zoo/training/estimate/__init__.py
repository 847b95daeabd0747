"""Estimate of a plan's time and memory: measure a few real steps, add them up."""
