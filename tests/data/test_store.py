"""The image store: images decoded once, in batches that depend only on the files, the order and the key."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from torch import Tensor
from zoo.data import store as store_module
from zoo.data.augment import Draw, apply_draw, draw
from zoo.data.dataset import ImageFile
from zoo.data.decode import read_image
from zoo.data.decoded import DecodedFiles
from zoo.data.spool import Spool
from zoo.data.store import ImageStore
from zoo.data.transform import transform
from zoo.errors import DataError
from zoo.specs.recipe import Augment

Store = Callable[..., ImageStore]

PREPROCESSING = zoo.Preprocessing(
    input_size=(3, 32, 32), resize_size=(40, 40), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
ORDER = [[3, 1, 4], [1, 5, 9], [2, 6, 5], [8]]
KINDS: tuple[Augment, ...] = ("none", "flip", "crop", "rand")


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    """Noise of many sizes: another crop, mirror or image has other values."""
    every = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (50 + 7 * number, 120 - 5 * number, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise).save(path)
        every.append(ImageFile(path, f"a/{number}.png", 0))
    return every


@pytest.fixture
def open_store() -> Iterator[Store]:
    with contextlib.ExitStack() as stack:

        def make(workers: int = 2, **options: int | None) -> ImageStore:
            return stack.enter_context(contextlib.closing(ImageStore(PREPROCESSING, workers=workers, **options)))

        yield make


def examine(store: ImageStore, files: list[ImageFile]) -> tuple[dict[str, str], dict[str, str]]:
    return store.examine(files, progress=lambda done: None)


def training(store: ImageStore, files: list[ImageFile], *, augment: Augment = "crop", key: str = "0/1/2") -> Tensor:
    return torch.cat(list(store.training_batches(files, ORDER, augment=augment, key=key)))


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("zoo-decode")]


def test_batches_hold_every_image_in_order(files: list[ImageFile], open_store: Store) -> None:
    store = open_store()
    examine(store, files)
    batches = list(store.batches(files, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    expected = torch.stack([transform(read_image(file.path), PREPROCESSING) for file in files])
    assert torch.equal(torch.cat(batches), expected)


@pytest.mark.parametrize("augment", KINDS)
def test_neither_workers_nor_memory_change_a_bit(files: list[ImageFile], open_store: Store, augment: Augment) -> None:
    expected = training(open_store(workers=1), files, augment=augment)
    for workers, budget, disk in ((1, 1 << 30, 0), (4, 0, 0), (3, 30_000, 0), (4, 0, 1 << 30), (3, 9_000, 40_000)):
        store = open_store(workers=workers, budget=budget, disk_budget=disk)
        examine(store, files)
        assert torch.equal(training(store, files, augment=augment), expected)
        assert torch.equal(training(store, files, augment=augment), expected)


def test_torchs_generator_is_neither_used_nor_changed(files: list[ImageFile], open_store: Store) -> None:
    store = open_store()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = training(store, files)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(training(store, files), first)


def test_an_image_is_drawn_for_itself_whatever_its_batch(files: list[ImageFile], open_store: Store) -> None:
    store = open_store()
    together = training(store, files)
    (alone,) = store.training_batches(files[4:5], [[0]], augment="crop", key="0/1/2")
    assert torch.equal(alone[0], together[2])
    assert torch.equal(together[1], together[3])  # index 1 twice under one key


def test_every_image_of_a_batch_has_its_own_draw(files: list[ImageFile], open_store: Store) -> None:
    twins = [ImageFile(files[0].path, f"a/{number}.png", 0) for number in range(8)]
    (batch,) = open_store().training_batches(twins, [range(8)], augment="crop", key="0/1/2")
    assert len({image.numpy().tobytes() for image in batch}) == 8


def test_another_key_draws_anew(files: list[ImageFile], open_store: Store) -> None:
    store = open_store()
    assert not torch.equal(training(store, files, key="0/1/2"), training(store, files, key="0/1/3"))
    unchanged = training(store, files, augment="none", key="0/1/2")
    assert torch.equal(unchanged, training(store, files, augment="none", key="0/1/3"))
    assert torch.equal(unchanged[0], transform(read_image(files[3].path), PREPROCESSING))


# Draws


def test_boxes_lie_inside_the_picture_and_fill_a_third_of_it_or_more() -> None:
    sizes = [(40, 40), (40, 53), (60, 40), (224, 300), (1, 1), (2, 3), (600, 40), (30, 2000)]
    for height, width in sizes:
        for number in range(300):
            box = draw("crop", height, width, key=f"{number}").box
            assert box is not None
            top, left, high, wide = box
            assert 0 <= top <= top + high <= height and 0 <= left <= left + wide <= width
            assert high > 0 and wide > 0
            if min(height, width) >= 40 and max(height, width) <= 300:
                assert 0.33 <= high * wide / (height * width) <= 1
                assert 0.7 <= wide / high <= 1.4


def test_boxes_reach_every_side() -> None:
    boxes = [box for n in range(500) if (box := draw("crop", 100, 100, key=str(n)).box)]
    assert min(top for top, *_ in boxes) == 0 == min(left for _, left, *_ in boxes)
    assert max(top + high for top, _, high, _ in boxes) == 100 == max(left + wide for _, left, _, wide in boxes)
    assert len(set(boxes)) > 400


@pytest.mark.parametrize("kind", ["flip", "crop"])
def test_half_of_the_pictures_are_mirrored(kind: Augment) -> None:
    mirrored = sum(draw(kind, 40, 40, key=f"0/head/0/{number}.jpg").mirror for number in range(2000))
    assert 900 < mirrored < 1100


def test_without_augmentation_nothing_is_drawn() -> None:
    assert all(draw("none", 40, 50, key=str(number)) == Draw(None, False) for number in range(50))


def test_draws_stay_what_they_were() -> None:
    """A run resumes with the draws of the interrupted one, whatever was upgraded in between."""
    assert draw("crop", 256, 341, key="0/head/3/ants/1.jpg") == Draw((2, 16, 246, 325), False)


def test_the_box_is_what_is_seen_and_the_mirror_turns_it() -> None:
    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
    pixels[:, 10:20, 30:36] = 255
    pixels[:, 10:20, 36:40] = 51
    plain = zoo.Preprocessing(input_size=(3, 10, 10), resize_size=(40, 40), mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = apply_draw(pixels, Draw((10, 30, 10, 10), False), plain)
    assert torch.equal(seen[0, 0], torch.tensor([1.0] * 6 + [0.2] * 4))
    assert torch.equal(apply_draw(pixels, Draw((10, 30, 10, 10), True), plain), seen.flip(-1))
    assert apply_draw(pixels, Draw((0, 0, 40, 60), False), plain).shape == (3, 10, 10)


# Examining


def test_examining_gives_digests_and_what_is_wrong(files: list[ImageFile], open_store: Store, tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"no picture", "half": files[0].path.read_bytes()[:2000], "a: b": b"text"}
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    damaged = [ImageFile(tmp_path / f"{name}.jpg", f"a/{name}.jpg", 1) for name in contents]
    gone = ImageFile(tmp_path / "gone.jpg", "a/gone.jpg", 1)
    counted: list[int] = []
    digests, faults = open_store().examine([*files, *damaged, gone], progress=counted.append)
    assert counted == list(range(1, 18))
    for file in (*files, *damaged):
        assert digests[file.relative] == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert digests["a/gone.jpg"] == ""
    assert "truncated" in faults.pop("a/half.jpg")
    assert faults == {
        "a/empty.jpg": "the file is empty",
        "a/text.jpg": "not an image that can be read",
        "a/a: b.jpg": "not an image that can be read",
        "a/gone.jpg": "No such file or directory",
    }


def test_a_line_of_pixels_is_a_fault_and_no_end_of_memory(open_store: Store, tmp_path: Path) -> None:
    Image.new("1", (1, 200_000)).save(tmp_path / "line.png")
    line = ImageFile(tmp_path / "line.png", "a/line.png", 0)
    store = open_store()
    _, faults = examine(store, [line])
    assert faults["a/line.png"].startswith("1 x 200000 pixels are too narrow")
    with pytest.raises(DataError, match=r"^a/line\.png: 1 x 200000 pixels"):
        store.resized(line)


def cached(store: ImageStore, files: list[ImageFile]) -> list[ImageFile]:
    """The images that are in the cache: the store has them although their files are gone."""
    for file in files:
        file.path.rename(file.path.with_suffix(".away"))
    present = []
    for file in files:
        with contextlib.suppress(DataError):
            store.resized(file)
            present.append(file)
    for file in files:
        file.path.with_suffix(".away").rename(file.path)
    return present


@pytest.mark.parametrize("budget", [0, 4_000, 30_000, 60_000, 1 << 30])
def test_memory_stays_within_the_budget(files: list[ImageFile], open_store: Store, budget: int) -> None:
    store = open_store(workers=8, budget=budget)
    examine(store, files)
    sizes = {file.relative: store.resized(file).numel() for file in files}
    held = cached(store, files)
    assert sum(sizes[file.relative] for file in held) <= budget
    left = [size for name, size in sizes.items() if name not in {file.relative for file in held}]
    assert budget - sum(sizes[file.relative] for file in held) < min(left, default=1 << 31)


def test_what_is_examined_again_takes_no_more_memory(files: list[ImageFile], open_store: Store) -> None:
    needed = sum(open_store().resized(file).numel() for file in files)
    store = open_store(budget=needed)
    for some in (files[:5], files[:5], files):
        examine(store, some)
    assert cached(store, files) == files


def test_an_image_that_disappears_is_named(files: list[ImageFile], open_store: Store) -> None:
    store = open_store(budget=0)
    examine(store, files)
    files[5].path.unlink()
    with pytest.raises(DataError, match=r"^a/5\.png: No such file or directory\nNext: "):
        list(store.batches(files, 4))
    with pytest.raises(DataError, match=r"^a/5\.png: No such file or directory\nNext: "):
        training(store, files)
    assert len(list(store.batches(files[6:], 4))) == 2  # the store goes on


def test_what_is_kept_is_not_read_again(files: list[ImageFile], open_store: Store) -> None:
    store = open_store()
    examine(store, files)
    expected = training(store, files)
    for file in files:
        file.path.unlink()
    assert torch.equal(training(store, files), expected)


def test_what_does_not_fit_into_memory_is_read_from_the_disk(files: list[ImageFile], open_store: Store) -> None:
    store = open_store(budget=30_000, disk_budget=1 << 30)
    examine(store, files)
    expected = [open_store().resized(file) for file in files]
    assert cached(store, files) == files and store.kept_bytes <= 30_000
    for file, pixels in zip(files, expected, strict=True):
        assert torch.equal(store.resized(file), pixels) and store.resized(file).stride() == pixels.stride()


@pytest.mark.parametrize("disk_budget", [4_000, 30_000, 60_000])
def test_the_disk_is_filled_to_its_budget_and_no_further(
    files: list[ImageFile], open_store: Store, disk_budget: int
) -> None:
    store = open_store(workers=8, budget=0, disk_budget=disk_budget)
    examine(store, files)
    sizes = {file.relative: store.resized(file).numel() for file in files}
    held = {file.relative for file in cached(store, files)}
    assert sum(sizes[name] for name in held) <= disk_budget
    left = [size for name, size in sizes.items() if name not in held]
    assert disk_budget - sum(sizes[name] for name in held) < min(left)


def test_a_spool_leaves_nothing_behind_even_while_it_is_open(
    files: list[ImageFile], open_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    store = open_store(budget=0, disk_budget=1 << 30)
    examine(store, files)
    assert cached(store, files) == files
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_quarter_of_the_free_space_is_the_budget_unless_another_is_given(tmp_path: Path) -> None:
    with contextlib.closing(Spool.open(None)) as spool:
        assert spool.put(torch.zeros(3, 5, 5, dtype=torch.uint8)) is not None


def no_space(file: int, content: bytes, offset: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def some_space(file: int, content: bytes, offset: int) -> int:
    return len(content) // 2


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="there is no disk cache on this system")
@pytest.mark.parametrize("full_disk", [no_space, some_space])
def test_a_full_disk_is_silent_and_nothing_more_is_written(
    files: list[ImageFile], open_store: Store, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[..., int]
) -> None:
    store = open_store(budget=0, disk_budget=1 << 30)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk)
        examine(store, files)
        assert cached(store, files) == []
    examine(store, files)
    assert cached(store, files) == []


def test_a_cache_folder_that_cannot_be_written_costs_only_time(
    files: list[ImageFile], open_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "file"))
    store = open_store(budget=0, disk_budget=None)
    assert examine(store, files)[1] == {} and cached(store, files) == []


def test_batches_of_files_that_nobody_examined_leave_out_what_cannot_be_read(
    files: list[ImageFile], open_store: Store, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    bad = ImageFile(tmp_path / "bad.png", "a/bad.png", 0)
    batches = list(open_store().readable_batches([*files[:3], bad, *files[3:], bad], 4))
    assert [len(batch.files) for batch in batches] == [3, 4, 4, 1]
    assert [file for batch in batches for file in batch.files] == files
    assert [list(batch.faults) for batch in batches] == [["a/bad.png"], [], [], ["a/bad.png"]]
    assert torch.equal(torch.cat([batch.images for batch in batches]), torch.cat(list(open_store().batches(files, 5))))


def test_only_a_few_batches_are_made_ahead(files: list[ImageFile], open_store: Store) -> None:
    store = open_store(workers=2, budget=0)
    batches = store.batches(files, 1)
    next(batches)
    time.sleep(0.3)  # enough for all of them
    for file in files[6:]:
        file.path.unlink()
    with pytest.raises(DataError, match=r"a/[6-9]\.png"):
        list(batches)


def test_closing_ends_the_threads(files: list[ImageFile]) -> None:
    before = decoding_threads()
    store = ImageStore(PREPROCESSING, workers=3)
    batches = store.batches(files, 1)
    next(batches)
    assert len(decoding_threads()) > len(before)
    store.close()
    assert decoding_threads() == before
    store.close()


def test_a_loop_left_early_leaves_the_store_in_use(files: list[ImageFile], open_store: Store) -> None:
    store = open_store(workers=1)
    batches = store.batches(files * 50, 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert torch.equal(next(store.batches(files, 1))[0], transform(read_image(files[0].path), PREPROCESSING))


def test_files_that_could_be_read_before_are_decoded_when_they_are_needed_alone(
    files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    whole = store_module.decode_closely

    def counting(content: bytes, *, name: str, **more: Any) -> Any:
        decoded.append(name)
        return whole(content, name=name, **more)

    monkeypatch.setattr(store_module, "decode_closely", counting)
    digests, batches = [], []
    for _ in range(2):
        store = ImageStore(PREPROCESSING, workers=2, known=DecodedFiles(PREPROCESSING))
        digests.append(store.examine(files, progress=lambda done: None))
        examined = len(decoded)
        batches.append(torch.cat(list(store.batches(files, 4))))
        list(store.batches(files, 4))  # from the cache
        store.close()
    assert digests[0] == digests[1] and torch.equal(batches[0], batches[1])
    assert examined == len(files) and len(decoded) == 2 * len(files)


def test_a_file_that_changes_after_it_was_examined_is_refused(files: list[ImageFile]) -> None:
    store = ImageStore(PREPROCESSING, workers=1, budget=0)
    store.examine(files, progress=lambda done: None)
    files[0].path.write_bytes(files[1].path.read_bytes())
    with pytest.raises(DataError, match="changed while it was in use"):
        store.resized(files[0])
    store.close()
