"""What to know before training, from probes on cached features: which backbone, which labels, how many images."""
