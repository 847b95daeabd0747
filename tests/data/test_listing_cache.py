"""Large folders: listed as columns by the same rules, and from the cache only what a fresh listing would give, too."""

from __future__ import annotations

import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from zoo.data.class_folders import read_class_folders
from zoo.data.folder import list_folder
from zoo.data.folder_tree import FolderTree, list_tree, scan
from zoo.data.listing import to_unchecked
from zoo.data.listing_cache import ListingCache, local_devices
from zoo.data.split_folders import LayoutError
from zoo.data.splits import UncheckedData
from zoo.data.walk import walk
from zoo.errors import DataError
from zoo.events import Event, Progress
from zoo.specs.data import ClassFolders, FolderFile, Skipped, is_image_name, passed_over
from zoo.storage.cache import cache_folder
from zoo.storage.eviction import LISTINGS, cached_items, clear
from zoo.text import printable

FOLDERS = ["a", "b", "cat", "train", "val", "test", ".hidden", "images", "d\udcff", "d\\xff", "x.jpg", "한", "@eaDir"]
FILES = [
    "1.jpg",
    "10.jpg",
    "2.JPG",
    "x.png",
    "notes.txt",
    ".3.jpg",
    "._4.jpg",
    "Thumbs.db",
    "\udcfe.jpg",
    "é.jpg",
    "t.gif",
]
SETTLED = 0.03
"""Seconds for which a folder of these tests must have stayed as it is."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk whose times are relied upon: the usual one, or memory, as in a container."""
    place = next((each for each in (tmp_path, Path("/dev/shm")) if _relied_upon(each)), None)
    if place is None:
        pytest.skip("no disk here keeps exact times")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def _relied_upon(place: Path) -> bool:
    return place.is_dir() and place.stat().st_dev in local_devices()


def naive_listing(root: Path) -> ClassFolders:
    """Every file with a record of its own, as the rules are written down."""
    files, folders, special = [], [], []
    for found in walk(str(root)):
        file = Path(found.path)
        name = printable("/".join(file.parts[len(root.parts) :]))
        if found.kind == "folder":
            folders.append(name)
        elif found.kind == "special" and is_image_name(name) and passed_over(name.split("/")) is None:
            special.append(Skipped(name, "not an image", "no regular file"))
        else:
            files.append(FolderFile(name, file))
    return ClassFolders(files=files, folders=folders, skipped=special)


def unchecked_or_refusal(root: Path, *, naive: bool, classes: tuple[str, ...] = ()) -> UncheckedData | str:
    try:
        listing = (
            read_class_folders(naive_listing(root), classes=classes) if naive else list_folder(root, classes=classes)
        )
        return to_unchecked(listing, source="data", path=root, reader="folder")
    except (LayoutError, DataError) as error:
        return str(error)


def plain(data: UncheckedData | str) -> object:
    if isinstance(data, str):
        return data
    splits = {split: {name: list(files) for name, files in of.items()} for split, of in data.splits.items()}
    orders = {split: list(of) for split, of in data.splits.items()}
    return splits, orders, list(splits), data.split_names, data.skipped, data.notes


def make_tree(root: Path, draw: random.Random, entries: int) -> None:
    """A folder of random folders, images, other files, links and pipes."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    folders = [root]
    for _ in range(entries):
        folder, kind = draw.choice(folders), draw.random()
        name = folder / draw.choice(FOLDERS if kind < 0.3 else FILES)
        if os.path.lexists(name):
            continue
        if kind < 0.3:
            name.mkdir()
            folders.append(name)
        elif kind < 0.33:
            os.mkfifo(name)
        elif kind < 0.38:
            name.symlink_to(draw.choice([root, folder, root / "missing", draw.choice(folders), name]))
        else:
            name.touch()


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(20, 100))])
def test_a_folder_is_read_by_the_same_rules_as_files_one_by_one(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for step in range(3):
        root = tmp_path / f"data{step}"
        make_tree(root, draw, draw.choice([5, 20, 80]))
        classes = tuple(draw.sample(FOLDERS[:6], draw.choice([0, 3])))
        naive, columns = (unchecked_or_refusal(root, naive=naive, classes=classes) for naive in (True, False))
        assert plain(columns) == plain(naive)


def test_names_that_are_shown_alike_are_refused_as_before(tmp_path: Path) -> None:
    for name in ("1\udcff.jpg", "1\\xff.jpg", "2.jpg"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
    found = unchecked_or_refusal(tmp_path, naive=False)
    assert found == unchecked_or_refusal(tmp_path, naive=True)
    assert isinstance(found, str) and found.startswith(r"a/1\xff.jpg is listed twice in data")


def same(one: FolderTree, other: FolderTree) -> bool:
    columns = (one.run_folders, other.run_folders), (one.runs, other.runs)
    texts = list(one.images) == list(other.images) and one.folders == other.folders and one.rest == other.rest
    return texts and all(np.array_equal(*pair) for pair in columns)


def listed(root: Path, *, settled: float = SETTLED) -> tuple[FolderTree, int]:
    """List through the cache: (the tree, how many folders were listed anew)."""
    cache = ListingCache(root, lambda images: None, least=1, settled=settled)
    tree = list_tree(str(root), cache.entries, lambda images: None)
    cache.keep(tree)
    return tree, cache.listed_anew


def fresh(root: Path) -> FolderTree:
    return list_tree(str(root), lambda below: scan(str(root / below), lambda images: None), lambda images: None)


def apart(one: Path, other: Path) -> bool:
    return one not in other.parents and other not in one.parents


def change(root: Path, draw: random.Random) -> None:
    """Change something at random, also in ways that leave the usual times of a folder as they were."""
    folders = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir() and not path.is_symlink())]
    files = [path for path in sorted(root.rglob("*")) if not path.is_dir() or path.is_symlink()]
    folder, other = draw.choice(folders), draw.choice(folders)
    times = {path: path.stat() for path in folders}
    match draw.randrange(9):
        case 0:
            (folder / f"{draw.randrange(9)}.jpg").write_bytes(b"new")
        case 1 if files:
            draw.choice(files).unlink()
        case 2 if files:
            file = draw.choice(files)
            file.rename(file.with_name(f"renamed{draw.randrange(9)}.png"))
        case 3 if folder != root:
            shutil.rmtree(folder)
        case 4 if folder != root:
            folder.rename(root / f"moved{draw.randrange(10**6)}")
        case 5 if root not in (folder, other) and folder != other and apart(folder, other):
            folder.rename(root / "swap")  # two folders change their places, each with its own times
            other.rename(folder)
            (root / "swap").rename(other)
        case 6 if files:
            file = draw.choice(files)
            file.unlink()
            file.mkdir()  # a folder with the name of an image
        case 7:
            (folder / f"link{draw.randrange(10**6)}.jpg").symlink_to(draw.choice([*files, *folders]))
        case 8 if folder != root:
            shutil.rmtree(folder)
            folder.symlink_to(other if other.exists() else root / "missing")
    if draw.random() < 0.3:
        for path, before in times.items():
            if path.is_dir() and not path.is_symlink():
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and tar do


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 40))])
def test_a_kept_listing_is_that_of_the_disk_after_any_change(disk: Path, seed: int) -> None:
    draw = random.Random(seed)
    root = disk / "data"
    make_tree(root, draw, 40)
    anew = total = 0
    for _ in range(12):
        for _ in range(draw.choice([0, 1, 1, 3])):
            change(root, draw)
        if draw.random() < 0.6:
            time.sleep(1.5 * SETTLED)
        tree, count = listed(root)
        assert same(tree, fresh(root))
        anew, total = anew + count, total + len(tree.folders)
    assert total - anew > 5  # the cache was of use


def pictures(root: Path, folders: int, files: int) -> Path:
    for folder in range(folders):
        (root / f"{folder}").mkdir(parents=True)
        for number in range(files):
            (root / f"{folder}" / f"{number}.jpg").touch()
    return root


def test_only_what_changed_is_listed_again(disk: Path) -> None:
    root = pictures(disk / "data", 5, 3)
    time.sleep(1.5 * SETTLED)
    assert listed(root)[1] == 6 and listed(root)[1] == 0
    (root / "3" / "new.jpg").touch()
    time.sleep(1.5 * SETTLED)
    tree, anew = listed(root)
    assert anew == 1 and same(tree, fresh(root))
    (root / "link").symlink_to(root / "1")
    listed(root)
    time.sleep(1.5 * SETTLED)
    tree, anew = listed(root)
    assert anew == 1 and same(tree, fresh(root))  # the folder with the link, and nothing below it
    (root / "link").unlink()
    assert same(listed(root)[0], fresh(root))


def test_what_a_link_leads_to_is_looked_at_each_time(disk: Path) -> None:
    root, elsewhere = pictures(disk / "data", 2, 3), disk / "elsewhere.jpg"
    elsewhere.touch()
    (root / "0" / "link.jpg").symlink_to(elsewhere)
    time.sleep(1.5 * SETTLED)
    before, _ = listed(root)
    elsewhere.unlink()
    elsewhere.mkdir()  # which leaves no trace in the folder of the link
    (elsewhere / "inside.jpg").touch()
    tree, anew = listed(root)
    assert same(tree, fresh(root)) and not same(tree, before) and anew == 2  # `0`, and the new folder in it
    time.sleep(1.5 * SETTLED)
    shutil.rmtree(elsewhere)
    assert same(listed(root)[0], fresh(root))


def test_a_folder_that_changed_just_now_is_listed_again(disk: Path) -> None:
    root = pictures(disk / "data", 5, 3)
    for _ in range(3):
        assert listed(root, settled=3.0)[1] == 6


def test_a_damaged_listing_is_not_used(disk: Path) -> None:
    root = pictures(disk / "data", 2, 3)
    time.sleep(1.5 * SETTLED)
    listed(root)
    (kept,) = (cache_folder() / "listings").glob("*.safetensors")
    content = kept.read_bytes()
    for damaged in (
        content.replace(b"2.jpg", b"3.jpg"),
        content[:-9],
        b"",
        content.replace(b'"format":"1"', b'"format":"0"'),
    ):
        kept.write_bytes(damaged)
        tree, anew = listed(root)
        assert anew == 3 and same(tree, fresh(root))


def test_a_cache_that_cannot_be_written_to_keeps_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk / "file").touch()
    monkeypatch.setenv("ZOO_CACHE_DIR", str(disk / "file"))
    root = pictures(disk / "data", 2, 3)
    time.sleep(1.5 * SETTLED)
    assert listed(root)[1] == listed(root)[1] == 3


def test_listings_are_shown_and_cleared_like_all_that_is_cached(disk: Path) -> None:
    root = pictures(disk / "data", 2, 3)
    time.sleep(1.5 * SETTLED)
    listed(root)
    (item,) = (item for item in cached_items() if item.kind == "listings")
    assert item.what.startswith("data-") and item.bytes > 0
    clear(["listings"])
    assert listed(root)[1] == 3


def test_a_long_listing_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "data", 3, 4)
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    events: list[Event] = []
    list_folder(root, report=events.append)
    assert all(isinstance(event, Progress) and event.task == "list" for event in events)
    assert [event.done for event in events if isinstance(event, Progress)] == [4, 8, 12, 12, 12]
    assert events[-1] == Progress(task="list", done=12, total=12)


def test_a_cache_folder_on_a_full_disk_keeps_nothing_and_costs_no_listing(tmp_path: Path) -> None:
    """The largest size of a file stands for a disk that fills in the middle of one."""
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(50):
        (root / f"{number}.jpg").touch()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
    try:
        tree, _ = listed(root, settled=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert len(tree.images) == 50 and [*(cache_folder() / LISTINGS).rglob(".*")] == []
    assert listed(root, settled=0)[1] == 1 and listed(root, settled=0)[1] == 0
