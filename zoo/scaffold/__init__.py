"""`zoo plugins new`: writes a plugin package from the templates in this package. Nothing here imports torch."""
