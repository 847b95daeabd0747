"""Pretrained weights on this machine: fetched, mirrored, stored, carried over, looked after."""
