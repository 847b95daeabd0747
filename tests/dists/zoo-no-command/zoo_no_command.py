"""A subcommand that is none."""

NUMBER = 3
