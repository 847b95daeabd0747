"""Very many files in, Parquet parts out: predictions and vectors, in this process or by the workers of a Ray."""
