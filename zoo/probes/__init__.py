"""Linear probes on cached features: folds, the strength of a penalty, and the fit of one linear layer."""
