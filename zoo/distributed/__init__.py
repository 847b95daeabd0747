"""Several processes that carry out one run: who this one is, what the others have, what becomes of one that ends."""
