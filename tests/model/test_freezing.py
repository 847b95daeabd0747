"""Groups are an exact partition, and frozen means frozen, also after `.train()`."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn
from zoo.errors import PluginError
from zoo.model.groups import partition
from zoo.model.model import HEAD, ZooModel, check_shapes

TINY = ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "torchvision/squeezenet1_1", "torchvision/resnet18"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        self.token = nn.Parameter(torch.zeros(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.drop(self.bn(self.conv(images))).mean((2, 3))
        output: torch.Tensor = self.blocks(pooled + self.token)
        return output


STEM = zoo.Group(name="stem", members=("conv", "bn", "token"))


def test_modules_without_parameters_go_with_what_comes_before_them() -> None:
    held = partition(Net(), [STEM, zoo.Group(name="rest", members=("blocks",))], backbone="net").modules
    assert held["drop"] == {"stem"}
    assert held["blocks.1"] == {"rest"} and held["blocks.2.1"] == {"rest"}
    assert held[""] == {"stem", "rest"}


def test_buffers_belong_to_the_group_of_the_module_that_owns_them() -> None:
    tensors = partition(Net(), [STEM, zoo.Group(name="rest", members=("blocks",))], backbone="net").tensors
    assert tensors["bn.running_mean"] == "stem"


class Sharing(nn.Module):
    """Two blocks that use one layer, as CoaT's blocks share their position encodings. It is in the first group."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.BatchNorm2d(3))
        self.first = nn.Sequential(nn.Conv2d(3, 3, 1), self.shared)
        self.second = nn.Sequential(nn.Conv2d(3, 3, 1), self.shared)


def test_what_stands_in_several_places_belongs_to_one_group_under_every_name() -> None:
    groups = [zoo.Group(name="a", members=("shared", "first.0")), zoo.Group(name="b", members=("second.0",))]
    size = zoo.Preprocessing(input_size=(3, 4, 4), resize_size=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = zoo.Backbone(module=Sharing(), shape=zoo.FeatureShape(pooled=3), groups=tuple(groups))
    model = ZooModel(backbone, nn.Linear(3, 2), name="sharing", classes=("x", "y"), preprocessing=size)
    names = [f"backbone.{place}0.weight" for place in ("shared.", "first.1.", "second.1.")]
    assert set(names) < set(model.state_dict())
    for name in names:
        assert model.group_of(name) == "a" and model.kinds_of(name) == {"norm"}
        assert model.trains(name, ["a"]) and not model.trains(name, ["b"]) and model.trains(name, ["b"], ["norm"])
    # While a layer that several places share has an adapter, its tensors have other names in each of them.
    assert model.groups.first_name("backbone.second.1.0.base_layer.weight") == "backbone.shared.0.base_layer.weight"
    assert model.groups.first_name("head.weight") == "head.weight"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([STEM], "'blocks.0.weight' is in no group"),
        ([STEM, zoo.Group(name="rest", members=("blocks", "bn"))], "'bn' is in the groups 'stem' and 'rest'"),
        (
            [STEM, zoo.Group(name="a", members=("blocks",)), zoo.Group(name="b", members=("blocks.2",))],
            "several groups",
        ),
        ([STEM, zoo.Group(name="rest", members=("blocks", "nowhere"))], "'nowhere', which the module does not have"),
        ([STEM, zoo.Group(name="stem", members=("blocks",))], "two groups of one name"),
        ([], "has no groups"),
    ],
)
def test_groups_that_are_no_partition_are_refused_by_name(groups: list[zoo.Group], message: str) -> None:
    with pytest.raises(PluginError, match=message.replace("(", "\\(")):
        partition(Net(), groups, backbone="net")


@pytest.mark.parametrize("name", TINY)
def test_frozen_groups_keep_every_bit_and_their_mode_through_training_steps(name: str) -> None:
    model = zoo.create_model(name, head="mlp", classes=3, weights="random")
    last = model.groups.names[-1]
    model.freeze_all_but([HEAD, last])
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    images = torch.randn(4, *model.preprocessing.input_size)
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(model.features(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    for key, tensor in model.state_dict().items():
        if model.group_of(key) not in (HEAD, last):
            assert torch.equal(tensor, before[key]), key
    changed = {
        model.group_of(key) for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert changed == {HEAD, last}


class Recurrent(nn.Module):
    """A convolution, a recurrent layer as Sequencer's, and one with dropout between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.dropping = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.conv(images).flatten(2).transpose(1, 2)
        output: torch.Tensor = self.dropping(self.rnn(rows)[0])[0].mean(1)
        return output


def test_frozen_recurrent_layers_are_in_the_mode_in_which_cudnn_passes_gradients_through_them() -> None:
    groups = [zoo.Group(name=name, members=(name,)) for name in ("conv", "rnn", "dropping")]
    size = zoo.Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = zoo.Backbone(module=Recurrent(), shape=zoo.FeatureShape(pooled=4), groups=tuple(groups))
    model = ZooModel(backbone, nn.Linear(4, 2), name="recurrent", classes=("x", "y"), preprocessing=size)
    model.freeze_all_but([HEAD, "conv"])
    images = torch.randn(2, 3, 8, 8)
    before = model.eval()(images)
    assert not any(module.training for module in model.modules())
    model.train()
    assert {name for name, module in model.named_modules() if module.training and name.startswith("backbone.")} == {
        "backbone.conv",
        "backbone.rnn",
    }
    assert torch.equal(model(images), before)
    model.loss(model.features(images), torch.tensor([0, 1])).backward()
    assert model.get_parameter("backbone.conv.weight").grad is not None
    assert model.get_parameter("backbone.rnn.weight_ih_l0").grad is None


def test_calling_train_again_leaves_frozen_modules_in_evaluation_mode() -> None:
    model = zoo.create_model("torchvision/resnet18", classes=2, weights="random")
    model.freeze_all_but([HEAD, "layer4"])
    for mode in (True, False, True):
        model.train(mode)
    training = {
        name for name, module in model.named_modules() if module.training and isinstance(module, nn.BatchNorm2d)
    }
    assert training and all(name.startswith("backbone.layer4") for name in training)
    assert model.head.training


def test_a_wholly_frozen_backbone_builds_no_graph() -> None:
    model = zoo.create_model("torchvision/squeezenet1_1", classes=2, weights="random")
    model.freeze_all_but([HEAD])
    assert model.features(torch.zeros(1, 3, 64, 64)).grad_fn is None


def test_unfreezing_gives_back_gradients_and_training_mode() -> None:
    model = zoo.create_model("torchvision/resnet18", classes=2, weights="random")
    model.freeze_all_but([HEAD])
    model.freeze_all_but([HEAD, *model.groups.names])
    model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def _with(width: int, head: nn.Module) -> ZooModel:
    model = zoo.create_model("timm/test_resnet", classes=2, weights="random")
    backbone = zoo.Backbone(
        module=model.backbone,
        shape=zoo.FeatureShape(pooled=width),
        groups=(zoo.Group(name="all", members=tuple(name for name, _ in model.backbone.named_children() if name)),),
    )
    return ZooModel(backbone, head, name="x/test", classes=("a", "b"), preprocessing=model.preprocessing)


def test_a_backbone_that_declares_another_width_than_it_returns_is_named() -> None:
    with pytest.raises(PluginError, match="x/test declares pooled"):
        check_shapes(_with(7, nn.Linear(7, 2)))


def test_a_head_with_another_number_of_outputs_is_refused() -> None:
    width = zoo.create_model("timm/test_resnet", classes=2, weights="random").shape.pooled
    with pytest.raises(PluginError, match="must return \\[2, 2\\]"):
        check_shapes(_with(width, nn.Linear(width, 5)))
