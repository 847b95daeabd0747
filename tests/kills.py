"""Kill a run again and again at seeded random moments: resumed, it must end with the bytes of an unbroken one.

    python -m tests.kills [--kills 20] [--seed 0]

The first kill comes before anything is trained. When a run ends, another is started, until there are enough kills.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RECIPE = """
summary = "A little of everything that a checkpoint must hold."
[[stages]]
name = "head"
train = ["head"]
epochs = 6
lr = "auto"

[[stages]]
name = "last"
train = ["head", "last:1"]
epochs = 3
lr = 1e-3
ema = 0.8
batch_norm = "adapt"
blend = [0.25, 0.5]

[[stages]]
name = "all"
train = ["all"]
epochs = 3
lr = 1e-3
keep_epoch = "best"
optimizer = "sgd"
l2_sp = 0.01
accumulate = 2
augment = "crop"
blend = [0.5]
"""
_ZOO_SAVING_OFTEN = (
    "import zoo.training.checkpoint as checkpoint; checkpoint.SECONDS_BETWEEN.update(step=0, epoch=0); "
    "from zoo.cli.main import main; main()"
)
"""The command, with a checkpoint after every step."""
_TIMEOUT = 120.0


@dataclass(kw_only=True)
class Killing:
    """Runs that are killed: where they are, and how many kills there were."""

    data: Path
    folder: Path
    backbone: str = "timm/test_resnet"
    kills: list[str] = field(default_factory=list)
    """For each kill, the files that the run folder had by then."""

    def command(self, out: Path, *, before: str = "") -> list[str]:
        """Return the command that starts a run; `before`: code that runs first."""
        recipe = self.folder / "everything.toml"
        if not recipe.exists():
            recipe.write_text(RECIPE, "utf-8")
        options = {"--backbone": self.backbone, "--weights": "random", "--data": self.data, "--recipe": recipe}
        words = [str(word) for option in {**options, "--batch-size": 8, "--out": out}.items() for word in option]
        # Without measuring: a measured precision could differ between runs.
        return [sys.executable, "-c", before + _ZOO_SAVING_OFTEN, "finetune", "--no-tune", *words]

    def resuming(self, run: Path, *, before: str = "") -> list[str]:
        """Return the command that resumes a run; `before`: code that runs first."""
        return [sys.executable, "-c", before + _ZOO_SAVING_OFTEN, "finetune", "--resume", str(run)]

    @property
    def _stderr(self) -> Path:
        """The file with the messages of the last process."""
        return self.folder / "stderr.txt"

    def unbroken(self) -> tuple[str, float]:
        """Do the run without a kill -> SHA-256 of the model, seconds from the plan to the end."""
        run = self.folder / "unbroken"
        process = self._start(self.command(run), run)
        _wait_for(run / "plan.json", process, self._stderr)
        began = time.monotonic()
        assert process.wait(_TIMEOUT) == 0, "the unbroken run failed"
        return digest(run), time.monotonic() - began

    def _start(self, words: Sequence[str], run: Path) -> subprocess.Popen[bytes]:
        """Start a process with a cache of the run's own: cached features would leave little time to be killed in."""
        cache = self.folder / f"cache of {run.name}"
        with self._stderr.open("wb") as file:
            variables = {**os.environ, "ZOO_CACHE_DIR": str(cache)}
            return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file, env=variables)

    def killed_again_and_again(self, name: str, count: int, draw: random.Random, seconds: float) -> str:
        """Start a run, kill and resume it until it ends or there are `count` kills -> SHA-256 of the model."""
        run = self.folder / name
        process = self._start(self.command(run), run)
        _wait_for(run / "plan.json", process, self._stderr)
        while len(self.kills) < count:
            # The very first kill comes before anything is trained.
            delay = 0.0 if not self.kills else draw.uniform(0, 0.7 * seconds)
            try:
                code = process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.kills.append(", ".join(sorted(path.name for path in run.rglob("*") if path.is_file())))
                process = self._start(self.resuming(run), run)
                # The delay counts from when the run is working again.
                _wait_for_change(run / "checkpoint" / "owner.json", process)
                continue
            return _finished(run, code, self._stderr)
        return _finished(run, process.wait(_TIMEOUT), self._stderr)


def digest(run: Path) -> str:
    """Return the SHA-256 of the run's model."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def _finished(run: Path, code: int, messages: Path) -> str:
    # A kill between writing the result and the end leaves a finished run, which cannot be resumed.
    text = messages.read_text("utf-8")
    assert code == 0 or "is finished" in text, f"a resumed run failed: {text}"
    return digest(run)


def _wait_for(path: Path, process: subprocess.Popen[bytes], messages: Path) -> None:
    until = time.monotonic() + _TIMEOUT
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    assert path.exists(), messages.read_text("utf-8")


def _wait_for_change(path: Path, process: subprocess.Popen[bytes]) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    until = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < until:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from tests.numeric import draw_few

    with tempfile.TemporaryDirectory() as folder:
        killing = Killing(data=draw_few(Path(folder) / "data", train=12, val=6), folder=Path(folder))
        expected, seconds = killing.unbroken()
        draw = random.Random(arguments.seed)
        print(f"unbroken: {expected[:16]}, {seconds:.1f} s after the plan")
        runs = 0
        while len(killing.kills) < arguments.kills:
            runs += 1
            made = len(killing.kills)
            sha256 = killing.killed_again_and_again(f"run{runs}", arguments.kills, draw, seconds)
            print(
                f"run {runs}: {len(killing.kills) - made} kills, {'the same bytes' if sha256 == expected else sha256}"
            )
            if sha256 != expected:
                return 1
    print(f"{len(killing.kills)} of {arguments.kills} kills resumed to the same bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
