"""Other ways to do what zoo does, each a process of its own. Nothing here imports zoo."""
