"""Model soups: the average of the weights of runs that began from the same head (arXiv:2203.05482)."""
