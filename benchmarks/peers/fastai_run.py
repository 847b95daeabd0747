"""fastai as its tutorials use it: `vision_learner(squeezenet1_1)`, then `fine_tune`, or `fit_one_cycle` for one stage.

python -m benchmarks.peers.fastai_run TASK.json RESULT.json
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import fastai
import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    PILImage,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from benchmarks.peers.task import Stage, Task, answer

BATCH = 32
"""fastai's own 64, of which it drops the last part, leaves three steps an epoch of 244 images. On one half of val/
(hymenoptera, flowers5; its own preprocessing) 32 reached 0.987 and 0.840, 64 0.961 and 0.820. Presizing (`Resize(460)`,
`aug_transforms(size=224, min_scale=0.75)`) reached 0.947 on hymenoptera."""
MIN_SCALE = 0.35


def run(task: Task) -> dict[str, Any]:
    """Train, then score twice: with the preprocessing that everybody is compared with, and with fastai's own."""
    set_seed(task.seed, reproducible=True)
    with tempfile.TemporaryDirectory() as folder:
        _place_weights(task.weights, Path(folder))
        learner = vision_learner(_loaders(task), squeezenet1_1, metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        recipe = _fit(learner, task.stages)
    return {
        "accuracy": _accuracy(learner, task),
        "own_accuracy": float(learner.recorder.values[-1][-1]),
        "recipe": recipe,
        "head": "its own: concat pooling, two layers",
        "version": f"fastai {fastai.__version__}, torch {torch.__version__}",
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


def _loaders(task: Task) -> Any:
    # Items are positions: fastai would apply its functions to each element of a tuple.
    files = [*task.train, *task.test]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=task.classes)),
        get_x=lambda position: files[position].path,
        get_y=lambda position: task.classes[files[position].label],
        splitter=IndexSplitter(range(len(task.train), len(files))),
        item_tfms=RandomResizedCrop(224, min_scale=MIN_SCALE),
        batch_tfms=aug_transforms(),
    )
    return block.dataloaders(range(len(files)), bs=BATCH)


def _place_weights(weights: str, folder: Path) -> None:
    """Where torchvision looks for what it has downloaded, so that fastai loads these as it always does."""
    os.environ["TORCH_HOME"] = str(folder)
    name = SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    checkpoint = folder / "hub" / "checkpoints" / name
    checkpoint.parent.mkdir(parents=True)
    torch.save({key: tensor.float() for key, tensor in load_file(weights).items()}, checkpoint)


@torch.inference_mode()
def _accuracy(learner: Any, task: Task) -> float:
    """Top-1 with torchvision's preprocessing of the weights."""
    transform = SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    model = learner.model.eval()
    right = 0
    for start in range(0, len(task.test), BATCH):
        files = task.test[start : start + BATCH]
        images = torch.stack([transform(PILImage.create(path).convert("RGB")) for path, _ in files])
        found = model(images).argmax(1).tolist()
        right += sum(answer == label for answer, (_, label) in zip(found, files, strict=True))
    return right / len(task.test)


if __name__ == "__main__":
    answer(run)
