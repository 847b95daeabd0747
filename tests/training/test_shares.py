from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.distributed.group import ProcessGroup
from zoo.specs.recipe import Stage
from zoo.training import seeding
from zoo.training.objective import mix
from zoo.training.shares import Shares

CLASSES = 3


class _One(ProcessGroup):
    """One process of some, whose others are not there."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


def stage(**settings: object) -> Stage:
    return Stage.model_validate({"name": "all", "train": ["head"], "epochs": 1, "lr": 0.1, **settings})


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_pieces_of_all_processes_are_the_batch_whoever_computes_them(
    shares: int, processes: int, settings: dict[str, float]
) -> None:
    # Fewer images than shares in the last batch: some of them are empty.
    order = [list(range(8)), list(range(8, 15)), [15, 16]]
    images = torch.rand(17, 3, 8, 8)
    labels = torch.arange(17) % CLASSES
    of = [Shares(shares, _One(rank, processes)) for rank in range(processes)]
    for number, batch in enumerate(order):
        key = f"0/all/1/{number}"
        found = {}
        for each in of:
            positions = each.positions(order, stage(**settings), "0/all/1")
            held = batch if positions is None else [batch[place] for place in positions[number]]
            for share, piece in zip(
                each.own,
                each.pieces(images[held], labels[batch], CLASSES, stage(**settings), key=key),
                strict=True,
            ):
                found[share] = piece
        assert sorted(found) == list(range(shares))
        whole, targets = images[batch], labels[batch]
        if settings:
            whole, targets = mix(whole, targets, CLASSES, stage(**settings), key=key)
        assert torch.equal(torch.cat([found[share].batch for share in range(shares)]), whole)
        assert torch.equal(torch.cat([found[share].targets for share in range(shares)]), targets)
        # Draws belong to a share, not to the process that computes it; a batch that is not cut draws as ever.
        keys = {piece.key for piece in found.values()}
        assert len(keys) == shares and (shares > 1 or keys == {""})


def test_an_image_that_comes_again_is_augmented_as_in_the_whole_batch(shapes: Path) -> None:
    model = zoo.create_model("timm/test_resnet", classes=3, weights="random")
    store = ImageStore(model.preprocessing, workers=1)
    names = sorted((shapes / "train" / "red").iterdir())[:4]
    files = [ImageFile(path=path, relative=path.name, label=0) for path in names]
    order, positions = [[0, 1, 0], [2, 0, 3, 1]], [[1, 2], [1, 3]]
    whole = store.training_batches(files, order, augment="crop", key="0/all/1", anew=True)
    some = store.training_batches(files, order, augment="crop", key="0/all/1", anew=True, positions=positions)
    for batch, held, part in zip(whole, positions, some, strict=True):
        assert torch.equal(batch[held], part)
    store.close()


def test_a_piece_that_seeds_torch_itself_is_noticed() -> None:
    shares = Shares(2, _One(0, 2))
    (piece,) = shares.pieces(torch.zeros(1, 2), torch.tensor([0, 1]), CLASSES, stage(), key="0/all/1/0")
    shares.begin(piece)
    shares.end(piece)
    assert shares.seeded
    shares.begin(piece)
    seeding.seed_torch("something else")
    shares.end(piece)
    assert not shares.seeded


@pytest.mark.parametrize(("shares", "processes"), [(2, 2), (3, 2), (5, 3), (4, 4)])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("images", [1, 2, 7, 8, 17])
def test_all_processes_make_as_many_passes(shares: int, processes: int, size: int, images: int) -> None:
    batch, targets = torch.rand(images, 3, 4, 4), torch.zeros(images, dtype=torch.int64)
    passes = set()
    for rank in range(processes):
        of = Shares(shares, _One(rank, processes))
        (places,) = of.positions([range(images)], stage(), "key") or [[]]
        pieces = of.pieces(batch[places], targets, CLASSES, stage(), key="key/0")
        made = sum(len(list(piece.in_micro_batches(size))) for piece in pieces)
        passes.add(made + of.passes_without_images(images, size))
    assert len(passes) == 1
