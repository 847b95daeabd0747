"""A module of one's own as a backbone: what is measured, what is copied, what is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import zoo
from torch import Tensor, nn
from zoo.errors import OptionError, Refused
from zoo.planning.objects import name_objects
from zoo.planning.own_module import module_backbone
from zoo.registry.registry import default_registry

SIZE = zoo.Preprocessing(input_size=(3, 16, 16), resize_size=(18, 18), mean=(0.5,) * 3, std=(0.5,) * 3)


def small(*further: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 6, 3, 2), *further
    )


def pooled() -> nn.Sequential:
    return small(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def built(spec: zoo.BackboneSpec, state: dict[str, Tensor] | None = None) -> zoo.Backbone:
    return spec.build(tag=None, state=state)


class Wrapped(nn.Module):
    """A small module whose output goes through a function."""

    def __init__(self, after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.after = pooled(), after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.body(x))


def test_features_groups_and_name_are_those_of_the_module() -> None:
    spec = module_backbone(pooled(), preprocessing=SIZE, name="mine")

    backbone = built(spec)
    assert (spec.name, spec.weights) == ("session/mine", ())
    assert [(group.name, group.members) for group in backbone.groups] == [("0", ("0",)), ("1", ("1",))]
    assert backbone.shape == zoo.FeatureShape(pooled=6) and backbone.map is None
    assert backbone.pool(backbone.module, torch.zeros(3, 3, 16, 16)).shape == (3, 6)


def test_a_map_is_pooled_by_its_mean_and_heads_may_have_it() -> None:
    backbone = built(module_backbone(small(), preprocessing=SIZE))

    images = torch.randn(2, 3, 16, 16)
    assert backbone.map is not None and backbone.shape == zoo.FeatureShape(pooled=6, map=6)
    maps = backbone.map(backbone.module.eval(), images)
    assert torch.equal(backbone.pool(backbone.module, images), maps.mean((2, 3)))


def test_the_copy_has_the_values_of_the_call_and_the_module_never_changes() -> None:
    module = pooled().train()
    module[1].weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())

    spec = module_backbone(module, preprocessing=SIZE)
    with torch.no_grad():
        module[1].bias.fill_(7)
    assert spec.own is not None and torch.equal(spec.own.state()["1.bias"], before["1.bias"])

    filled = built(spec, dict(spec.own.state()))
    with torch.no_grad():
        for tensor in filled.module.state_dict().values():
            tensor.zero_()
    assert torch.equal(spec.own.state()["1.bias"], before["1.bias"])
    assert module.training and not module[1].weight.requires_grad and torch.equal(module[1].bias, torch.full((6,), 7.0))


def test_random_values_are_drawn_by_every_layer_or_refused() -> None:
    spec = module_backbone(pooled(), preprocessing=SIZE)
    assert spec.own is not None
    torch.manual_seed(1)
    one = built(spec).module.state_dict()
    torch.manual_seed(1)
    assert torch.equal(built(spec).module.state_dict()["1.weight"], one["1.weight"])
    assert not torch.equal(spec.own.state()["1.weight"], one["1.weight"])

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = pooled(), nn.ParameterList([torch.ones(6)])

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * self.scale[0]

    kept = module_backbone(Scaled(), preprocessing=SIZE, groups={"all": ["body", "scale"]})
    with pytest.raises(Refused, match=r"its part 'scale' \(ParameterList\) holds '0' and has no reset_parameters"):
        zoo.create_model(kept, classes=2, weights="random")
    # the next step of the message
    assert zoo.create_model(kept, classes=2)(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_what_timm_states_is_the_preprocessing_that_zoo_knows() -> None:
    spec = module_backbone(timm.create_model("test_resnet", num_classes=0))

    assert spec.preprocessing == default_registry().backbone("timm/test_resnet").spec.preprocessing
    assert spec.name == "session/test_resnet" and not spec.warning
    assert [group.name for group in built(spec).groups] == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]


def test_a_whole_classifier_is_told_with_a_step_that_mends_it() -> None:
    module = timm.create_model("test_resnet")
    warning = module_backbone(module).warning
    assert re.search(r"looks like a whole classifier: its last layer 'fc' gives 1000 classes", warning)
    assert "Next: module.reset_classifier(0)" in warning
    module.reset_classifier(0)
    assert module_backbone(module).warning == ""

    own = nn.Sequential(pooled(), nn.Sequential(nn.Linear(6, 1000)))
    warning = module_backbone(own, preprocessing=SIZE).warning
    assert "Next: module[1][0] = torch.nn.Identity()" in warning
    own[1][0] = nn.Identity()
    assert module_backbone(own, preprocessing=SIZE).warning == ""

    by_convolution = nn.Sequential(small(), nn.Conv2d(6, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "module[1] = torch.nn.Identity()" in module_backbone(by_convolution, preprocessing=SIZE).warning


def test_frozen_and_untrained_modules_are_told() -> None:
    module = pooled()
    module[0].requires_grad_(False)
    spec = module_backbone(module, preprocessing=SIZE)
    assert spec.own is not None
    assert spec.warning.startswith("4 of 6 parameters of the module Sequential have requires_grad=False (0.0.weight")
    assert "its batch norms have seen no batch" in spec.own.warning
    module.train()(torch.randn(4, 3, 16, 16))
    again = module_backbone(module.requires_grad_(True), preprocessing=SIZE)
    assert again.own is not None and again.own.warning == again.warning == ""


def test_groups_are_given_as_a_dictionary_or_as_groups() -> None:
    as_dictionary = module_backbone(pooled(), preprocessing=SIZE, groups={"stem": "0", "body": ["1"]})
    given = (zoo.Group(name="stem", members=("0",)), zoo.Group(name="body", members=("1",)))
    assert built(as_dictionary).groups == given
    assert built(module_backbone(pooled(), preprocessing=SIZE, groups=given)).groups == given


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"stem": ["0"]}, r"the parameter '1.weight' is in no group.*They are: 0, 1\."),
        ({"stem": ["0", "1"], "body": ["1"]}, r"'1' is in the groups 'stem' and 'body'"),
        ({"stem": ["0", "1"], "body": ["0.0"]}, r"the parameter '0.0.weight' is in several groups"),
        ({"stem": ["0", "1", "layer9"]}, r"name 'layer9', which the module does not have"),
        ({"stem": []}, r"a group needs a name and members"),
        ({}, r"it needs at least one"),
        ([["0"], ["1"]], r"groups are zoo.Group objects, or a dictionary"),
    ],
)
def test_groups_that_do_not_divide_the_module_are_refused(groups: Any, said: str) -> None:
    with pytest.raises(OptionError, match=f"(?s)do not divide the module: .*{said}"):
        module_backbone(pooled(), preprocessing=SIZE, groups=groups)


def test_where_no_chain_is_seen_the_message_has_groups_that_work() -> None:
    vit = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(OptionError, match="it has parameters of its own beside its parts: cls_token") as refused:
        module_backbone(vit)
    step = re.search(r"groups=(\{.*?\})\)", str(refused.value))
    assert step
    groups = eval(step[1])  # what the message says to write
    assert [group.name for group in built(module_backbone(vit, groups=groups)).groups] == ["stem", "body"]


def views() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    module[1].weight = nn.Parameter(module[0].weight.detach())
    return module


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean = pooled(), torch.ones(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) - self.mean


class Auxiliary(nn.Module):
    """Returns a second output while it is trained, unless that is switched off, as torchvision's GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux_logits = pooled(), True

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (x, x) if self.training and self.aux_logits else x


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Linear, r"this is a class \(Linear\)"),
        (lambda: 3, r"this is a int"),
        (lambda: small(nn.Linear(9, 2)), r"was run on images \[2, 3, 16, 16\] and raised RuntimeError"),
        (lambda: Wrapped(lambda x: (x, x)), r"returns a tuple, not a tensor"),
        (lambda: Wrapped(lambda x: {"features": x}), r"returns a dict, not a tensor"),
        (Auxiliary, r"returns \[2, 6\], and a tuple in training mode"),
        (lambda: Wrapped(lambda x: x.sum(0)), r"for 2 images; it must return"),
        (lambda: Wrapped(lambda x: x.argmax(1, keepdim=True)), r"returns torch.int64"),
        (lambda: Wrapped(lambda x: x[:, None]), r"returns \[2, 1, 6\] for images .* a map\[N, C, H, W\]"),
        (lambda: Wrapped(lambda x: x + torch.rand_like(x)), r"gives other outputs when it is run again"),
        (lambda: small().half(), r"is torch.float16, and zoo trains in float32"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), r"is lazy: '0.weight' has no shape yet"),
        (lambda: nn.Conv2d(3, 4, 3, device="meta"), r"has no values: 'weight' is on the meta device"),
        (nn.ReLU, r"has no parameters, so it learned nothing"),
        (views, r"has two tensors, '0.weight' and '1.weight', in one piece of memory, so that training the one may"),
        (Constant, r"It holds the tensor 'mean', which is neither parameter nor buffer"),
        (lambda: nn.Sequential(small(), Permuted()), r"that the channels are the second dimension.* does not show"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_with_what_was_seen(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(OptionError, match=f"(?s){said}.*\nNext: "):
        module_backbone(make(), preprocessing=SIZE)


def test_an_auxiliary_output_is_switched_off_as_the_message_says() -> None:
    module = Auxiliary()
    module.aux_logits = False
    assert built(module_backbone(module, preprocessing=SIZE)).shape == zoo.FeatureShape(pooled=6)


class Permuted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def test_a_module_without_preprocessing_is_refused_with_a_line_that_works() -> None:
    with pytest.raises(OptionError, match=r"says nothing of its preprocessing") as refused:
        name_objects(default_registry(), backbone=pooled())
    step = re.search(r"preprocessing=(zoo\.Preprocessing\(.*\))\), with", str(refused.value))
    assert step
    assert module_backbone(pooled(), preprocessing=eval(step[1])).preprocessing.input_size == (3, 224, 224)

    with pytest.raises(OptionError, match=r"was given the preprocessing 224"):
        module_backbone(pooled(), preprocessing=224)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"'my net' is no backbone name.*\nNext: name='my-net'"):
        module_backbone(pooled(), preprocessing=SIZE, name="my net")
