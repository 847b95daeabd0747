"""What people see: tables and lines on a terminal or as HTML, and the progress of a run, in a notebook too."""
