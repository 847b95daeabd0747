"""The report of a finished run (`report.html`): its text, charts, example pictures and Grad-CAM overlays."""
