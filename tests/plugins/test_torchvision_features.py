"""The provider torchvision: its maps (the features before pooling), and its backbones for other input sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops import StochasticDepth

from zoo_torchvision import build as building
from zoo_torchvision import catalogue
from zoo_torchvision.build import build
from zoo_torchvision.features import feature_map

ARCHITECTURES = sorted(catalogue.architectures())

# They change no shape, and take most of the time of a forward pass on the meta device.
SHAPE_KEEPERS = (
    *(nn.BatchNorm2d, nn.LayerNorm, nn.Dropout, StochasticDepth),
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid),
)


@contextmanager
def no_initial_values() -> Iterator[None]:
    """Skip drawing initial values that nothing reads: on the meta device, or before a state is loaded."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where torchvision's own model computes the map, and what it does with it next."""

    rest: Callable[[Any, Tensor], Tensor]
    """(whole model, map[N, C, H, W]) -> the classifier's input[N, F]."""
    goes_into: str = ""
    """The module whose input is the map; empty if the pooling is no module."""
    comes_out_of: str = ""
    """The module whose output is the map, if the pooling is no module."""
    then: Callable[[Tensor], Tensor] = torch.clone
    """What the model does with that output before pooling."""
    size: tuple[int, int] = (64, 96)
    arguments: tuple[tuple[str, Any], ...] = ()


def pooled_by_module(whole: Any, features: Tensor) -> Tensor:
    return whole.avgpool(features).flatten(1)


def pooled_by_function(whole: Any, features: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


def with_hidden_layers(whole: Any, features: Tensor) -> Tensor:
    return whole.classifier[:-1](pooled_by_module(whole, features))


PLAIN = Upstream(goes_into="avgpool", rest=pooled_by_module)
CONVERTING = (("aux_logits", False), ("transform_input", True), ("init_weights", True))

FAMILIES = {
    "alexnet": Upstream(goes_into="avgpool", rest=with_hidden_layers),
    "convnext_tiny": Upstream(goes_into="avgpool", rest=lambda whole, x: whole.classifier[:-1](whole.avgpool(x))),
    "densenet121": Upstream(comes_out_of="features", then=F.relu, rest=pooled_by_function),
    "efficientnet_b0": PLAIN,
    "googlenet": Upstream(goes_into="avgpool", rest=pooled_by_module, arguments=CONVERTING),
    "inception_v3": Upstream(goes_into="avgpool", rest=pooled_by_module, arguments=CONVERTING, size=(96, 160)),
    "maxvit_t": Upstream(goes_into="classifier", rest=lambda whole, x: whole.classifier[:-1](x), size=(224, 224)),
    "mnasnet0_5": Upstream(comes_out_of="layers", rest=pooled_by_function),
    "mobilenet_v2": Upstream(comes_out_of="features", rest=pooled_by_function),
    "mobilenet_v3_small": Upstream(goes_into="avgpool", rest=with_hidden_layers),
    "regnet_y_400mf": PLAIN,
    "resnet18": PLAIN,
    "shufflenet_v2_x0_5": Upstream(comes_out_of="conv5", rest=pooled_by_function),
    # The classifier's last layer is the pooling.
    "squeezenet1_1": Upstream(goes_into="classifier", rest=lambda whole, x: whole.classifier[-1](x).flatten(1)),
    "swin_t": PLAIN,
    "swin_v2_t": PLAIN,
    "vgg11": Upstream(goes_into="avgpool", rest=with_hidden_layers, arguments=(("init_weights", False),)),
}

# Modules after the map, which its gradients do not reach.
BEHIND_THE_MAP = {
    "alexnet": {"classifier.1", "classifier.4"},
    "convnext_tiny": {"classifier.0"},
    "densenet121": set(),
    "mobilenet_v3_small": {"classifier.0"},
    "vit_b_32": set(),
}


def on_meta(architecture: str, tag: str | None = None, input_size: tuple[int, int] | None = None) -> zoo.Backbone:
    with torch.device("meta"), no_initial_values():
        backbone = build(architecture, tag=tag, state=None, input_size=input_size)
    backbone.module.eval()
    return backbone


def loaded(architecture: str, state: dict[str, Tensor], input_size: tuple[int, int] | None = None) -> zoo.Backbone:
    with no_initial_values():
        backbone = build(architecture, tag=None, state=state, input_size=input_size)
    backbone.module.eval()
    return backbone


def upstream(architecture: str, **arguments: Any) -> Any:
    """Return torchvision's own model with random weights and running means other than the initial ones."""
    torch.manual_seed(0)
    module = models.get_model(architecture, weights=None, **arguments)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return module.eval()


def map_in(backbone: zoo.Backbone, images: Tensor) -> Tensor:
    assert backbone.map is not None
    return backbone.map(backbone.module, images)


def native_size(architecture: str) -> tuple[int, ...]:
    size: tuple[int, ...] = catalogue.resolve(architecture).preprocessing.input_size
    return size


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # Relative to their spread: random weights may give numbers so small that all would be close.
    scale = expected.std()
    assert scale > 0
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-5, atol=1e-5)


def record(whole: nn.Module, name: str, *, output: bool = False) -> list[Tensor]:
    """Return a list that collects copies of a module's inputs, or outputs, in the forward passes that follow."""
    tensors: list[Tensor] = []
    module = whole.get_submodule(name)
    if output:
        module.register_forward_hook(lambda _, inputs, result: tensors.append(result.clone()))
    else:
        module.register_forward_pre_hook(lambda _, inputs: tensors.append(inputs[0].clone()))
    return tensors


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.long
def test_the_map_is_what_the_original_pools(architecture: str) -> None:
    case = FAMILIES[architecture]
    whole = upstream(architecture, **dict(case.arguments))
    reached = record(whole, case.goes_into or case.comes_out_of, output=bool(case.comes_out_of))
    linears = [name for name, module in whole.named_modules() if isinstance(module, nn.Linear)]
    classified = record(whole, linears[-1]) if linears else []
    backbone = loaded(architecture, whole.state_dict())
    images = torch.randn(1, 3, *case.size)
    with torch.inference_mode():
        whole(images)
        features = map_in(backbone, images)
        assert_same(features, case.then(reached[0]))
        assert features.shape[:2] == (1, backbone.shape.map)
        pooled = backbone.pool(backbone.module, images)
        assert_same(case.rest(whole, features), pooled)
    for expected in classified:
        assert_same(pooled, expected.flatten(1))
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in backbone.module.modules())


@pytest.mark.long
def test_the_map_of_a_vit_has_its_patches_row_by_row() -> None:
    whole = upstream("vit_b_16", image_size=48)
    encoded, classified = record(whole, "encoder", output=True), record(whole, "heads.head")
    # All alike otherwise: the initial position embeddings and biases are small.
    nn.init.normal_(whole.encoder.pos_embedding)
    backbone = loaded("vit_b_16", whole.state_dict(), (48, 48))
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        whole(images)
        features = map_in(backbone, images)
        assert features.shape == (2, 768, 3, 3)
        for row in range(3):
            for column in range(3):
                assert_same(features[:, :, row, column], encoded[0][:, 1 + 3 * row + column])
        assert_same(backbone.pool(backbone.module, images), classified[0])


@pytest.mark.long
def test_maps_have_the_promised_channels() -> None:
    """Check a quarter of them; the support matrix checks all, without these shortcuts."""
    for architecture in ARCHITECTURES[::4]:
        backbone = on_meta(architecture)
        for module in backbone.module.modules():
            if isinstance(module, SHAPE_KEEPERS):
                module.forward = lambda features: features
        with torch.inference_mode():
            features = map_in(backbone, torch.empty(2, *native_size(architecture), device="meta"))
        assert features.ndim == 4 and features.shape[:2] == (2, backbone.shape.map), architecture
        assert min(features.shape[2:]) > 1, architecture


def test_the_vgg16_features_file_has_the_same_map() -> None:
    backbone = on_meta("vgg16", "IMAGENET1K_FEATURES")
    assert backbone.shape == zoo.FeatureShape(pooled=512 * 7 * 7, map=512)
    assert map_in(backbone, torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 512, 7, 7)


@pytest.mark.long
@pytest.mark.parametrize(("architecture", "behind"), BEHIND_THE_MAP.items())
def test_gradients_of_the_map_reach_everything_before_it(architecture: str, behind: set[str]) -> None:
    backbone = on_meta(architecture)
    backbone.module.train()
    parameters = dict(backbone.module.named_parameters())
    features = map_in(backbone, torch.empty(2, *native_size(architecture), device="meta"))
    gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    unreached = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    assert {name.rpartition(".")[0] for name in unreached} == behind


def test_an_unknown_family_has_no_map_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert feature_map(nn.Sequential()) is None
    monkeypatch.setattr(building, "feature_map", lambda module: None)
    backbone = on_meta("resnet18")
    assert backbone.map is None and backbone.shape.map is None
    assert "ResNet" in backbone.no_map


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_vit_for_another_size_has_its_position_embeddings_resampled(dtype: torch.dtype) -> None:
    state = {name: torch.zeros(tensor.shape) for name, tensor in on_meta("vit_b_32").module.state_dict().items()}
    positions = torch.randn(1, 1 + 7 * 7, 768).to(dtype)
    state["encoder.pos_embedding"] = positions.clone()
    backbone = loaded("vit_b_32", state, (384, 384))
    resampled = backbone.module.state_dict()["encoder.pos_embedding"]
    float32 = OrderedDict(state | {"encoder.pos_embedding": positions.float()})
    assert torch.equal(resampled, interpolate_embeddings(384, 32, float32)["encoder.pos_embedding"])
    # Independent of torchvision's code: the class token's embedding is unchanged, and corners stay corners.
    old, new = positions[0, 1:].float().unflatten(0, (7, 7)), resampled[0, 1:].unflatten(0, (12, 12))
    assert torch.equal(resampled[0, 0], positions[0, 0].float())
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(new[corner], old[corner])
    assert torch.equal(state["encoder.pos_embedding"], positions), "the given state was changed"


def test_a_vit_accepts_the_size_that_it_was_built_for() -> None:
    backbone = on_meta("vit_b_32", input_size=(384, 384))
    images = torch.empty(1, 3, 384, 384, device="meta")
    with torch.inference_mode():
        assert map_in(backbone, images).shape == (1, 768, 12, 12)
        assert backbone.pool(backbone.module, images).shape == (1, 768)
    with pytest.raises(ValueError, match="224x384"):
        on_meta("vit_b_16", input_size=(224, 384))
    with pytest.raises(AssertionError, match="patch"):
        on_meta("vit_b_16", input_size=(230, 230))


@pytest.mark.parametrize("positions", [None, (1, 1 + 7 * 6, 768), (1, 50, 512), (2, 50, 768), (50, 768), (1, 1, 768)])
def test_a_state_that_cannot_be_resampled_is_a_mismatch(
    positions: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small as torchvision allows: only the position embeddings matter here.
    small = models.VisionTransformer(image_size=64, patch_size=32, num_layers=1, num_heads=1, hidden_dim=768, mlp_dim=8)
    monkeypatch.setattr(models, "get_model", lambda *_, **__: small)
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    del state["encoder.pos_embedding"]
    if positions is not None:
        state["encoder.pos_embedding"] = torch.zeros(positions)
    with pytest.raises(zoo.WeightsMismatch, match="pos_embedding"):
        build("vit_b_32", tag=None, state=state, input_size=(64, 64))


def test_without_an_input_size_a_state_for_another_grid_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*_: Any, **__: Any) -> nn.Module:
        return models.VisionTransformer(
            image_size=64, patch_size=32, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8
        )

    monkeypatch.setattr(models, "get_model", small)
    state = small().state_dict() | {"encoder.pos_embedding": torch.zeros(1, 1 + 7 * 7, 8)}
    build("vit_b_32", tag=None, state=state, input_size=(64, 64))
    with pytest.raises(zoo.WeightsMismatch, match="pos_embedding"):
        build("vit_b_32", tag=None, state=state)


@pytest.mark.parametrize(("architecture", "grid"), [("resnet18", (9, 7)), ("swin_t", (9, 7)), ("vgg11", (9, 6))])
def test_convolutional_networks_and_swin_accept_any_size(architecture: str, grid: tuple[int, int]) -> None:
    backbone = on_meta(architecture, input_size=(288, 200))
    images = torch.empty(1, 3, 288, 200, device="meta")
    with torch.inference_mode():
        assert map_in(backbone, images).shape[2:] == grid
        assert backbone.pool(backbone.module, images).shape == (1, backbone.shape.pooled)


@pytest.mark.parametrize(("size", "grid"), [((448, 448), (14, 14)), ((224, 221), (7, 7))])
def test_maxvit_accepts_sizes_that_its_windows_divide(size: tuple[int, int], grid: tuple[int, int]) -> None:
    backbone = on_meta("maxvit_t", input_size=size)
    images = torch.empty(1, 3, *size, device="meta")
    with torch.inference_mode():
        assert map_in(backbone, images).shape == (1, 512, *grid)


@pytest.mark.parametrize("size", [(256, 256), (224, 256), (225, 224)])
def test_maxvit_is_not_built_for_sizes_that_its_windows_do_not_divide(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="divisible by partition size"):
        on_meta("maxvit_t", input_size=size)


def test_maxvit_does_not_run_on_grids_that_are_not_square() -> None:
    backbone = on_meta("maxvit_t", input_size=(448, 224))
    with torch.inference_mode(), pytest.raises(AssertionError, match="divisible by partition size"):
        map_in(backbone, torch.empty(1, 3, 448, 224, device="meta"))


def test_the_state_of_a_maxvit_fits_every_size_unchanged() -> None:
    # Relative positions, both the parameters and their index, belong to one window, whatever the number of windows.
    state = upstream("maxvit_t").state_dict()
    own = loaded("maxvit_t", state, (448, 448)).module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    with no_initial_values():
        fresh = models.get_model("maxvit_t", input_size=(448, 448)).state_dict()
    indices = [name for name in own if name.endswith("position_index")]
    assert indices and all(torch.equal(fresh[name], state[name]) for name in indices)
