"""Data: images found and listed, split, decoded and resized once, augmented, prepared for the backbone."""
