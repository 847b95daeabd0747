"""Crops and RandAugment: torchvision's bit for bit, with draws that depend on a key alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor
from torchvision.transforms import v2
from zoo.data.augment import SPACE, Draw, Operation, apply_draw, apply_operation, draw, draw_operations

EVERY = [Operation(name, negative) for name, entry in SPACE.items() for negative in {False, entry.signed}]


def picture(height: int, width: int) -> Tensor:
    """Gradients and noise that fill only a part of the range, so that every operation has something to do."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 60, (3, height, width), generator=generator)
    rows = torch.linspace(30, 150, height).view(1, height, 1)
    return (noise + rows + torch.tensor([0, 10, 25]).view(3, 1, 1)).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "fill"), [((32, 32), (0, 0, 0)), ((40, 56), (124, 116, 104)), ((57, 33), (255, 0, 9))]
)
def test_each_operation_is_one_of_torchvisions_bit_for_bit_and_none_is_missing(
    size: tuple[int, int], fill: tuple[int, int, int]
) -> None:
    pixels = picture(*size)
    theirs = v2.RandAugment(num_ops=1, magnitude=9, fill=list(fill))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = {theirs(pixels).numpy().tobytes() for _ in range(500)}
    ours = {apply_operation(pixels, operation, fill=fill).numpy().tobytes() for operation in EVERY}
    assert ours == drawn and len(EVERY) == len(ours) == 23


def test_crops_are_those_of_torchvisions_transforms_v2_bit_for_bit() -> None:
    preprocessing = zoo.Preprocessing(input_size=(3, 48, 64), resize_size=(60, 60), mean=(0.0,) * 3, std=(1.0,) * 3)
    for number in range(20):
        pixels = picture(60 + number, 90 - number)
        drawn = draw("crop", *pixels.shape[-2:], key=str(number), shape=64 / 48)
        assert drawn.box is not None
        theirs = v2.functional.resized_crop(pixels, *drawn.box, size=[48, 64], antialias=True)
        if drawn.mirror:
            theirs = theirs.flip(-1)
        expected = theirs.to(torch.float32) / 255
        assert torch.equal(apply_draw(pixels, drawn, preprocessing), expected)
        # However the picture lies in memory.
        stored = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert torch.equal(apply_draw(stored, drawn, preprocessing), expected)


@pytest.mark.long
def test_crops_are_the_same_on_any_processor() -> None:
    code = (
        "import hashlib, torch, zoo; from zoo.data.augment import Draw, apply_draw\n"
        "pixels = (torch.arange(3 * 97 * 131) * 7919 % 251).view(97, 131, 3).to(torch.uint8).permute(2, 0, 1)\n"
        "sizes = zoo.Preprocessing(input_size=(3, 64, 64), resize_size=(90, 90), mean=(0.0,) * 3, std=(1.0,) * 3)\n"
        "crop = apply_draw(pixels, Draw((5, 7, 80, 100), False), sizes)\n"
        "print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(crop.numpy().tobytes()).hexdigest())"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for environment in (dict(os.environ), {**os.environ, "ATEN_CPU_CAPABILITY": "default"})
    ]
    (_, here), (least, there) = (each.split() for each in said)
    assert least == "DEFAULT" and here == there


def test_operations_are_drawn_with_equal_chance_and_to_both_sides() -> None:
    generator = random.Random(0)
    drawn = [operation for _ in range(7000) for operation in draw_operations(generator)]
    names = Counter(operation.name for operation in drawn)
    assert set(names) == set(SPACE) and all(880 < count < 1120 for count in names.values())
    for name, entry in SPACE.items():
        negative = sum(operation.negative for operation in drawn if operation.name == name)
        assert 0.44 < negative / names[name] < 0.56 if entry.signed else negative == 0


def test_crop_and_mirror_are_those_of_crop_and_two_operations_follow() -> None:
    for number in range(200):
        cropped, rand = (draw(kind, 60, 80, key=str(number)) for kind in ("crop", "rand"))
        assert (rand.box, rand.mirror) == (cropped.box, cropped.mirror)
        assert cropped.operations == () and len(rand.operations) == 2


def test_draws_stay_what_they_were() -> None:
    """A run resumes with the draws of the interrupted one, whatever was upgraded in between."""
    drawn = draw("rand", 256, 341, key="0/head/3/ants/1.jpg")
    assert drawn == Draw((2, 16, 246, 325), False, (Operation("posterize"), Operation("rotate")))


def test_operations_change_the_cropped_image_one_after_the_other() -> None:
    preprocessing = zoo.Preprocessing(
        input_size=(3, 24, 24), resize_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, fill=(255, 0, 0)
    )
    pixels, first, second = picture(32, 40), Operation("translate_x"), Operation("posterize")
    seen = apply_draw(pixels, Draw((2, 3, 24, 24), True), preprocessing)
    changed = apply_draw(pixels, Draw((2, 3, 24, 24), True, (first, second)), preprocessing)
    # 9/30 of 150/331 of 24 pixels, rounded down.
    assert torch.equal(changed[:, :, :3], torch.tensor([254 / 255, 0, 0]).view(3, 1, 1).expand(3, 24, 3))
    kept = (seen[:, :, :-3] * 255).round().to(torch.uint8) & 254
    assert torch.equal((changed[:, :, 3:] * 255).round().to(torch.uint8), kept)


def test_a_run_with_it_is_the_same_for_any_number_of_workers(few: Path, tmp_path: Path) -> None:
    states = []
    for workers in (1, 3):
        result = zoo.finetune(
            backbone="timm/test_vit",
            weights="random",
            recipe="full",
            epochs=1,
            data=few,
            out=tmp_path / str(workers),
            set=["all.augment=rand"],
            workers=workers,
        )
        assert result.proof == "passed"
        states.append(zoo.load(result.path).model.state_dict())
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
