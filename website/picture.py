"""Draw the pictures of the first page from a finished run: python website/picture.py RUN.

The run that they show: zoo finetune --backbone squeezenet1_1 --data flowers5 --seed 0
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH, HEIGHT, SCALE = 1000, 880, 1.4
"""Of the window in pixels; and pixels of the picture for each of them."""
SCHEMES = {"dark": 0, "light": 1}
"""What the browser is told that its reader prefers, as it counts them."""


def draw(report: Path, scheme: str) -> Path:
    """Draw the upper part of a report, as a browser shows it to readers who prefer this scheme."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed.\nNext: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", f"--screenshot={shot}"]
        command += [f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}"]
        subprocess.run([*command, report.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        path = PICTURES / f"report-{scheme}.webp"
        Image.open(shot).convert("RGB").save(path, quality=82, method=6)
    return path


if __name__ == "__main__":
    for scheme in SCHEMES:
        print(draw(Path(sys.argv[1]) / "report.html", scheme))
