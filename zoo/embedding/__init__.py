"""Vectors of images from a frozen backbone: computed through the cache, written to a file, and compared."""
