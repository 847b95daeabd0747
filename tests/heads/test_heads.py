"""Every bundled head as the registry offers it, compared with its formula, which is written out again here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional
from zoo.registry.registry import default_registry
from zoo.specs.options import build_options

HEADS: dict[str, zoo.HeadSpec] = {head.spec.name: head.spec for head in default_registry().heads() if head.plugin.own}
TRAINED = [name for name, spec in HEADS.items() if spec.fit is None]
WITH_MAP = [name for name, spec in HEADS.items() if spec.needs == "map"]
LAYERS = (2, 3)
"""Widths of the groups' means."""
WITH_DROPOUT = {"dropout_linear", "mlp", "concat_pool", "attention_pool"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    # Tensors this small gain nothing from more threads, and on a busy machine threads wait for one another.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str, features: int, classes: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    # Pooled features and map differ in width: a head that reads the wrong one cannot run.
    return HEADS[name].build(shape_of(name, features), classes, HEADS[name].options(**options))


def shape_of(name: str, features: int) -> zoo.FeatureShape:
    if HEADS[name].needs == "map":
        return zoo.FeatureShape(pooled=features + 1, map=features)
    return zoo.FeatureShape(pooled=features, map=features + 1, layers=LAYERS if name == "layers" else None)


def inputs(name: str, images: int, features: int, size: tuple[int, int] = (3, 5)) -> Tensor:
    """Random features[N, F], or map[N, F, *size] for a head that needs one; positive, as after a ReLU."""
    generator = torch.Generator().manual_seed(images)
    width = features + sum(shape_of(name, features).layers or ())
    shape = (images, features, *size) if HEADS[name].needs == "map" else (images, width)
    return torch.randn(shape, generator=generator).abs() + 0.1


def logits_of(module: nn.Module, features: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = module.eval()(features)
    return logits


def loss_of(spec: zoo.HeadSpec, module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    return spec.loss(module, features, targets) if spec.loss else functional.cross_entropy(module(features), targets)


def fit(name: str, module: nn.Module, features: Tensor, targets: Tensor) -> None:
    fit_head = HEADS[name].fit
    assert fit_head is not None
    with torch.no_grad():
        fit_head(module, features, targets)


def trained(name: str, features: int = 12, classes: int = 3) -> nn.Module:
    """Return a head after one step or fit: its parameters and buffers differ from a fresh head's."""
    module, targets = build(name, features, classes), torch.arange(9) % classes
    if HEADS[name].fit is not None:
        fit(name, module, inputs(name, 9, features), targets)
        return module
    loss_of(HEADS[name], module.train(), inputs(name, 9, features), targets).backward()
    step(module)
    return module


def step(module: nn.Module, rate: float = 0.01) -> None:
    """Move each parameter by `rate` against the sign of its gradient, as Adam does in its first step."""
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter -= rate * parameter.grad.sign()


def unit_cosines(features: Tensor, weights: Tensor) -> Tensor:
    pairs = [[float(x @ w / (x.norm() * w.norm())) for w in weights.double()] for x in features.double()]
    return torch.tensor(pairs)


def test_the_bundled_heads_are_these() -> None:
    assert sorted(HEADS) == [
        *("arcface", "attention_pool", "concat_pool", "cosine", "dropout_linear", "gem", "layers", "linear", "mlp"),
        "prototype",
    ]
    assert [name for name in HEADS if HEADS[name].needs == "layers"] == ["layers"]
    assert sorted(WITH_MAP) == ["attention_pool", "concat_pool", "gem"]
    assert [name for name in HEADS if HEADS[name].loss] == ["arcface"]
    assert [name for name in HEADS if HEADS[name].fit] == ["prototype"]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_a_one_line_summary_and_references(name: str) -> None:
    assert HEADS[name].summary.endswith(".") and "\n" not in HEADS[name].summary
    assert name == "linear" or HEADS[name].references
    assert all(reference.startswith(("arXiv:", "https://")) for reference in HEADS[name].references)


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize("features", [1, 33, 2048])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_one_logit_per_class(name: str, features: int, classes: int) -> None:
    if name == "attention_pool":
        features = min(features, 512)  # it has 3 * features² weights
    module = build(name, features, classes)
    for images in (1, 5):
        logits = logits_of(module, inputs(name, images, features))
        assert logits.shape == (images, classes) and logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5)])
@pytest.mark.parametrize("name", WITH_MAP)
def test_a_head_accepts_maps_of_any_size(name: str, size: tuple[int, int]) -> None:
    module = build(name, 24, 4)
    for images in (1, 3):
        maps = inputs(name, images, 24, size)
        strided = maps.contiguous(memory_format=torch.channels_last)
        logits = logits_of(module, maps)
        assert logits.shape == (images, 4) and logits.isfinite().all()
        assert torch.allclose(logits, logits_of(module, strided), atol=1e-6)
        assert torch.allclose(logits[:1], logits_of(module, maps[:1]), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_zero_and_huge_features_give_finite_losses_and_gradients(name: str) -> None:
    for value in (0.0, 1e4):
        module = build(name, 16, 3).eval()
        features = torch.full_like(inputs(name, 4, 16), value).requires_grad_()
        loss = loss_of(HEADS[name], module, features, torch.arange(4) % 3)
        loss.backward()
        gradients = [features.grad, *(parameter.grad for parameter in module.parameters())]
        assert loss.isfinite()
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_parameter_and_a_step_lowers_the_loss(name: str) -> None:
    module = build(name, 16, 3).eval()
    features, targets = inputs(name, 24, 16), torch.arange(24) % 3
    before = loss_of(HEADS[name], module, features, targets)
    before.backward()
    without = [
        parameter for parameter, value in module.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert not without
    step(module, rate=1e-4)
    assert loss_of(HEADS[name], module, features, targets) < before


@pytest.mark.parametrize("name", TRAINED)
def test_a_head_learns_separable_classes(name: str) -> None:
    targets = torch.arange(60) % 3
    features = inputs(name, 60, 16)
    features[torch.arange(60), targets] += 3
    module = build(name, 16, 3).train()
    for _ in range(40):
        module.zero_grad()
        loss_of(HEADS[name], module, features, targets).backward()
        step(module)
    assert (logits_of(module, features).argmax(1) == targets).float().mean() > 0.95


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_active_in_training_only(name: str) -> None:
    options = {"p": 0.5} if name in WITH_DROPOUT else {}
    module, features = build(name, 64, 4, **options), inputs(name, 8, 64)
    assert torch.equal(module.eval()(features), module(features))
    same = torch.equal(module.train()(features), module(features))
    assert same == (name not in WITH_DROPOUT)


@pytest.mark.parametrize("name", sorted(WITH_DROPOUT))
def test_option_p_is_the_dropout_probability(name: str) -> None:
    dropouts = [module for module in build(name, 8, 2, p=0.6).modules() if isinstance(module, nn.Dropout)]
    not_zeroed = [float(dropout(torch.ones(100_000)).count_nonzero()) / 100_000 for dropout in dropouts]
    assert not_zeroed == pytest.approx([0.7, 0.4] if name == "concat_pool" else [0.4], abs=0.01)


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_state_gives_bit_identical_logits(name: str) -> None:
    module, features = trained(name), inputs(name, 5, 12)
    torch.manual_seed(1)
    again = HEADS[name].build(zoo.FeatureShape(pooled=12, map=12, layers=LAYERS), 3, HEADS[name].options())
    assert not torch.equal(logits_of(again, features), logits_of(module, features))
    again.load_state_dict(module.state_dict())
    assert torch.equal(logits_of(again, features), logits_of(module, features))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_and_runs_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        module = build(name, 512, 10)
    assert {value.device.type for value in module.state_dict().values()} == {"meta"}
    assert logits_of(module, inputs(name, 2, 512, (7, 7)).to("meta")).shape == (2, 10)
    built = {key: value.shape for key, value in build(name, 512, 10).state_dict().items()}
    assert {key: value.shape for key, value in module.state_dict().items()} == built


@pytest.mark.parametrize("name", HEADS)
def test_a_head_can_be_traced(name: str) -> None:
    module, features = trained(name).eval(), inputs(name, 4, 12)
    traced = torch.fx.symbolic_trace(module)
    assert torch.allclose(logits_of(traced, features), logits_of(module, features), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_state_dict_keys_never_change(name: str) -> None:
    keys = {
        "linear": "fc.weight fc.bias",
        "dropout_linear": "fc.weight fc.bias",
        "layers": "fc.weight fc.bias",
        "mlp": "hidden.weight hidden.bias fc.weight fc.bias",
        "concat_pool": "norm.weight norm.bias norm.running_mean norm.running_var norm.num_batches_tracked "
        "hidden.weight hidden_norm.weight hidden_norm.bias hidden_norm.running_mean hidden_norm.running_var "
        "hidden_norm.num_batches_tracked fc.weight",
        "gem": "pool.p fc.weight fc.bias",
        "attention_pool": "pool.query pool.key pool.value pool.norm_in.weight pool.norm_in.bias "
        "pool.projection.weight pool.projection.bias pool.norm_out.weight pool.norm_out.bias "
        "fc.weight fc.bias",
        "cosine": "weight scale",
        "arcface": "weight",
        "prototype": "prototypes",
    }
    assert list(build(name, 8, 3).state_dict()) == keys[name].split()


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        *((name, "p", [-0.1, 1.0, math.nan]) for name in sorted(WITH_DROPOUT)),
        *((name, "hidden", [0, -1, math.nan]) for name in ("mlp", "concat_pool")),
        ("gem", "p", [0.0, -1.0, math.inf, math.nan]),
        ("attention_pool", "heads", [0, -8, math.nan]),
        *((name, "scale", [0.0, -1.0, math.inf, math.nan]) for name in ("cosine", "arcface", "prototype")),
        ("arcface", "margin", [-0.1, math.pi / 2, math.nan]),
        ("prototype", "metric", ["manhattan", ""]),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_name(name: str, option: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^{option} must be .*got '?{value}"):
            HEADS[name].options(**{option: value})


@pytest.mark.parametrize(
    ("name", "given", "options"),
    [
        ("attention_pool", {"heads": "none"}, {"heads": None}),
        ("attention_pool", {"heads": "4", "p": "0.1"}, {"heads": 4, "p": 0.1}),
        ("prototype", {"metric": "euclidean"}, {"metric": "euclidean"}),
        ("arcface", {"margin": "0", "scale": "30"}, {"margin": 0.0, "scale": 30.0}),
        ("gem", {"p": "1"}, {"p": 1.0}),
    ],
)
def test_options_can_be_given_as_text(name: str, given: dict[str, str], options: dict[str, Any]) -> None:
    assert build_options(name, HEADS[name].options, given) == HEADS[name].options(**options)


@pytest.mark.parametrize(("name", "option"), [("gem", "p"), ("cosine", "scale")])
def test_a_learned_scalar_can_be_initialised_with_a_whole_number(name: str, option: str) -> None:
    assert float(build(name, 8, 2, **{option: 4}).state_dict()[{"p": "pool.p"}.get(option, option)]) == 4


def test_option_hidden_is_the_width_of_the_hidden_layer() -> None:
    shapes = {name: tuple(value.shape) for name, value in build("mlp", 8, 3, hidden=5).named_parameters()}
    assert shapes == {"hidden.weight": (5, 8), "hidden.bias": (5,), "fc.weight": (3, 5), "fc.bias": (3,)}
    shapes = {name: tuple(value.shape) for name, value in build("concat_pool", 8, 3, hidden=5).named_parameters()}
    assert shapes["hidden.weight"] == (5, 16) and shapes["fc.weight"] == (3, 5) and shapes["hidden_norm.bias"] == (5,)


@pytest.mark.parametrize("name", ["linear", "dropout_linear", "layers", "mlp"])
def test_linear_heads_are_linear_and_mlp_has_a_gelu_between_two_linear_layers(name: str) -> None:
    module, features = trained(name), inputs(name, 6, 12)
    state, hidden = module.state_dict(), features
    if name == "mlp":
        hidden = features @ state["hidden.weight"].T + state["hidden.bias"]
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    assert torch.allclose(logits_of(module, features), hidden @ state["fc.weight"].T + state["fc.bias"], atol=1e-5)


def test_concat_pool_is_fastais_head() -> None:
    module, maps = trained("concat_pool").eval(), inputs("concat_pool", 6, 12)
    assert [type(child).__name__ for child in module.children()] == [
        *("ConcatPool", "BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear")
    ]
    state = module.state_dict()
    both = [torch.stack([channel.max() for channel in image] + [channel.mean() for channel in image]) for image in maps]
    pooled = torch.stack(both)
    assert torch.allclose(module.get_submodule("pool")(maps), pooled, atol=1e-6)

    def normed(values: Tensor, layer: str) -> Tensor:
        spread = (state[f"{layer}.running_var"] + 1e-5).sqrt()
        return (values - state[f"{layer}.running_mean"]) / spread * state[f"{layer}.weight"] + state[f"{layer}.bias"]

    hidden = (normed(pooled, "norm") @ state["hidden.weight"].T).relu()
    expected = normed(hidden, "hidden_norm") @ state["fc.weight"].T
    assert torch.allclose(logits_of(module, maps), expected, atol=1e-5)


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 7.5])
def test_gem_is_the_generalised_mean(p: float) -> None:
    pool = build("gem", 8, 2, p=p).get_submodule("pool")
    maps = torch.randn(4, 8, 3, 5)  # values below zero too: they count as 1e-6
    expected = (maps.double().clamp(min=1e-6) ** p).mean((2, 3)) ** (1 / p)
    assert torch.allclose(pool(maps).double(), expected, rtol=1e-5)
    maps = maps.abs() + 0.1
    if p == 1:
        assert torch.allclose(pool(maps), maps.mean((2, 3)), rtol=1e-5)


def test_gem_with_a_large_exponent_approaches_the_maximum_and_its_default_is_three() -> None:
    maps = inputs("gem", 4, 8, (7, 7))
    pool = build("gem", 8, 2, p=1000.0).get_submodule("pool")
    assert torch.allclose(pool(maps), maps.amax((2, 3)), rtol=0.01)
    assert float(build("gem", 8, 2).get_parameter("pool.p").detach()) == 3


def test_gems_exponent_has_the_gradient_of_the_formula() -> None:
    pool = build("gem", 8, 2).double().get_submodule("pool")
    assert torch.autograd.gradcheck(pool, inputs("gem", 2, 8, (2, 3)).double().requires_grad_())
    exponent = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    maps = inputs("gem", 2, 8).double()
    ((maps**exponent).mean((2, 3)) ** (1 / exponent)).sum().backward()
    pool(maps).sum().backward()
    assert exponent.grad is not None and torch.allclose(pool.get_parameter("p").grad, exponent.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_pools_half_precision_in_float32(dtype: torch.dtype) -> None:
    pool, maps = build("gem", 8, 2).get_submodule("pool"), 100 * inputs("gem", 4, 8, (7, 7)).to(dtype)
    exact = pool(maps.float())  # 300³ does not fit into float16
    assert pool(maps).dtype == dtype and torch.equal(pool(maps), exact.to(dtype))
    assert torch.equal(pool.to(dtype)(maps), exact.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool.float()(maps.float()), exact)


def test_attention_pool_is_multi_head_attention_with_one_query() -> None:
    module, maps = trained("attention_pool").eval(), inputs("attention_pool", 4, 12)
    state = module.state_dict()
    heads = len(state["pool.query"])
    assert heads == 6  # the largest up to 8 that divides 12
    reference = nn.MultiheadAttention(12, heads, batch_first=True).eval()
    # torch's own attention projects the query as well: with the identity it is ours.
    weights = [torch.eye(12), state["pool.key"].reshape(12, 12), state["pool.value"].reshape(12, 12)]
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat(weights),
            "in_proj_bias": torch.zeros(36),
            "out_proj.weight": state["pool.projection.weight"],
            "out_proj.bias": state["pool.projection.bias"],
        }
    )

    def normed(values: Tensor, layer: str) -> Tensor:
        return functional.layer_norm(values, (12,), state[f"pool.{layer}.weight"], state[f"pool.{layer}.bias"])

    positions = normed(maps.permute(0, 2, 3, 1).reshape(4, 15, 12), "norm_in")
    pooled, _ = reference(state["pool.query"].reshape(1, 1, 12).expand(4, 1, 12), positions, positions)
    expected = normed(pooled[:, 0], "norm_out") @ state["fc.weight"].T + state["fc.bias"]
    assert torch.allclose(logits_of(module, maps), expected, atol=1e-5)


def test_attention_pool_depends_on_contents_and_not_on_positions() -> None:
    module, maps = trained("attention_pool").eval(), inputs("attention_pool", 4, 12)
    shuffled = maps.flatten(2)[:, :, torch.randperm(15)].reshape(4, 12, 5, 3)
    assert torch.allclose(logits_of(module, shuffled), logits_of(module, maps), atol=1e-5)
    changed = maps.clone()
    changed[:, :, 1, 2] = inputs("attention_pool", 5, 12)[:4, :, 0, 0]
    assert not torch.allclose(logits_of(module, changed), logits_of(module, maps), atol=1e-3)


@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (7, 7), (11, 1), (768, 8), (1000, 8), (42, 7), (10, 5)])
def test_attention_pool_uses_the_largest_number_of_heads_that_divides_the_channels(channels: int, heads: int) -> None:
    assert len(build("attention_pool", channels, 2).get_parameter("pool.query")) == heads


def test_heads_that_do_not_divide_the_channels_are_refused_with_the_divisors() -> None:
    assert len(build("attention_pool", 48, 2, heads=24).get_parameter("pool.query")) == 24
    with pytest.raises(ValueError, match=r"48 channels, got 5; up to 16 these do: 1, 2, 3, 4, 6, 8, 12, 16$"):
        build("attention_pool", 48, 2, heads=5)
    with pytest.raises(ValueError, match=r"8 channels, got 16; up to 16 these do: 1, 2, 4, 8$"):
        build("attention_pool", 8, 2, heads=16)


@pytest.mark.parametrize(("name", "scale"), [("cosine", 10), ("arcface", 64)])
def test_logits_are_scaled_cosines_for_features_of_any_length(name: str, scale: float) -> None:
    module, features = build(name, 12, 5), torch.randn(6, 12)
    expected = scale * unit_cosines(features, module.get_parameter("weight").detach())
    for length in (1, 1e-3, 1e4):
        assert torch.allclose(logits_of(module, length * features), expected, atol=1e-4)
    module = build(name, 12, 5, scale=scale / 2)
    assert torch.allclose(logits_of(module, features), expected / 2, atol=1e-4)


def test_cosine_learns_its_scale_and_arcface_does_not() -> None:
    assert [name for name, _ in build("cosine", 4, 2).named_parameters()] == ["weight", "scale"]
    assert [name for name, _ in build("arcface", 4, 2).named_parameters()] == ["weight"]


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5])
def test_arcface_adds_the_margin_to_the_angle_of_the_true_class(margin: float) -> None:
    module, features, targets = build("arcface", 12, 5, margin=margin), torch.randn(40, 12), torch.arange(40) % 5
    angles = unit_cosines(features, module.get_parameter("weight").detach()).double().acos()
    logits = 64 * angles.cos()
    for image, target in enumerate(targets.tolist()):
        angle = float(angles[image, target])
        with_margin = math.cos(angle + margin)
        if angle + margin >= math.pi:
            with_margin = math.cos(angle) - margin * math.sin(margin)
        logits[image, target] = 64 * with_margin
    expected = functional.cross_entropy(logits, targets)
    loss = loss_of(HEADS["arcface"], module, features, targets).detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    plain = float(functional.cross_entropy(logits_of(module, features), targets))
    assert float(loss) == pytest.approx(plain) if margin == 0 else float(loss) > plain + 1


@pytest.mark.parametrize("margin", [0.05, 0.5, 1.5])
def test_arcfaces_loss_increases_with_the_angle_from_0_to_180_degrees(margin: float) -> None:
    module = build("arcface", 2, 2, margin=margin, scale=8.0)
    with torch.no_grad():
        module.get_parameter("weight").copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    losses, slopes = [], []
    for step in range(0, 181, 3):
        angle = torch.tensor(math.radians(step), requires_grad=True)
        feature = torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
        loss = loss_of(HEADS["arcface"], module, feature, torch.tensor([0]))
        (slope,) = torch.autograd.grad(loss, angle)
        # The loss of two classes is log(1 + exp(other - true)). What the other class adds is subtracted again.
        other = module(feature)[0, 1]
        losses.append(float((loss.detach().exp() - 1).log() - other.detach()))
        slopes.append(float(slope))
    assert losses == sorted(losses) and all(math.isfinite(slope) and abs(slope) < 100 for slope in slopes)


@pytest.mark.parametrize("exact", [True, False])
def test_arcfaces_gradient_is_finite_for_features_on_and_opposite_the_weights(exact: bool) -> None:
    module = build("arcface", 12, 3)
    if exact:  # cosines of 1 and -1 without rounding, where the slope of sqrt(1 - cos²) is infinite
        with torch.no_grad():
            module.get_parameter("weight").copy_(torch.eye(3, 12))
    weights = module.get_parameter("weight").detach().clone()
    for length in (1, 3, -1):
        features = (length * weights).requires_grad_()
        module.zero_grad()
        loss_of(HEADS["arcface"], module, features, torch.arange(3)).backward()
        for gradient in (features.grad, module.get_parameter("weight").grad):
            assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() < 1e3


def test_prototypes_are_class_means_of_normalised_features() -> None:
    module, features, targets = build("prototype", 12, 3), torch.randn(20, 12), torch.randint(3, (20,))
    assert torch.equal(logits_of(module, features), torch.zeros(20, 3)) and not list(module.parameters())
    fit("prototype", module, features, targets)
    means = torch.zeros(3, 12, dtype=torch.float64)
    for image, target in enumerate(targets.tolist()):
        feature = features[image].double()
        means[target] += feature / feature.norm() / int((targets == target).sum())
    assert torch.allclose(module.get_buffer("prototypes").double(), means, atol=1e-7)
    assert torch.allclose(logits_of(module, features), 30 * unit_cosines(features, means), atol=1e-4)
    assert torch.allclose(logits_of(module, 100 * features), logits_of(module, features), atol=1e-4)


def test_the_euclidean_logits_of_prototype_do_not_grow_with_the_number_of_features() -> None:
    for width in (2, 12, 2048):
        module, features, targets = (
            build("prototype", width, 3, metric="euclidean"),
            torch.randn(20, width),
            torch.arange(20) % 3,
        )
        fit("prototype", module, features, targets)
        means = module.get_buffer("prototypes")
        units = features / features.norm(dim=1, keepdim=True)
        expected = torch.stack([-15 * (units - mean).square().sum(1) for mean in means], dim=1)
        logits = logits_of(module, features)
        assert torch.allclose(logits, expected, atol=1e-4) and logits.min() >= -60.001 and logits.max() <= 1e-4


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_prototype_separates_classes_and_its_fit_does_not_depend_on_the_order(metric: str) -> None:
    targets = torch.arange(60) % 3
    features = inputs("prototype", 60, 16)
    features[torch.arange(60), targets] += 3
    module, again, shuffled = (build("prototype", 16, 3, metric=metric) for _ in range(3))
    fit("prototype", module, features, targets)
    fit("prototype", again, features, targets)
    assert torch.equal(module.get_buffer("prototypes"), again.get_buffer("prototypes"))
    order = torch.randperm(60)
    fit("prototype", shuffled, features[order], targets[order])
    assert torch.allclose(module.get_buffer("prototypes"), shuffled.get_buffer("prototypes"), rtol=1e-6)
    assert (logits_of(module, features).argmax(1) == targets).float().mean() > 0.95


def test_a_class_without_a_feature_is_named_and_nothing_is_changed() -> None:
    module = trained("prototype")
    before = module.get_buffer("prototypes").clone()
    with pytest.raises(ValueError, match=r"class 1$"):
        fit("prototype", module, torch.randn(4, 12), torch.tensor([0, 2, 0, 2]))
    with pytest.raises(ValueError, match=r"class 0, 2$"):
        fit("prototype", module, torch.randn(4, 12), torch.tensor([1, 1, 1, 1]))
    assert torch.equal(module.get_buffer("prototypes"), before)


def test_prototypes_of_half_precision_features_are_float32() -> None:
    module = build("prototype", 12, 2)
    features, targets = torch.randn(8, 12).to(torch.bfloat16), torch.arange(8) % 2
    fit("prototype", module, features, targets)
    means = torch.stack([functional.normalize(features.double()[targets == index], dim=1).mean(0) for index in (0, 1)])
    assert torch.equal(module.get_buffer("prototypes"), means.float())
