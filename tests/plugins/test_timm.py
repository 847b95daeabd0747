"""The timm provider: its index, its groups, and weights loaded through timm's own conversion."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import timm
import torch
import zoo
from PIL import Image
from torch import Tensor, nn

import zoo_timm
from zoo_timm import build_index, catalogue, index, upstream
from zoo_timm.features import feature_map, mean_over_positions
from zoo_timm.weights import classifier_prefixes

SHIPPED = json.loads(catalogue.INDEX.read_text("utf-8"))
TINY = timm.list_models("test_*")
ENCODERS = ["deepseek_vit_412m_enc", "gemma4_vit_167m_enc", "mobilenetv5_300m_enc", "qwen3_vit_88m_enc"]
FAMILIES = [
    *("beit_base_patch16_224", "caformer_s18", "cait_xxs24_224", "coat_tiny", "convnext_atto", "crossvit_tiny_240"),
    *("csatv2", "densenetblur121d", "dla34", "efficientnet_b0", "efficientvim_m1", "eva02_tiny_patch14_224"),
    *("fasternet_t0", "gemma4_vit_570m_enc", "hrnet_w18_small", "levit_128s", "mobilenetv3_small_100", "pit_ti_224"),
    *("rdnet_tiny", "resnet50_clip", "rexnet_100", "swinv2_cr_tiny_224", "tresnet_m", "vgg11_bn", "volo_d1_224"),
    *("vit_base_patch16_siglip_224", "vit_srelpos_small_patch16_224", "xcit_nano_12_p8_224"),
]


def _built(name: str, state: Mapping[str, Tensor] | None = None) -> zoo.Backbone:
    architecture, _, tag = name.partition(".")
    return zoo_timm.resolve(architecture).build(tag=tag or None, state=state)


def _on_meta(name: str) -> zoo.Backbone:
    with torch.device("meta"):
        return _built(name)


def _upstream(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    for parameter in model.parameters():  # many start at zero or one, which hides a swap
        nn.init.normal_(parameter, std=0.05)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


def _images(name: str, count: int = 2) -> Tensor:
    size = zoo_timm.resolve(name).preprocessing.input_size
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(0))


def _held(module: nn.Module, member: str) -> list[Tensor]:
    parent, _, last = member.rpartition(".")
    owner = module.get_submodule(parent)
    own = {**dict(owner.named_parameters(recurse=False)), **dict(owner.named_buffers(recurse=False))}
    if last in own:
        return [own[last]]
    whole = module.get_submodule(member)
    return [*whole.parameters(), *whole.buffers()]


def _assert_partition(backbone: zoo.Backbone) -> None:
    module = backbone.module
    held = [id(tensor) for group in backbone.groups for member in group.members for tensor in _held(module, member)]
    every = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    assert sorted(held) == sorted(every)
    last = [tensor for member in backbone.groups[-1].members for tensor in _held(module, member)]
    assert any(isinstance(tensor, nn.Parameter) and tensor.ndim >= 2 for tensor in last)
    names = [group.name for group in backbone.groups]
    assert names[0] == "stem" and len(set(names)) == len(names) > 1


def test_index_has_every_architecture_of_its_timm() -> None:
    architectures = zoo_timm.architectures()
    assert set(architectures) == set(timm.list_models())
    if timm.__version__ != SHIPPED["timm"]:
        return
    assert len(architectures) == 1371
    assert sum(len(tags) for tags in architectures.values()) == 1826
    assert architectures["resnet18"][0] == "a1_in1k"
    assert architectures["test_vit_relpos"] == ()


def test_every_entry_resolves() -> None:
    with_url = set()
    for name in zoo_timm.architectures():
        spec = zoo_timm.resolve(name)
        assert spec.facts and spec.summary
        assert spec.tags == zoo_timm.architectures()[name]
        with_url |= {weights.source for weights in spec.weights if isinstance(weights.source, zoo.UrlFile)}
    assert len(with_url) == 19
    for source in with_url:
        assert source.sha256_prefix is None or re.fullmatch("[0-9a-f]{8,}", source.sha256_prefix)
    resnet = zoo_timm.resolve("resnet18").weights[0]
    assert resnet.source == zoo.HubFile(repo_id="timm/resnet18.a1_in1k")
    assert resnet.licence == "apache-2.0"


@pytest.mark.long
@pytest.mark.skipif(SHIPPED["timm"] != timm.__version__, reason="the shipped index describes another timm")
def test_rebuilt_sample_equals_the_shipped_index() -> None:
    sample = [*random.Random(0).sample(timm.list_models(), 4), *TINY[:2], "gcvit_xxtiny", "volo_d1_384"]
    rebuilt = index.stored_index({name: build_index.measured(name) for name in sample})
    for name in sample:
        assert rebuilt["architectures"][name] == SHIPPED["architectures"][name]
    assert rebuilt["preprocessing"].items() <= SHIPPED["preprocessing"].items()
    assert index.index_text(SHIPPED) == catalogue.INDEX.read_text("utf-8")


def test_listing_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys, zoo_timm;"
        "provider, = zoo_timm.zoo_backbones();"
        "assert len(provider.architectures()) == 1371;"
        "assert provider.resolve('resnet18').weights_for('a1_in1k');"
        "assert not {'torch', 'timm', 'torchvision', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_unknown_names() -> None:
    for name in ("resnet18.a1_in1k", "no_such_net", "vit_tiny_patch16_224_in21k"):  # the last is deprecated
        with pytest.raises(LookupError):
            zoo_timm.resolve(name)


@pytest.fixture
def another_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Pretend that the shipped index describes another timm, and lacks one of the architectures."""
    text = json.dumps({**SHIPPED, "timm": "0.0.1", "architectures": {**SHIPPED["architectures"]}})
    content = json.loads(text)
    del content["architectures"]["test_resnet"]
    older = tmp_path / "index.json"
    older.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(catalogue, "INDEX", older)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    catalogue.index.cache_clear()
    catalogue.resolve.cache_clear()


@pytest.mark.long
def test_another_timm_is_asked_once_and_its_answer_cached(
    another_timm: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert set(zoo_timm.architectures()) == set(timm.list_models())
    assert capsys.readouterr().err.startswith(f"timm {timm.__version__} is not the 0.0.1 of zoo's index: asking it")
    for name in ("resnet18", "test_vit", "test_vit_relpos", "davit_base_fl"):
        asked, shipped = zoo_timm.resolve(name), index.Index(SHIPPED).entry(name)
        assert (asked.weights, asked.preprocessing) == (shipped.weights, shipped.preprocessing)
        assert (asked.summary, asked.facts) == (shipped.summary, shipped.facts)
    monkeypatch.setattr(upstream, "entry", None)  # not asked again
    _forget()
    assert set(zoo_timm.architectures()) == set(timm.list_models())
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    (cached,) = (tmp_path / "cache" / "kept").iterdir()
    assert timm.__version__ in cached.name


@pytest.mark.long
def test_a_damaged_cached_index_is_rebuilt(another_timm: None, tmp_path: Path) -> None:
    zoo_timm.architectures()
    (cached,) = (tmp_path / "cache" / "kept").iterdir()
    cached.write_text(cached.read_text("utf-8")[:1000], encoding="utf-8")
    _forget()
    assert "test_resnet" in zoo_timm.architectures()
    assert "test_resnet" in json.loads(cached.read_text("utf-8"))["architectures"]


@pytest.mark.long
def test_an_architecture_that_the_index_does_not_know_is_measured_when_shown(another_timm: None) -> None:
    spec = zoo_timm.resolve("test_resnet")
    assert spec.facts is None and spec.tags == index.Index(SHIPPED).tags()["test_resnet"]
    assert zoo.measure(spec).parameters == index.Index(SHIPPED).facts()["test_resnet"].parameters
    _assert_partition(spec.build(tag=spec.tags[0], state=None))


def test_upstream_transform_gives_the_input_size_of_every_kind_of_preprocessing() -> None:
    image = Image.effect_noise((300, 210), 60).convert("RGB")
    seen = set()
    for name in zoo_timm.architectures():
        spec = zoo_timm.resolve(name)
        for weights in spec.weights:
            if weights.preprocessing in seen:
                continue
            seen.add(weights.preprocessing)
            assert spec.reference is not None
            assert tuple(spec.reference(weights.tag)(image).shape) == weights.preprocessing.input_size
    assert len(seen) > 150


def test_preprocessing_of_each_crop_mode() -> None:
    cfg = {"input_size": (3, 448, 448), "crop_pct": 1.15, "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5)}
    centre = upstream.preprocessing(cfg)
    assert (centre.resize, centre.resize_size, centre.fill) == ("shorter", (389, 389), (0, 0, 0))
    assert centre.interpolation == "bicubic"
    squash = upstream.preprocessing({**cfg, "crop_mode": "squash"})
    assert (squash.resize, squash.fill) == ("exact", (0, 0, 0))
    border = upstream.preprocessing({**cfg, "crop_mode": "border"})
    assert (border.resize, border.fill) == ("longest", (128, 102, 76))
    oblong = upstream.preprocessing({**cfg, "input_size": (3, 256, 192), "crop_pct": 0.875})
    assert (oblong.resize, oblong.resize_size) == ("cover", (292, 219))


@pytest.mark.parametrize("name", TINY)
def test_tiny_models(name: str) -> None:
    model = _upstream(name)
    backbone = _built(name, state=model.state_dict())
    _assert_partition(backbone)
    module = backbone.module.eval()
    images = _images(name)
    with torch.no_grad():
        pooled = backbone.pool(module, images)
        # With the classifier in the file and out of the model.
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        again = module.forward_head(module.forward_features(images), pre_logits=True)
    assert pooled.shape == (2, backbone.shape.pooled)
    torch.testing.assert_close(pooled, again, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in module.named_buffers())
    assert "state_dict" not in module.pretrained_cfg
    assert module.pretrained_cfg == timm.create_model(name, num_classes=0).pretrained_cfg


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_are_a_partition_in_every_family(name: str) -> None:
    _assert_partition(_on_meta(name))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
        ("caformer_s18", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
        ("vit_tiny_patch16_224", ["stem", *(f"blocks.{number}" for number in range(12))]),
        ("densenet121", ["stem", *(f"features.denseblock{number}" for number in (1, 2, 3, 4))]),
        ("hrnet_w18_small", ["stem", "layer1", "stage2", "stage3", "stage4", "incre_modules"]),
        ("mobilenetv3_small_100", ["stem", *(f"blocks.{number}" for number in range(5))]),
    ],
)
def test_group_names(name: str, groups: list[str]) -> None:
    assert [group.name for group in _on_meta(name).groups] == groups


def test_group_members_are_modules_where_they_can_be() -> None:
    assert [group.members for group in _on_meta("resnet18").groups] == [
        ("conv1", "bn1", "act1", "maxpool"),
        ("layer1",),
        ("layer2",),
        ("layer3",),
        ("layer4", "global_pool", "fc"),
    ]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_pooled_over_positions(name: str) -> None:
    backbone = _on_meta(name)
    assert backbone.pool is mean_over_positions
    with torch.device("meta"), torch.no_grad():
        pooled = backbone.pool(backbone.module.eval(), torch.empty(2, *zoo_timm.resolve(name).preprocessing.input_size))
    assert pooled.shape == (2, backbone.shape.pooled)


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("resnet18", {"fc"}),
        ("caformer_s18", {"head.fc"}),
        ("levit_128s", {"head", "head_dist"}),
        ("volo_d1_224", {"head", "aux_head"}),
        ("repvit_m0_9", {"head"}),
        ("convnext_atto", {"head.fc"}),
        ("samvit_base_patch16", {"head"}),
    ],
)
def test_the_classifier_is_everything_that_timm_leaves_out(name: str, prefixes: set[str]) -> None:
    assert set(classifier_prefixes(name, _on_meta(name).module)) == prefixes


def test_state_without_classifier_and_in_half_precision() -> None:
    state = {key: tensor.half() for key, tensor in _upstream("test_resnet", num_classes=0).state_dict().items()}
    module = _built("test_resnet.r160_in1k", state=state).module
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[key].to(tensor.dtype))


def test_untrained_hybrid_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked for weights, timm would fetch those of the ResNet inside.
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: pytest.fail("download"))
    with torch.device("meta"):
        model = timm.create_model("vit_small_resnet26d_224")
        assert _built("vit_small_resnet26d_224", state=model.state_dict()).shape.pooled == 768
        with pytest.raises(zoo.WeightsMismatch):
            _built("vit_small_resnet26d_224", state={})


def test_old_checkpoint_is_converted() -> None:
    model = _upstream("deit3_small_patch16_224")
    old = {re.sub(r"ls([12])\.gamma", r"gamma_\1", key): tensor for key, tensor in model.state_dict().items()}
    old["patch_embed.proj.weight"] = old["patch_embed.proj.weight"].flatten(1)
    assert old.keys() != model.state_dict().keys()
    module = _built("deit3_small_patch16_224.fb_in1k", state=old).module
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])


def test_weights_for_another_input_size_are_resized() -> None:
    small = {key: tensor.clone() for key, tensor in _upstream("test_vit").state_dict().items()}
    tokens = small["pos_embed"].shape[1]
    small["pos_embed"] = torch.cat((small["pos_embed"][:, :1], small["pos_embed"][:, 1:26]), dim=1)
    assert small["pos_embed"].shape[1] < tokens
    module = _built("test_vit", state=small).module
    assert module.get_parameter("pos_embed").shape[1] == tokens


def test_wrong_weights_are_refused() -> None:
    state = _upstream("test_vit", num_classes=0).state_dict()
    with pytest.raises(zoo.WeightsMismatch) as caught:
        _built("test_resnet.r160_in1k", state=state)
    assert "conv1.weight" in " ".join(caught.value.missing) and "cls_token" in caught.value.unexpected
    with pytest.raises(zoo.WeightsMismatch) as caught:
        _built("test_vit.r160_in1k", state={key: tensor for key, tensor in state.items() if key != "norm.weight"})
    assert caught.value.missing == ("norm.weight",)
    with pytest.raises(zoo.WeightsMismatch) as caught:
        _built("test_vit.r160_in1k", state={**state, "blocks.0.extra": torch.zeros(1)})
    assert caught.value.unexpected == ("blocks.0.extra",)
    with pytest.raises(zoo.WeightsMismatch) as caught:
        _built("test_vit.r160_in1k", state={**state, "norm.weight": torch.zeros(3)})
    assert caught.value.shapes == (("norm.weight", (3,), (64,)),)
    with pytest.raises(zoo.WeightsMismatch):
        _built("test_vit.r160_in1k", state={})


@pytest.mark.parametrize(
    "name", ["convnext_atto", "swin_tiny_patch4_window7_224", "levit_128s", "coat_tiny", "resnet18"]
)
def test_foreign_weights_that_break_the_conversion_are_refused(name: str) -> None:
    foreign = {
        "patch_embed.proj.weight": torch.zeros(7, 5),
        "conv1.weight": torch.zeros(2, 9, 1, 1),
        "layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(3),
        "downsample_layers.0.0.weight": torch.zeros(1),
        "head.c.weight": torch.zeros(2, 2),
    }
    with pytest.raises(zoo.WeightsMismatch):
        _built(name, state=foreign)
    assert "load_state_dict" not in vars(type(_on_meta(name).module))


def test_known_gap_of_published_weights() -> None:
    # ConvNeXt V2's masked-autoencoder files have no final norm; timm leaves it as initialised.
    whole = timm.create_model("convnextv2_atto", num_classes=0).state_dict()
    lacking = {key: tensor + 1 for key, tensor in whole.items() if not key.startswith("head.norm.")}
    module = _built("convnextv2_atto.fcmae", state=lacking).module
    assert torch.equal(module.get_parameter("head.norm.weight"), torch.ones(320))
    assert torch.equal(module.get_parameter("stem.0.bias"), lacking["stem.0.bias"])
    with pytest.raises(zoo.WeightsMismatch):
        _built("convnextv2_atto.fcmae_ft_in1k", state=lacking)
    with pytest.raises(zoo.WeightsMismatch):
        _built("convnextv2_atto.fcmae", state={key: value for key, value in lacking.items() if key != "stem.0.bias"})


@pytest.mark.parametrize(
    "name",
    [
        *("coat_lite_tiny", "hiera_tiny_224", "mixer_s32_224", "pit_ti_224", "swin_tiny_patch4_window7_224"),
        *("test_vit", "test_vit2", "tnt_s_legacy_patch16_224", "twins_svt_small", "volo_d1_224"),
    ],
)
def test_a_map_is_neither_transposed_nor_shuffled(name: str) -> None:
    """A change in one corner of the image changes the map most in that corner."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0).eval()
    mapped = feature_map(module)
    assert mapped is not None
    height, width = module.pretrained_cfg["input_size"][1:]
    images = 0.5 * torch.randn(1, 3, height, width)
    with torch.inference_mode():
        before = mapped(module, images)
        rows, columns = before.shape[-2:]
        for row, column in ((0, columns - 1), (rows - 1, 0)):
            changed = images.clone()
            top, left = row * height // rows, column * width // columns
            changed[..., top : top + height // rows, left : left + width // columns] += 1
            moved = (mapped(module, changed) - before).norm(dim=1)[0]
            assert divmod(int(moved.argmax()), columns) == (row, column)


@pytest.mark.parametrize(
    "name", ["test_vit", "test_vit3", "test_convnext", "test_resnet", "mixer_s32_224", "twins_svt_small"]
)
def test_a_map_is_upstreams_own_last_one(name: str) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, *module.pretrained_cfg["input_size"])
    mapped = feature_map(module)
    assert mapped is not None
    with torch.inference_mode():
        (theirs,) = module.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        assert torch.equal(mapped(module, images), theirs)


def test_crossvit_has_no_map_and_says_why() -> None:
    with torch.device("meta"):
        built = zoo_timm.resolve("crossvit_tiny_240").build(tag=None, state=None)
    assert built.map is None and built.no_map == "its two branches have grids of different sizes"


def test_another_input_size_is_built_where_windows_or_positions_have_one_and_weights_are_resampled() -> None:
    torch.manual_seed(0)
    spec = zoo_timm.resolve("test_vit")
    usual = spec.build(tag=None, state=None).module
    state = {name: tensor.clone() for name, tensor in usual.state_dict().items()}
    larger = spec.build(tag=None, state=state, input_size=(192, 224))
    assert larger.map is not None
    with torch.inference_mode():
        grid = larger.map(larger.module, torch.randn(1, 3, 192, 224))
        theirs = timm.create_model(
            "test_vit",
            num_classes=0,
            img_size=(192, 224),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": state},
        ).eval()
    assert grid.shape == (1, 64, 12, 14)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(larger.module.state_dict()[name], tensor), name
    flexible = zoo_timm.resolve("test_resnet").build(tag=None, state=None, input_size=(96, 128))
    with torch.inference_mode():
        assert flexible.pool(flexible.module.eval(), torch.randn(1, 3, 96, 128)).shape == (1, flexible.shape.pooled)
