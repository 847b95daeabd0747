"""Outputs of frozen layers, computed once and cached: when that pays, where they come from, what a stage trains on."""
