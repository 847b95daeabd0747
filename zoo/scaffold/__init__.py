"""`zoo plugins new`: a plugin's package, written from the templates beside this. Nothing here imports torch."""

from zoo.scaffold.naming import Names, check_name
from zoo.scaffold.write import KINDS, write_plugin

__all__ = ["KINDS", "Names", "check_name", "write_plugin"]
