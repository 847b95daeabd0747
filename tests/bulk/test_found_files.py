"""Which files paths, folders and patterns mean, in a fixed order."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo.bulk.addresses import Address, address_of
from zoo.bulk.found_files import find_files
from zoo.errors import DataError, OptionError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "a/1.png", ".hidden/x.jpg", "notes.txt", "a/deep/er/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(root: Path, *given: str) -> list[str]:
    return [
        Path(each.name).relative_to(root).as_posix() for each in find_files([address_of(root / one) for one in given])
    ]


def test_folders_come_sorted_without_what_is_hidden(tree: Path) -> None:
    assert names(tree, ".") == ["a/1.png", "a/deep/er/3.jpg", "a.jpg", "b/10.jpg", "b/2.jpg"]
    assert names(tree, "b", "a.jpg") == ["b/10.jpg", "b/2.jpg", "a.jpg"]
    assert names(tree, "**/*.jpg") == ["a/deep/er/3.jpg", "a.jpg", "b/10.jpg", "b/2.jpg"]


def test_sizes_are_those_of_the_files_and_a_link_to_nothing_has_none(tree: Path) -> None:
    (tree / "b" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    sizes = {Path(each.name).name: each.size for each in find_files([address_of(tree / "b")])}
    assert sizes == {"10.jpg": len(b"b/10.jpg"), "2.jpg": len(b"b/2.jpg"), "gone.jpg": -1}


def test_nothing_is_said_with_what_was_asked(tree: Path) -> None:
    with pytest.raises(DataError, match=r"\*\.gif"):
        list(find_files([address_of(tree / "*.gif")]))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/a b/c.jpg", Address("s3", "bucket/a b/c.jpg")),
        (Path("s3://bucket/folder/"), Address("s3", "bucket/folder")),
        ("gcs://bucket", Address("gs", "bucket")),
        ("file:///data/x", Address("file", "/data/x")),
        ("photos/x.jpg", Address("file", "photos/x.jpg")),
        ("C:photos", Address("file", "C:photos")),
    ],
)
def test_addresses_survive_being_paths(text: str | Path, address: Address) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize(
    ("text", "told"), [("s4://b/x", "s3://b/x"), ("s3://", "names no bucket"), ("gz://b/x", "gs://b/x")]
)
def test_an_address_that_is_none_gets_the_nearest(text: str, told: str) -> None:
    with pytest.raises(OptionError) as refused:
        address_of(text)
    assert told in str(refused.value)
