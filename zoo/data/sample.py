"""The sample set: small generated images, so that the first command works on any machine.

Classes differ in shape, texture and colour. Position, size, angle, background, brightness and noise vary within a
class, so that there is something to learn. The same numbers give the same pixels on every machine.
"""

from __future__ import annotations

import colorsys
import contextlib
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zoo.errors import DataError, OptionError
from zoo.storage.cache import VARIABLE
from zoo.storage.eviction import SAMPLE_HOLD
from zoo.storage.in_use import Hold

MIN_CLASSES, MAX_CLASSES = 2, 20
TRAIN_PER_CLASS, VAL_PER_CLASS = 20, 10
VERSION = 1
"""Part of the folder's name and of every seed: other pixels need another version."""

_SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "hexagon", "crescent", "bar", "heart")
_TEXTURES = ("plain", "striped", "dotted", "checked")
_WIDTH, _HEIGHT = 208, 176
_HELD: dict[Path, Hold] = {}


def sample_classes(count: int) -> tuple[str, ...]:
    """The class names of a sample set with `count` classes, such as `plain-disc`. Raises OptionError if not 2 to 20."""
    if not MIN_CLASSES <= count <= MAX_CLASSES:
        raise OptionError(
            f"The generated sample set has {MIN_CLASSES} to {MAX_CLASSES} classes, --classes asks for {count}.\n"
            "Next: choose a number in that range, or give your own images with --data PATH."
        )
    return tuple(
        f"{_TEXTURES[(index + index // len(_SHAPES)) % len(_TEXTURES)]}-{_SHAPES[index % len(_SHAPES)]}"
        for index in range(count)
    )


def sample_folder(cache: Path, count: int, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """The folder with the sample set of `count` classes below `cache`; it is written if it does not exist yet.

    Raises OptionError if `count` is not 2 to 20, DataError if the folder cannot be written.
    """
    names = sample_classes(count)
    folder = cache / "sample" / f"v{VERSION}-{count}-classes"
    _hold(cache / SAMPLE_HOLD)
    if os.path.isdir(folder):
        return folder
    # Drawn in a folder of its own and renamed when it is complete, so that an interruption leaves no partial set.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        try:
            _draw(draft, names, progress)
            # `mkdtemp` makes folders that only their owner can enter, and a cache may be shared.
            draft.chmod(0o755)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not os.path.isdir(folder):  # else another process was faster, and its pictures are the same
            raise DataError(
                f"The generated sample set cannot be written to {folder}: {error.strerror or error}.\n"
                f"Next: set {VARIABLE} to a folder that can be written to, or give your own images with --data PATH."
            ) from None
    return folder


def _hold(folder: Path) -> None:
    """Keep `zoo cache clear` of other processes from removing sample sets as long as this one runs."""
    # Where nothing can be locked, nothing tells that they are in use.
    with contextlib.suppress(OSError):
        if folder not in _HELD:
            _HELD[folder] = Hold(folder)


def _draw(folder: Path, names: tuple[str, ...], progress: Callable[[int, int], None]) -> None:
    total = len(names) * (TRAIN_PER_CLASS + VAL_PER_CLASS)
    done = 0
    for index, name in enumerate(names):
        for split, images in (("train", TRAIN_PER_CLASS), ("val", VAL_PER_CLASS)):
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                image = sample_image(index, len(names), split, number)
                image.save(folder / split / name / f"{number:03d}.jpg", quality=92)
                done += 1
                progress(done, total)


def sample_image(index: int, count: int, split: str, number: int) -> Image.Image:
    """Picture `number` of class `index` of `count` in a split: RGB, 208 x 176 pixels."""
    # One generator for each picture: how many there are of a class changes none of them.
    generator = random.Random(f"sample/{VERSION}/{index}/{split}/{number}")
    noise = np.random.Generator(np.random.PCG64(generator.getrandbits(64)))
    image = _background(generator, noise)
    mask = _shape(_SHAPES[index % len(_SHAPES)], generator)
    texture = _TEXTURES[(index + index // len(_SHAPES)) % len(_TEXTURES)]
    image.paste(_textured(texture, index / count, generator), mask=mask)
    pixels = np.asarray(image, dtype=np.float32) * generator.uniform(0.75, 1.15)
    pixels += noise.normal(0, generator.uniform(4, 14), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _background(generator: random.Random, noise: np.random.Generator) -> Image.Image:
    coarse = noise.uniform(90, 200, (5, 6, 1)) + noise.uniform(-25, 25, (5, 6, 3))
    image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(
        (_WIDTH, _HEIGHT), Image.Resampling.BICUBIC
    )
    return image.filter(ImageFilter.GaussianBlur(generator.uniform(0, 3)))


def _textured(texture: str, hue: float, generator: random.Random) -> Image.Image:
    hue = (hue + generator.gauss(0, 0.02)) % 1
    strong = _rgb(hue, generator.uniform(0.55, 0.95), generator.uniform(0.6, 0.95))
    weak = _rgb(hue, 0.35, 0.35)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), strong)
    canvas = ImageDraw.Draw(image)
    step = generator.randint(12, 18)
    if texture == "striped":
        for x in range(0, _WIDTH, step):
            canvas.rectangle((x, 0, x + step // 2, _HEIGHT), fill=weak)
    elif texture == "dotted":
        for x in range(0, _WIDTH, step):
            for y in range(0, _HEIGHT, step):
                canvas.ellipse((x, y, x + step // 2, y + step // 2), fill=weak)
    elif texture == "checked":
        for x in range(0, _WIDTH, step):
            for y in range((x // step % 2) * step, _HEIGHT, 2 * step):
                canvas.rectangle((x, y, x + step, y + step), fill=weak)
    return image


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shape(shape: str, generator: random.Random) -> Image.Image:
    mask = Image.new("L", (_WIDTH, _HEIGHT), 0)
    canvas = ImageDraw.Draw(mask)
    radius = generator.uniform(38, 62)
    x, y = generator.uniform(70, _WIDTH - 70), generator.uniform(64, _HEIGHT - 64)
    angle = generator.uniform(-0.5, 0.5)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape in ("disc", "ring", "crescent"):
        canvas.ellipse(box, fill=255)
        inner = 0.55 * radius
        if shape == "ring":
            canvas.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
        elif shape == "crescent":
            canvas.ellipse((x - inner, y - radius, x + 2 * radius - inner, y + radius), fill=0)
    else:
        canvas.polygon([_turned(point, x, y, radius, angle) for point in _outline(shape)], fill=255)
    return mask


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin."""
    if shape == "cross":
        arm = 0.3
        return [
            *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
            *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
        ]
    if shape == "bar":
        return [(-1.1, -0.35), (1.1, -0.35), (1.1, 0.35), (-1.1, 0.35)]
    if shape == "heart":
        steps = [2 * math.pi * step / 40 for step in range(40)]
        return [
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
            for t in steps
        ]
    corners = {"square": 4, "triangle": 3, "star": 10, "hexagon": 6}[shape]
    lengths = [0.45 if shape == "star" and corner % 2 else 1.0 for corner in range(corners)]
    turn = math.pi / 4 if shape == "square" else -math.pi / 2
    return [
        (
            length * math.cos(turn + 2 * math.pi * corner / corners),
            length * math.sin(turn + 2 * math.pi * corner / corners),
        )
        for corner, length in enumerate(lengths)
    ]


def _turned(point: tuple[float, float], x: float, y: float, radius: float, angle: float) -> tuple[float, float]:
    across, down = point
    return (
        x + radius * (across * math.cos(angle) - down * math.sin(angle)),
        y + radius * (across * math.sin(angle) + down * math.cos(angle)),
    )
