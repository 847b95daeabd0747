"""`report.html`: what came out of a run, on one page."""
