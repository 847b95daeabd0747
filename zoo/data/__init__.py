"""Images: found and accounted for, split, decoded, resized once, turned into what the backbone wants."""
