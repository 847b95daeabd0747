"""A saved classifier behind HTTP: a page to try it, and answers for programs."""
