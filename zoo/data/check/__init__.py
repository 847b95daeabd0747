"""Check a data set: facts of every file, the findings that follow from them, the report."""
