"""Prints, then ends the process while it is imported, or tries."""

import sys

print("broken: imported")
sys.exit("no terminal, no command")
