"""Groups of copies and near-duplicates, as the check of the data finds them."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image
from zoo.data.check.bands import ALIKE
from zoo.data.check.similar import joined_groups, similar_images
from zoo.data.folder import read_folder
from zoo.data.sample import sample_image


@pytest.mark.parametrize("seed", range(5))
def test_two_are_in_one_group_where_a_chain_of_alike_pictures_joins_them(seed: int) -> None:
    draw = random.Random(seed)
    hashes = [draw.getrandbits(64) for _ in range(8)]
    # Relatives of relatives: each new one differs in up to eight bits from one that is there.
    hashes += [
        draw.choice(hashes) ^ sum(1 << bit for bit in draw.sample(range(64), draw.randint(0, 8))) for _ in range(40)
    ]
    pixels = [draw.choice(["", "", "a", "b", f"own{index}"]) for index in range(len(hashes))]
    known = [None if draw.random() < 0.1 else value for value in hashes]
    groups = joined_groups(pixels, known)
    joined = {index: {index} for index in range(len(hashes))}
    for one, other in combinations(range(len(hashes)), 2):
        left, right = known[one], known[other]
        near = left is not None and right is not None and (left ^ right).bit_count() <= ALIKE
        if near or (pixels[one] and pixels[one] == pixels[other]):
            union = joined[one] | joined[other]
            joined |= dict.fromkeys(union, union)
    for one, other in combinations(range(len(hashes)), 2):
        assert (groups[one] == groups[other]) == (other in joined[one])
    assert sorted(set(groups)) == list(range(max(groups) + 1))


def test_a_smaller_copy_is_in_the_group_of_its_original_and_what_cannot_be_read_is_alone(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                sample_image(index, 2, split, number).save(tmp_path / split / name / f"{number}.png")
    with Image.open(tmp_path / "train" / "a" / "0.png") as picture:
        picture.convert("RGB").resize((120, 120)).save(tmp_path / "train" / "b" / "small.jpg", quality=80)
    (tmp_path / "train" / "a" / "broken.png").write_bytes(b"no picture")
    files = read_folder(tmp_path, seed=0).splits["train"]
    seen: list[tuple[int, int]] = []
    groups = dict(
        zip([file.relative for file in files], similar_images(files, progress=lambda *at: seen.append(at)), strict=True)
    )
    assert groups["train/a/0.png"] == groups["train/b/small.jpg"] != groups["train/a/broken.png"]
    assert list(groups.values()).count(groups["train/a/broken.png"]) == 1
    assert seen[-1] == (len(files), len(files))
