"""Calls of the library as people write them. mypy accepts all but those whose comment says what is wrong with them.

Nothing here runs: `test_typing.py` hands the file to mypy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import polars as pl
import torch
import zoo
from PIL import Image
from torch import Tensor, nn


def my_head(shape: zoo.FeatureShape, classes: int) -> nn.Module:
    return nn.Linear(shape.pooled, classes)


class MyHead(nn.Module):
    def __init__(self, shape: zoo.FeatureShape, classes: int) -> None:
        super().__init__()


def listen(event: zoo.Event) -> None:
    if isinstance(event, zoo.EpochFinished):
        print(event)


def training(frame: pl.DataFrame, pairs: list[tuple[str, str]], module: nn.Module) -> None:
    result = zoo.finetune("resnet18", data="photos", epochs=2, set=["head.lr=1e-3"], seed=1)
    assert_type(result, zoo.Result)
    assert_type(result.accuracy, float)
    assert_type(result.classifier(), zoo.Classifier)
    zoo.finetune("resnet18", head=my_head, data=Path("photos"), on_event=listen, report=False, verbose=False)
    zoo.finetune("resnet18", head=MyHead, data=frame, image="file", label="species")
    zoo.finetune("resnet18", head=lambda shape, classes: nn.Linear(shape.pooled, classes), data=pairs)
    zoo.finetune(module, recipe={"stages": []}, data={"train": pairs, "val": pairs})
    zoo.finetune("resnet18", input_size=224)
    zoo.finetune("resnet18", input_size=(224, 160))
    zoo.finetune(zoo.Request(backbone="resnet18"))
    zoo.resume("runs/one", data=pairs)
    assert_type(zoo.plan("resnet18", data=(pairs, pairs), estimate=True), zoo.Plan)
    assert_type(zoo.verify("runs/one", head=my_head), zoo.Verification)
    assert_type(zoo.compare(result, "runs/one", data=frame), zoo.Comparison)
    assert_type(zoo.load(result), zoo.Classifier)


def using(image: Image.Image, pixels: np.ndarray[Any, Any], tensor: Tensor) -> None:
    classifier = zoo.load("runs/one", precision="auto")
    for prediction in classifier.predict([image, pixels, tensor, "cat.jpg", Path("dog.jpg"), b""]):
        assert_type(prediction, zoo.Prediction)
    assert_type(classifier.features(image), Tensor)
    assert_type(classifier.explain("cat.jpg", label="cat"), Image.Image)
    assert_type(zoo.evaluate("runs/one", data="photos"), zoo.Evaluation)
    model = zoo.create_model("resnet18", classes=["cat", "dog"])
    assert_type(model.preprocessing(image), Tensor)
    assert_type(model(torch.zeros(2, 3, 224, 224)), Any)


def refused(frame: pl.DataFrame, pairs: list[tuple[str, str]]) -> None:
    zoo.finetune()  # error: call-arg
    zoo.finetune("resnet18", epoch=2)  # error: call-arg
    zoo.finetune("resnet18", epochs="2")  # error: arg-type
    zoo.finetune("resnet18", head=3)  # error: arg-type
    zoo.finetune("resnet18", head=lambda shape: nn.Identity())  # error: arg-type misc
    zoo.finetune("resnet18", report=listen)  # error: arg-type
    zoo.finetune("resnet18", input_size="224")  # error: arg-type
    zoo.finetune(frame)  # error: arg-type
    zoo.plan("resnet18", resume="runs/one")  # error: call-arg
    zoo.resume("runs/one", epochs=3)  # error: call-arg
    zoo.load("runs/one").predict()  # error: call-arg
    zoo.create_model("resnet18")  # error: call-arg
    zoo.no_such_function()  # error: attr-defined
