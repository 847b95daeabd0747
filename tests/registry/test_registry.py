"""Plugins found, loaded and named, with distributions that are really installed in a folder on the path."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from tests.distributions import head, install, provider, recipe, register
from zoo.errors import NameConflict, PluginError, Terminated, UnknownName
from zoo.registry.entry_points import Plugin
from zoo.registry.registry import Registry

MARKED = "import zoo\n@zoo.hookimpl\n"
HEAD_WITH = """
import zoo
from dataclasses import dataclass, field
{before}
@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name={name}, summary="", build=lambda *_: None, {arguments})]
"""
PROVIDER_WITH = """
import sys, zoo
@zoo.hookimpl
def zoo_backbones():
    return [zoo.BackboneProvider(name="bad", summary="", architectures=lambda: {catalogue}, resolve=lambda name: None)]
"""


def head_with(arguments: str = "", *, before: str = "", name: str = "'bad'") -> str:
    return HEAD_WITH.format(before=before, name=name, arguments=arguments)


# Source of a broken plugin -> what its one line on stderr says.
BROKEN = {
    "syntax error": ("def", "import: SyntaxError"),
    "error at import": ("raise RuntimeError('no licence')", "import: RuntimeError: no licence"),
    "missing dependency": ("import no_such_package", "No module named 'no_such_package'"),
    "exit at import": ("import sys; sys.exit(3)", "import: SystemExit: 3"),
    "error of several lines": ("raise ValueError('first:\\n  second\\n')", "import: ValueError: first: second"),
    "hook raises": (MARKED + "def zoo_heads(): return 1 / 0", "zoo_heads: ZeroDivisionError: division by zero"),
    "hook exits": (MARKED + "def zoo_heads(): raise SystemExit", "zoo_heads: SystemExit"),
    "hook returns nothing": (MARKED + "def zoo_heads(): pass", "list of HeadSpec objects, returned NoneType"),
    "hook returns text": (MARKED + "def zoo_heads(): return 'mine'", "list of HeadSpec objects, returned str"),
    "hook returns other specs": (
        MARKED + "def zoo_recipes(): return ['mine']",
        "RecipeSpec objects, one of them is str",
    ),
    "hook takes arguments": (MARKED + "def zoo_heads(registry): return []", "registration: PluginValidationError"),
    "misspelt hook": (MARKED + "def zoo_haeds(): return []", "unknown hook 'zoo_haeds'"),
    "marker forgotten": ("def zoo_heads(): return []", "zoo_heads is not marked: put @zoo.hookimpl above it"),
    "one name twice": (
        MARKED + "def zoo_heads(): return 2 * [zoo.HeadSpec(name='bad', summary='', build=print)]",
        "zoo_heads: ValueError: returns 'bad' more than once",
    ),
    "options are no dataclass": (head_with("options=dict"), "options of head 'bad' must be a frozen dataclass"),
    "options are not frozen": (
        head_with("options=O", before="@dataclass\nclass O:\n    p: float = 0.1"),
        "options of head 'bad' must be a frozen dataclass: O is not frozen",
    ),
    "option without default": (
        head_with("options=O", before="@dataclass(frozen=True)\nclass O:\n    p: float"),
        "every option of head 'bad' needs a default",
    ),
    "loss is no function": (head_with("loss='mse'"), "loss of HeadSpec"),
    "references are a text": (
        head_with("references='arXiv:1'"),
        "references must be a tuple of strings, got 'arXiv:1'",
    ),
    "name cannot be": (head_with(name="'my head'"), "'my head' is no head name"),
    "recipe with a fault": (
        MARKED + "def zoo_recipes(): return [zoo.recipe_from_toml('summary = 3', name='bad')]",
        "The recipe bad has 2 faults: summary: should be a valid string, got 3; stages: missing",
    ),
    "catalogue raises": (PROVIDER_WITH.format(catalogue="{}[1]"), "catalogue of bad: KeyError: 1"),
    "catalogue exits": (PROVIDER_WITH.format(catalogue="sys.exit()"), "catalogue of bad: SystemExit"),
    "tags are a text": (PROVIDER_WITH.format(catalogue="{'net': 'v1'}"), "tags of 'net' must be a tuple, got 'v1'"),
    "architecture cannot be": (PROVIDER_WITH.format(catalogue="{'a/b': ()}"), "'a/b' is no architecture name"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def plugin_of(registry: Registry, distribution: str) -> Plugin:
    (found,) = [each for each in registry.plugins() if each.distribution == distribution]
    return found


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_costs_only_itself_and_is_reported_once(kind: str, site: Path) -> None:
    source, said = BROKEN[kind]
    install(site, "bad-plugin", source, plugin="bad")
    install(site, "good-plugin", head("good"))
    lines: list[str] = []
    registry = Registry(report=lines.append)
    for _ in range(2):
        registry.plugins()
    (line,) = [each for each in lines if "bad (bad-plugin 2.1)" in each]
    assert "\n" not in line and "is left out" in line and said in line
    broken = plugin_of(registry, "bad-plugin")
    assert broken.state == "broken" and broken.error and said in broken.error
    assert registry.head("good").plugin.distribution == "good-plugin"
    assert registry.head("linear").plugin.own and registry.recipe("staged").plugin.own
    assert registry.backbone("torchvision/resnet18").spec.provider == "torchvision"
    assert "bad" not in [held.spec.name for held, _ in registry.backbones().catalogue()]


@pytest.mark.parametrize("kind", BROKEN)
def test_where_plugins_are_strict_a_broken_one_raises(kind: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, said = BROKEN[kind]
    install(site, "bad-plugin", source, plugin="bad")
    monkeypatch.setenv("ZOO_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"bad \(bad-plugin 2\.1\)") as raised:
        Registry().plugins()
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        ("raise KeyboardInterrupt", KeyboardInterrupt),
        ("from zoo.errors import Terminated; raise Terminated(143)", Terminated),
    ],
)
def test_ctrl_c_or_sigterm_while_a_plugin_is_imported_is_not_its_fault(
    source: str, ends: type[BaseException], site: Path
) -> None:
    install(site, "slow-plugin", source)
    with pytest.raises(ends):
        Registry()


@pytest.mark.parametrize("first", ["backbones", "heads"])
def test_a_broken_hook_costs_what_it_would_have_returned_whichever_is_asked_first(first: str, site: Path) -> None:
    install(site, "half-plugin", head("fine") + "\n@zoo.hookimpl\ndef zoo_backbones(): raise OSError('no index')\n")
    registry = Registry(report=lambda line: None)
    getattr(registry, first)()
    assert registry.head("fine").plugin.distribution == "half-plugin"
    half = plugin_of(registry, "half-plugin")
    assert (half.state, half.error, half.brings) == ("broken", "zoo_backbones: OSError: no index", {"heads": ["fine"]})


def test_a_marker_forgotten_on_a_hook_of_the_plugins_own_submodule_is_noticed(site: Path) -> None:
    package = site / "parted"
    package.mkdir()
    (package / "hooks.py").write_text("def zoo_heads(): return []")
    (package / "__init__.py").write_text("from parted.hooks import zoo_heads")
    register(site, "parted", {"parted": "parted"})
    assert "zoo_heads is not marked" in str(plugin_of(Registry(report=lambda line: None), "parted").error)


def test_an_entry_point_must_name_a_module_that_exists(site: Path) -> None:
    (site / "objects.py").write_text("plugin = object()")
    register(site, "to-object", {"a": "objects:plugin"})
    register(site, "to-nowhere", {"b": "nowhere"})
    registry = Registry(report=lambda line: None)
    assert "must name a module, 'objects:plugin' is object" in str(plugin_of(registry, "to-object").error)
    assert "No module named 'nowhere'" in str(plugin_of(registry, "to-nowhere").error)


@pytest.mark.parametrize("answering", ["importlib.metadata", "importlib_metadata"])
def test_metadata_that_cannot_be_read_costs_only_its_distribution(site: Path, answering: str) -> None:
    pytest.importorskip(answering)  # the package, imported by MLflow among others, answers in place of Python
    install(site, "good-plugin", head("good"))
    register(site, "garbled", {"garbled": "garbled"})
    (site / "garbled-2.1.dist-info" / "entry_points.txt").write_text("[zoo]\nno equals sign\n")
    register(site, "foreign", {})
    (site / "foreign-2.1.dist-info" / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    install(site, "nameless", head("of_nameless"))
    (site / "nameless-2.1.dist-info" / "METADATA").unlink()
    lines: list[str] = []
    registry = Registry(report=lines.append)
    assert registry.head("good").plugin.version == "2.1"
    assert registry.head("of_nameless").plugin.label == "nameless (unknown unknown)"
    assert registry.head("linear").plugin.own
    assert "entry_points.txt cannot be read" in str(plugin_of(registry, "garbled").error)
    assert len([line for line in lines if "garbled" in line]) == 1
    assert not [line for line in lines if "foreign" in line]


def test_one_entry_point_name_in_two_distributions_loads_both(site: Path) -> None:
    install(site, "first-plugin", head("first"), plugin="same")
    install(site, "second-plugin", head("second"), plugin="same")
    registry = Registry(report=pytest.fail)
    assert registry.head("same/first").plugin.distribution == "first-plugin"
    assert registry.head("same/second").plugin.distribution == "second-plugin"


def test_the_command_reports_each_broken_plugin_in_one_line_and_goes_on(site: Path, zoo_command: Zoo) -> None:
    for number, (source, _) in enumerate(BROKEN.values()):
        install(site, f"bad-plugin-{number}", source)
    install(site, "good-plugin", head("good"))
    done = zoo_command("list", "plugins", "--json", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    for number in range(len(BROKEN)):
        assert len([line for line in done.stderr.splitlines() if f"(bad-plugin-{number} 2.1)" in line]) == 1
    states = {each["distribution"]: each["state"] for each in json.loads(done.stdout)}
    assert [states.pop(f"bad-plugin-{number}") for number in range(len(BROKEN))] == ["broken"] * len(BROKEN)
    assert states["good-plugin"] == "loaded"
    strict = zoo_command("list", "heads", PYTHONPATH=str(site), ZOO_STRICT_PLUGINS="1")
    assert strict.returncode == 1 and strict.stderr.startswith("Error: Plugin bad_plugin_") and not strict.stdout


def test_without_broken_plugins_nothing_is_reported(zoo_command: Zoo) -> None:
    done = zoo_command("list", "plugins")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.long
def test_what_plugins_print_does_not_end_up_in_output_that_programs_read(site: Path, zoo_command: Zoo) -> None:
    loud = provider("loud", {"net": ()}).replace("CATALOGUE = ", "print('at import')\nCATALOGUE = ")
    loud = loud.replace("    weights = ", "    print('in resolve')\n    weights = ").replace(
        "    return [zoo", "    print('in the hook')\n    return [zoo"
    )
    install(site, "loud-plugin", loud.replace("lambda: CATALOGUE", "lambda: print('in the catalogue') or CATALOGUE"))
    done = zoo_command("show", "loud/net", "--json", PYTHONPATH=str(site))
    assert json.loads(done.stdout)["name"] == "loud/net"
    for place in ("at import", "in the hook", "in the catalogue", "in resolve"):
        assert place in done.stderr.splitlines()


def test_a_switched_off_plugin_is_not_even_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "off-plugin", "raise RuntimeError", plugin="off")
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", " off ,heads")
    registry = Registry(report=lambda line: None)
    assert plugin_of(registry, "off-plugin").state == "disabled" and "off_plugin" not in sys.modules
    assert registry.heads() == []


def test_switching_off_a_plugin_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "torchvison")
    lines: list[str] = []
    Registry(report=lines.append)
    assert lines == ["ZOO_DISABLE_PLUGINS names 'torchvison', and there is no such plugin; did you mean 'torchvision'?"]


@pytest.fixture(scope="module")
def bundled() -> Registry:
    return Registry(disabled=())


def test_a_bare_name_that_both_providers_have_is_torchvisions(bundled: Registry) -> None:
    resolved = bundled.backbone("resnet18")
    assert (resolved.qualified, resolved.also) == ("torchvision/resnet18.IMAGENET1K_V1", ("timm/resnet18",))
    assert len(bundled.backbones().shared()) == 35


@pytest.mark.parametrize(
    ("disabled", "meant"),
    [("timm", "torchvision/resnet18.IMAGENET1K_V1"), ("torchvision", "timm/resnet18.a1_in1k")],
)
def test_a_bare_name_belongs_to_the_first_provider_that_is_enabled(
    disabled: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", disabled)
    resolved = Registry().backbone("resnet18")
    assert (resolved.qualified, resolved.also) == (meant, ())


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("timm/resnet18", "timm/resnet18.a1_in1k"),
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("resnet18.IMAGENET1K_V1", "torchvision/resnet18.IMAGENET1K_V1"),
        ("resnet50.IMAGENET1K_V1", "torchvision/resnet50.IMAGENET1K_V1"),
        ("timm/test_vit_relpos", "timm/test_vit_relpos"),
    ],
)
def test_what_names_with_a_provider_or_a_tag_mean(asked: str, meant: str, bundled: Registry) -> None:
    assert bundled.backbone(asked).qualified == meant


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ("resnet81", "backbone", ["no backbone 'resnet81'", "'resnet18'", "zoo list backbones '*resnet"]),
        ("resnet81.a1_in1k", "backbone", ["no backbone 'resnet81'", "'resnet18'"]),
        ("torchvision/resnet81", "backbone", ["'torchvision/resnet81'", "'torchvision/resnet18'"]),
        ("qqqqqqqq", "backbone", ["no backbone 'qqqqqqqq'", "\nNext: zoo list backbones"]),
        (
            "torchvison/resnet18",
            "provider of backbones",
            ["'torchvison'", "'torchvision'", "There are: torchvision, timm"],
        ),
        (
            "torchvision/resnet18.IMAGENET1K_V2",
            "weights tag",
            ["IMAGENET1K_V2", "Did you mean 'resnet18.IMAGENET1K_V1'?"],
        ),
        ("torchvision/resnet18.a1_in1k", "weights tag", ["torchvision/resnet18 has: IMAGENET1K_V1."]),
        ("resnet18.", "weights tag", ["no weights tag 'resnet18.'", "torchvision/resnet18 has: IMAGENET1K_V1."]),
        ("/resnet18", "provider of backbones", ["no provider of backbones ''"]),
        ("", "backbone", ["no backbone ''.\nNext: zoo list backbones"]),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_the_nearest(
    asked: str, kind: str, said: list[str], bundled: Registry
) -> None:
    with pytest.raises(UnknownName) as raised:
        bundled.backbone(asked)
    assert raised.value.kind == kind and raised.value.exit_code == 2
    for each in said:
        assert each in str(raised.value)


def test_unknown_heads_and_recipes_are_refused_with_the_nearest(bundled: Registry) -> None:
    with pytest.raises(UnknownName, match=r"no head 'lineer'\. Did you mean 'linear'(?s:.*)\nNext: zoo list heads"):
        bundled.head("lineer")
    with pytest.raises(UnknownName, match=r"no head 'heads/lineer'\. Did you mean 'heads/linear'"):
        bundled.head("heads/lineer")
    with pytest.raises(UnknownName, match=r"no recipe 'stagd'\. Did you mean 'staged'\?\nNext: zoo list recipes"):
        bundled.recipe("stagd")


def test_a_third_partys_claim_on_a_bare_name_of_zoo_is_not_honoured_and_noted(site: Path, zoo_command: Zoo) -> None:
    install(site, "acme-nets", provider("acme", {"resnet18": ("v9",), "own_net": ()}), plugin="acme")
    install(site, "acme-heads", head("linear"), plugin="acme-heads")
    install(site, "acme-recipes", recipe("staged"), plugin="acme-recipes")
    registry = Registry(report=pytest.fail, disabled=["timm"])
    assert registry.backbone("resnet18").spec.provider == "torchvision"
    assert "acme/resnet18" in registry.backbone("resnet18").also
    assert registry.backbone("acme/resnet18").qualified == "acme/resnet18.v9"
    assert registry.backbone("resnet18.v9").qualified == "acme/resnet18.v9"
    assert registry.backbone("own_net").qualified == "acme/own_net"
    assert registry.head("linear").plugin.own and registry.recipe("staged").plugin.own
    assert registry.head("acme-heads/linear").plugin.distribution == "acme-heads"
    assert registry.recipe("acme-recipes/staged").plugin.distribution == "acme-recipes"
    told = zoo_command("list", "plugins", PYTHONPATH=str(site), ZOO_DISABLE_PLUGINS="timm").stdout
    assert "note: the bare name 'resnet18' is held by torchvision; use acme/NAME" in told
    assert "note: its claim on the head name 'linear' is not honoured: zoo holds it" in told
    assert "note: its claim on the recipe name 'staged' is not honoured: zoo holds it" in told


def test_a_third_party_cannot_take_over_a_qualified_name_of_zoo(site: Path) -> None:
    install(site, "taker", head("linear") + provider("torchvision", {"resnet18": ("v9",), "taken": ()}), plugin="heads")
    registry = Registry(report=pytest.fail, disabled=["timm"])
    assert registry.head("heads/linear").plugin.own
    assert registry.backbone("torchvision/resnet18").qualified == "torchvision/resnet18.IMAGENET1K_V1"
    with pytest.raises(UnknownName):
        registry.backbone("torchvision/taken")
    assert "the provider name 'torchvision' is not honoured" in " ".join(plugin_of(registry, "taker").notes)


CLAIMS: dict[str, tuple[Callable[[str], str], Callable[[Registry, str], object]]] = {
    "head": (lambda plugin: head("shared"), Registry.head),
    "recipe": (lambda plugin: recipe("shared"), Registry.recipe),
    "backbone": (lambda plugin: provider(plugin, {"shared": ()}), Registry.backbone),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_two_third_parties_that_claim_one_name_conflict_only_when_it_is_used(kind: str, site: Path) -> None:
    source, look_up = CLAIMS[kind]
    install(site, "acme-zoo", source("acme"), plugin="acme", version="1.0")
    install(site, "other-zoo", source("other"), plugin="other", version="3.2")
    registry = Registry(report=pytest.fail, disabled=["timm"])
    assert registry.head("linear").plugin.own and registry.backbone("resnet18").spec.provider == "torchvision"
    with pytest.raises(NameConflict) as raised:
        look_up(registry, "shared")
    for said in (f"{kind} name 'shared'", "acme-zoo 1.0: acme/shared", "other-zoo 3.2: other/shared", "qualified name"):
        assert said in str(raised.value)
    assert look_up(registry, "acme/shared") and look_up(registry, "other/shared")
    for distribution, rival in (("acme-zoo", "other"), ("other-zoo", "acme")):
        (note,) = plugin_of(registry, distribution).notes
        assert "'shared' is also claimed by" in note and rival in note


@pytest.mark.parametrize(
    ("plugins", "way_out"),
    [
        (("acme", "other"), "switch one of them off, for example with ZOO_DISABLE_PLUGINS=other"),
        (("acme", "acme"), "uninstall"),
    ],
)
def test_two_providers_of_one_name_conflict_with_a_way_out_that_works(
    plugins: tuple[str, str], way_out: str, site: Path
) -> None:
    for distribution, plugin in zip(("acme-zoo", "other-zoo"), plugins, strict=True):
        install(site, distribution, provider("nets", {"net": ()}), plugin=plugin)
    registry = Registry(report=pytest.fail, disabled=["timm"])
    for name in ("net", "nets/net"):
        with pytest.raises(NameConflict, match=f"acme-zoo 2.1(.|\n)*other-zoo 2.1(.|\n)*Next: {way_out}"):
            registry.backbone(name)
    if way_out.startswith("switch"):
        assert Registry(disabled=["timm", "other"]).backbone("net").qualified == "nets/net"


@pytest.mark.parametrize(
    ("resolve", "said"),
    [
        ("1 / 0", r"cannot resolve it: ZeroDivisionError"),
        ("None", r"to a BackboneSpec of that name, and gave a NoneType"),
        ("resolve('other')", r"to a BackboneSpec of that name, and gave a spec of acme/other"),
    ],
)
def test_a_provider_that_cannot_resolve_what_it_lists_is_named(resolve: str, said: str, site: Path) -> None:
    source = provider("acme", {"net": (), "other": ()})
    install(site, "acme-nets", source.replace("resolve=resolve", f"resolve=lambda name: {resolve}"))
    with pytest.raises(PluginError, match=rf"Plugin acme_nets \(acme-nets 2\.1\) .*acme/net.* {said}"):
        Registry(disabled=["timm"]).backbone("net")


def test_what_a_provider_cannot_resolve_is_noted_once_however_often_backbones_are_listed(site: Path) -> None:
    source = provider("acme", {"net": (), "other": ()})
    install(site, "acme-nets", source.replace("resolve=resolve", "resolve=lambda name: 1 / 0"))
    registry = Registry(disabled=["timm", "torchvision"])
    for _ in range(3):
        assert zoo.list_backbones(registry=registry) == []
    notes = plugin_of(registry, "acme-nets").notes
    assert len(notes) == 2 and all("cannot resolve it: ZeroDivisionError" in note for note in notes)


def test_specs_that_would_mislead_are_refused_when_they_are_made() -> None:
    with pytest.raises(TypeError, match="members must be a tuple of strings, got 'conv1'"):
        zoo.Group(name="stem", members="conv1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="filenames must be a tuple of strings"):
        zoo.HubFile(repo_id="a/b", filenames="model.safetensors")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooled must be at least 1"):
        zoo.FeatureShape(pooled=0)
    preprocessing = zoo.Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    weights = zoo.WeightsSpec(tag="v1", preprocessing=preprocessing, source=zoo.HubFile(repo_id="a/b"))
    with pytest.raises(ValueError, match="a/net has the weights 'v1' more than once"):
        zoo.BackboneSpec(
            provider="a",
            architecture="net",
            build=lambda **_: None,
            preprocessing=preprocessing,
            weights=(weights,) * 2,
        )


def test_plugins_are_not_loaded_by_importing_zoo(site: Path, zoo_command: Zoo) -> None:
    install(site, "loud-plugin", "import os; os._exit(9)")
    assert zoo_command("--version", PYTHONPATH=str(site)).returncode == 0
