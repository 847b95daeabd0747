from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import zoo
from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.distributed.group import ProcessGroup
from zoo.evaluation.metrics import score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import silent
from zoo.frozen.inputs import CachedInputs
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Stage
from zoo.storage.table import table_of
from zoo.training import seeding
from zoo.training.objective import Objective, mix
from zoo.training.shares import Shares
from zoo.training.stage_watch import StageWatch
from zoo.training.trainer import StageSetup, train_step

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


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [2, 7])
def test_every_image_of_an_epoch_counts_once_also_in_a_batch_that_cannot_be_divided(processes: int, size: int) -> None:
    """Image i is a row whose only number is number i: column i of the head's gradient is what that image adds to it.

    A head of zeros finds all classes as probable, so the column is (1 / classes - its own class) / images of the batch.
    """
    count = 23  # batches of 7, 7, 7 and 2: for 2, 3 and 5 processes shares of other lengths, and some without an image
    model = zoo.create_model("timm/test_resnet", head="linear", classes=CLASSES, weights="random")
    model.freeze_all_but(["head"])
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    rows, targets = torch.eye(count, model.shape.pooled), torch.arange(count) % CLASSES
    settings = stage(name="head")
    plan = StagePlan(
        settings=settings,
        trains=("head",),
        freezes=model.groups.names,
        trainable_parameters=0,
        frozen_parameters=0,
        rates={"head": 0.1},
        steps=4,
        inputs="features",
        batch_norms_frozen=0,
        batch_norms_training=0,
    )
    micro_batches = MicroBatches(size, work="test", report=silent, retries=[])
    inputs = CachedInputs((table_of(rows),), table_of(rows), micro_batches)
    order = seeding.epoch_batches("shuffled", targets.tolist(), 7, key="0/head/1")
    assert [len(batch) for batch in order] == [7, 7, 7, 2]
    found = torch.zeros(CLASSES, count)
    losses = [0.0] * len(order)
    for rank in range(processes):
        shares = Shares(processes, _One(rank, processes))
        work = StageSetup(
            model=model,
            stage=plan,
            inputs=inputs,
            train_targets=targets,
            scored=lambda logits: score(logits, targets),
            seed=0,
            objective=Objective(settings),
            watch=StageWatch(model, plan),
            micro_batches=micro_batches,
            shares=shares,
        )
        batches = inputs.train_batches(order, "0/head/1", 1, 0, shares.positions(order, settings, "0/head/1"))
        for number, batch in enumerate(batches):
            of_batch = targets[list(order[number])]
            pieces = shares.pieces(batch, of_batch, CLASSES, settings, key=f"0/head/1/{number}")
            losses[number] += sum(train_step(work, pieces, of_batch))
            gradient = model.head.fc.weight.grad  # type: ignore[union-attr]
            if gradient is not None:  # of a process without an image there is none
                found += gradient[:, :count]  # type: ignore[index]
    expected = torch.zeros(CLASSES, count)
    for images in order:
        for image in images:
            expected[:, image] = 1 / CLASSES / len(images)
            expected[targets[image], image] -= 1 / len(images)
    torch.testing.assert_close(found, expected)
    assert losses == pytest.approx([math.log(CLASSES)] * len(order)), "the mean over all images of the batch"
