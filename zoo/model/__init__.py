"""A backbone and a head as one model: building, freezing by groups, adapters, cutting, measuring."""
