"""Two runs or more, side by side: what differs between them, and what may be concluded from their results."""
