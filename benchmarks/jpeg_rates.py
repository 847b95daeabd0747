"""How many JPEGs a second a processor decodes, and a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from zoo.data.decode import decode

from benchmarks.fixed_batch import median_seconds


def cpu_rate(files: Sequence[Path], seconds: float) -> float:
    """Images a second as zoo decodes them, on all cores."""
    contents = [path.read_bytes() for path in files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def work() -> None:
            for _ in pool.map(lambda content: decode(content, name="a picture"), contents):
                pass

        return len(contents) / median_seconds(work, seconds)


def gpu_rate(files: Sequence[Path], seconds: float, device: str = "cuda") -> float:
    """Images a second through nvJPEG, by torchvision. Its pixels differ from those of the CPU by rounding.

    Raises RuntimeError where this torchvision has no nvJPEG, or there is no GPU.
    """
    from torchvision.io import decode_jpeg

    contents = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files]

    def work() -> None:
        decode_jpeg(contents, device=device)
        torch.cuda.synchronize(device)

    return len(contents) / median_seconds(work, seconds)
