"""A saved classifier in the formats of others, each compared with the original before it is there."""
