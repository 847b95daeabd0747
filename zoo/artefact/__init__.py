"""The saved classifier: written whole, read with suspicion, used."""
