"""What is wrong with a data set: facts of every file, what follows from them, the report."""
