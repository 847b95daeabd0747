"""fastai as its tutorials use it: `vision_learner(dls, NETWORK)`, then `fine_tune`, or `fit_one_cycle` for one stage.

python -m benchmarks.peers.fastai_run TASK.json RESULT.json
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import fastai
import timm
import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Normalize,
    PILImage,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from torchvision import models

from benchmarks.peers.networks import Network, Preprocessing, tensors
from benchmarks.peers.task import Stage, Task, answer

BATCH = 32
"""fastai's own 64, of which it drops the last part, leaves three steps an epoch of 244 images. On one half of val/
(hymenoptera, flowers5; its own preprocessing) 32 reached 0.987 and 0.840, 64 0.961 and 0.820. Presizing (`Resize(460)`,
`aug_transforms(size=224, min_scale=0.75)`) reached 0.947 on hymenoptera."""
MIN_SCALE = 0.35


def run(task: Task) -> dict[str, Any]:
    """Train, then score twice: with the preprocessing that everybody is compared with, and with fastai's own."""
    set_seed(task.seed, reproducible=True)
    network = Network(task.backbone)
    learner = _learner(task, network)
    with learner.no_bar(), learner.no_logging():
        recipe = _fit(learner, task.stages)
    return {
        "accuracy": _accuracy(learner, task, network.preprocessing),
        "own_accuracy": float(learner.recorder.values[-1][-1]),
        "recipe": recipe,
        "head": "its own: concat pooling, two layers",
        "threads": torch.get_num_threads(),
        "version": f"fastai {fastai.__version__}, torch {torch.__version__}, timm {timm.__version__}",
    }


def _fit(learner: Any, stages: list[Stage]) -> str:
    """Train as the stages say -> the call that does it."""
    trains, epochs = [stage.trains for stage in stages], [stage.epochs for stage in stages]
    if trains == ["head", "all"]:
        learner.fine_tune(epochs[1], freeze_epochs=epochs[0])
        return f"fine_tune({epochs[1]}, freeze_epochs={epochs[0]})"
    if trains != ["head"]:
        raise ValueError(f"fastai is given [head, all] or [head], not {trains}")
    learner.fit_one_cycle(epochs[0])  # vision_learner begins frozen
    return f"fit_one_cycle({epochs[0]}), frozen"


def _learner(task: Task, network: Network) -> Any:
    """A learner of the network with the task's weights, read by the way that fastai reads what it has downloaded."""
    given: dict[str, Any] = {"metrics": accuracy, "pretrained": bool(task.weights)}
    loaders = _loaders(task, network.preprocessing)
    if network.of_timm:
        file = {"pretrained_cfg_overlay": {"file": task.weights}} if task.weights else {}
        return vision_learner(loaders, network.upstream, **given, **file)
    with tempfile.TemporaryDirectory() as folder:
        if task.weights:
            _place_weights(task.weights, network, Path(folder))
        return vision_learner(loaders, getattr(models, network.upstream), **given)


def _loaders(task: Task, wanted: Preprocessing) -> Any:
    # Items are positions: fastai would apply its functions to each element of a tuple.
    files = [*task.train, *task.test]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=task.classes)),
        get_x=lambda position: files[position].path,
        get_y=lambda position: task.classes[files[position].label],
        splitter=IndexSplitter(range(len(task.train), len(files))),
        item_tfms=RandomResizedCrop(wanted.size, min_scale=MIN_SCALE),
        # vision_learner adds the same for timm's networks and some of torchvision's, not for all.
        batch_tfms=[*aug_transforms(), Normalize.from_stats(wanted.mean, wanted.std)],
    )
    # It drops the last batch where that is not full: of few images none would be left.
    return block.dataloaders(range(len(files)), bs=min(BATCH, len(task.train)))


def _place_weights(weights: str, network: Network, folder: Path) -> None:
    """Where torchvision looks for what it has downloaded, so that fastai loads these as it always does."""
    os.environ["TORCH_HOME"] = str(folder)
    name = network.weights.url.rpartition("/")[2]
    checkpoint = folder / "hub" / "checkpoints" / name
    checkpoint.parent.mkdir(parents=True)
    torch.save(tensors(weights), checkpoint)


@torch.inference_mode()
def _accuracy(learner: Any, task: Task, wanted: Preprocessing) -> float:
    """Top-1 with upstream's preprocessing of the weights."""
    model = learner.model.eval()
    right = 0
    for start in range(0, len(task.test), BATCH):
        files = task.test[start : start + BATCH]
        images = torch.stack([wanted.evaluation(PILImage.create(path).convert("RGB")) for path, _ in files])
        found = model(images).argmax(1).tolist()
        right += sum(answer == label for answer, (_, label) in zip(found, files, strict=True))
    return right / len(task.test)


if __name__ == "__main__":
    answer(run)
