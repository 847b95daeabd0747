"""Export a saved classifier to formats that need no zoo; each is compared with the original before it is kept."""
