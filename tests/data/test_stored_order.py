"""Images are read in the order in which their bytes lie, where that is known of all of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from zoo.data.dataset import ImageFile
from zoo.data.listing import SourceContent
from zoo.data.stored_order import as_stored, digest_of_order, stored_order

from zoo_sources.tar import TarMember


@dataclass(frozen=True)
class Reader:
    place: object

    def __call__(self) -> bytes:
        return b""


def files_at(*places: object) -> list[ImageFile]:
    return [ImageFile(Path("all"), f"{at}", 0, Reader(place)) for at, place in enumerate(places)]


@pytest.mark.parametrize("seed", range(5))
def test_files_are_sorted_by_their_places(seed: int) -> None:
    places = [(f"{shard}.tar", offset, 0) for shard in range(3) for offset in range(40)]
    shuffled = random.Random(seed).sample(places, len(places))
    files = files_at(*shuffled)
    order = stored_order(files)
    assert order is not None and [shuffled[number] for number in order] == places
    assert [file.reader.place for file in as_stored(files)] == places  # type: ignore[union-attr]
    assert digest_of_order(order) != digest_of_order(range(len(places))) and digest_of_order(None) == ""


@pytest.mark.parametrize(
    "files",
    [
        files_at(("a", 0, 0), ("a", 1, 0)),  # in order already
        files_at(("a", 1, 0), None),
        files_at(("a", 1, 0), ("a", "zero", 0)),  # cannot be compared
        [*files_at(("a", 1, 0)), ImageFile(Path("plain.jpg"), "plain.jpg", 0)],
        [],
    ],
)
def test_files_stay_as_they_are_where_another_order_is_not_known(files: list[ImageFile]) -> None:
    assert stored_order(files) is None and as_stored(files) is files


def test_the_places_of_a_data_source_are_seen_through_what_calls_its_readers() -> None:
    members = [SourceContent(TarMember(Path("a.tar"), offset, 1), "zoo_sources") for offset in (512, 0)]
    files = [ImageFile(Path("a.tar"), str(at), 0, reader) for at, reader in enumerate(members)]
    assert list(stored_order(files) or ()) == [1, 0]
