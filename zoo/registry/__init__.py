"""Who offers what: plugins found, loaded one by one, and what their names mean. Nothing here imports torch."""
