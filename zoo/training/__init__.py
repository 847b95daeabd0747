"""A plan carried out: features, stages, selection, proof, result."""
