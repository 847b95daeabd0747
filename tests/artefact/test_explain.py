"""What a classifier gives beside predictions: where it looked, features, and a tensor of an image."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from PIL import Image, ImageChops
from zoo.artefact.classifier import Classifier
from zoo.data.decode import read_image
from zoo.data.transform import as_seen, transform
from zoo.errors import DataError, OptionError, Refused
from zoo.model.gradcam import grad_cam, with_heat
from zoo.specs.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def classifier(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    out = tmp_path_factory.mktemp("explained") / "run"
    options = {"weights": "random", "data": few, "recipe": "head_only", "tune": False, "report": False}
    return zoo.finetune("timm/test_resnet", out=out, **options).classifier()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(few: Path) -> list[Path]:
    return sorted((few / "val").rglob("*.*"))


def with_model(classifier: Classifier, backbone: str = "timm/test_resnet", **options: object) -> Classifier:
    """The same classes with another model."""
    model = zoo.create_model(backbone, classes=classifier.classes, weights="random", **options)  # type: ignore[arg-type]
    return Classifier(model, classifier.config, classifier.path)


def test_the_picture_is_that_of_the_report(classifier: Classifier, files: list[Path]) -> None:
    model, file = classifier.model, files[0]
    pixels = transform(read_image(file), model.preprocessing)
    relevance = grad_cam(copy.deepcopy(model), pixels[None])
    assert relevance.heat is not None
    expected = with_heat(as_seen(pixels, model.preprocessing), relevance.heat[0])
    for image in (file, str(file), Image.open(file)):
        picture = classifier.explain(image)
        assert picture.size == (160, 160) and ImageChops.difference(picture, expected).getbbox() is None
    (prediction,) = classifier.predict(file)
    assert classifier.explain(file, label=prediction.label).tobytes() == expected.tobytes()
    (other,) = {*classifier.classes} - {prediction.label}
    assert classifier.explain(file, label=other).tobytes() != expected.tobytes()


def test_explaining_leaves_a_model_in_training_as_it_is(classifier: Classifier, files: list[Path]) -> None:
    trained = with_model(classifier)
    trained.model.freeze_all_but(["head"])
    trained.model.train()
    before = [module.training for module in trained.model.modules()]
    with torch.no_grad():
        trained.explain(files[0])
    assert before == [module.training for module in trained.model.modules()] and any(before) and not all(before)
    assert {name for name, each in trained.model.named_parameters() if each.requires_grad} == {
        name for name, _ in trained.model.named_parameters() if name.startswith("head.")
    }


def test_what_cannot_be_explained_is_refused(classifier: Classifier, files: list[Path]) -> None:
    with pytest.raises(OptionError, match=r"There is no class 'gren'\.") as error:
        classifier.explain(files[0], label="gren")
    assert all(name in str(error.value) for name in classifier.classes)
    with pytest.raises(DataError, match="not list"):
        classifier.explain(files)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"gone\.jpg"):
        classifier.explain("gone.jpg")
    small = with_model(classifier, input_size=(32, 32))
    with pytest.raises(Refused, match=r"cannot be drawn .*: the backbone's map is a single position"):
        small.explain(files[0])


@pytest.mark.parametrize("head", ["linear", "attention_pool", "layers"])
def test_features_are_pooled_whatever_the_head_needs(classifier: Classifier, files: list[Path], head: str) -> None:
    other = with_model(classifier, head=head)
    other.model.eval()
    features = other.features(files, batch_size=3)
    assert features.shape == (len(files), 96) and features.dtype == torch.float32 and not features.requires_grad
    for row, file in zip(features, files, strict=True):
        alone = other.model.preprocessing(file)[None]
        torch.testing.assert_close(row, other.model.pooled(alone)[0].detach(), rtol=1e-4, atol=1e-5)
    torch.nn.Linear(96, 2)(features).sum().backward()
    with pytest.raises(OptionError, match="no image"):
        other.features([])


def test_preprocessing_is_a_record_that_can_be_called(classifier: Classifier, files: list[Path]) -> None:
    called = classifier.model.preprocessing
    record = Preprocessing.from_dict(called.to_dict())
    assert called == record and record == called and hash(called) == hash(record)
    assert called != replace(record, mean=(0.0, 0.0, 0.0)) and called != "preprocessing"
    expected = transform(read_image(files[0]), record)
    for preprocessing in (called, pickle.loads(pickle.dumps(called)), called.at(160, 160)):
        for image in (files[0], str(files[0]), Image.open(files[0])):
            assert torch.equal(preprocessing(image), expected)  # type: ignore[operator]
    with pytest.raises(DataError, match="takes one image, a PIL image or the path of a file, not int"):
        called(3)  # type: ignore[arg-type]
