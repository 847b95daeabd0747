"""What a message suggests is accepted where it is used, for every word of every vocabulary.

`lastt:1` was answered with "did you mean 'last'?", and `last` is no selector.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args, get_origin

import pandas
import pytest
import typer
import zoo
from tests.commands import COMMANDS, options_of, product_files
from tests.distributions import HEAD, PROVIDER
from tests.field.pictures import pictures_of, write_pictures
from zoo.advice.candidate_backbones import Limits, find_candidates
from zoo.artefact.read import find_artefact
from zoo.bulk.addresses import address_of
from zoo.cli.document import Misused
from zoo.cli.list import show_list
from zoo.cli.options import LIST_KINDS
from zoo.cli.show import show_name
from zoo.cluster.place import parse_place
from zoo.data.image_preprocessing import ImagePreprocessing
from zoo.data.memory.objects import register
from zoo.data.sources import find_data
from zoo.display.console import Verbosity
from zoo.embedding.embed import check_dtype
from zoo.embedding.embedder import check_group
from zoo.embedding.nearest import image_file
from zoo.embedding.vector_file import SUFFIXES, try_vector_file
from zoo.errors import RecipeError, RunError, ZooError, meant, nearest
from zoo.evaluation.confusion_table import class_index
from zoo.events import silent
from zoo.exporting.formats import FORMATS, INPUTS, ExportRequest
from zoo.model.devices import available_devices, choose_device
from zoo.planning.precision import check_precision
from zoo.planning.request import make_request
from zoo.registry.catalogue import SORTS
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry, default_registry
from zoo.scaffold.new_plugin import KINDS, check_name, write_plugin
from zoo.specs.assignments import override
from zoo.specs.data import SPLIT_NAMES
from zoo.specs.options import build_options, describe_options
from zoo.specs.recipe import SET_AS_A_WHOLE, RecipeSpec, Stage, recipe_from_file, recipe_from_toml
from zoo.specs.selectors import parse_selector, select
from zoo.specs.views import PASSES, check_views
from zoo.storage import eviction
from zoo.sweeping import knobs
from zoo.sweeping.checked_trials import trials_of
from zoo.sweeping.settings import settings_of, stored_settings
from zoo.testing import examine
from zoo.training.stored_plan import read_plan, refuse_finished
from zoo.weights.obtain import choose_weights
from zoo.weights.state import check_weights_file

ROOT = Path(__file__).parents[2]
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4")
QUOTED = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
ASKED = re.compile(rf"[Dd]id you mean ({QUOTED}(?:(?:, | or ){QUOTED})*)\?")
CHOICE = re.compile(rf"should be ({QUOTED}(?:(?:, | or ){QUOTED})*), got")
COMMAND = re.compile(r"zoo plugins new \w+ (\w+)")


def mutations(word: str) -> Iterator[str]:
    """The word as fingers get it wrong, at a place that depends on the word alone."""
    place = sum(map(ord, word)) % max(len(word), 1)
    pair = min(place, max(len(word) - 2, 0))
    yield word[:place] + word[place + 1 :]
    yield word[:place] + word[place : place + 1] + word[place:]
    yield word[:pair] + word[pair : pair + 2][::-1] + word[pair + 2 :]
    yield word[:place] + "q" + word[place + 1 :]
    yield word.swapcase()
    yield word.capitalize()


def suggested(message: str) -> list[str]:
    """Every value that a message suggests: behind "did you mean", as a choice, and in click's words."""
    found = [
        ast.literal_eval(each)
        for part in (ASKED, CHOICE)
        for text in part.findall(message)
        for each in re.findall(QUOTED, text)
    ]
    counted = len(re.findall(r"did you mean", message, re.IGNORECASE))
    assert counted == len(ASKED.findall(message)), message
    return [*found, *COMMAND.findall(message)]


def message_of(use: Callable[[str], object], word: str) -> str:
    """The message with which a word is refused; empty if it is accepted."""
    try:
        use(word)
    except (ZooError, ValueError, Misused, typer.BadParameter, typer.Abort) as error:
        return str(error)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: its class moved between versions
            return str(error.format_message())
        raise
    return ""


def refused_suggestions(use: Callable[[str], object], words: Iterable[str], *, every: int = 1) -> tuple[int, list[str]]:
    """(number of suggestions that were made, those that are refused themselves), for misspellings of the words.

    A message may quote the part of a word that nothing has (`torchvison` of `torchvison/resnet18`): then the suggestion
    must be accepted in place of that part. `every`: of so many misspellings one is tried.
    """
    known, made, refused = set(words := list(words)), 0, []
    wrong_words = [wrong for word in words for wrong in mutations(word) if wrong not in known]
    for wrong in wrong_words[::every]:
        message = message_of(use, wrong)
        for suggestion in suggested(message):
            made += 1
            parts = [ast.literal_eval(part) for part in re.findall(QUOTED, message)]
            instead = [wrong.replace(part, suggestion) for part in parts if part and part in wrong]
            if suggestion == wrong or all(message_of(use, each) for each in (suggestion, *instead)):
                refused.append(f"{wrong!r} -> {suggestion!r}: {message}")
    return made, refused


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words that are accepted in one place."""

    use: Callable[[str], object]
    words: list[str]
    every: int = 1
    rare: bool = field(default=False)
    """Whether misspellings may remain without a suggestion altogether."""


def three_stages(line: str) -> str:
    """A recipe of three stages with the same line in each."""
    stage = '[[stages]]\nname = "{0}"\ntrain = ["head"]\nepochs = 1\nlr = 0.1\n' + line + "\n"
    return 'summary = "Three stages."\n' + "".join(stage.format(name) for name in ("a", "b", "c"))


def backbone_words(registry: Registry) -> list[str]:
    """Bare and qualified names, with and without tags: every architecture in one of the four forms."""
    words = []
    for held, catalogue in registry.backbones().catalogue():
        for index, (name, tags) in enumerate(sorted(catalogue.items())):
            tag = f".{tags[-1]}" if tags and index % 2 else ""
            bare = name + tag
            words.append(bare if index % 4 < 2 and registry.backbones().accepts(bare) else f"{held.spec.name}/{bare}")
    return words


def set_value(key: str) -> Callable[[str], object]:
    staged = default_registry().recipe("staged").spec
    return lambda word: override(staged, [f"all.{key}={word}"], epochs=None, batch_size=None)


def literals(model: Any) -> dict[str, list[str]]:
    """Knobs whose values are words -> the words."""
    return {
        key: [each for each in get_args(info.annotation) if isinstance(each, str)]
        for key, info in model.model_fields.items()
        if str(get_origin(info.annotation)).endswith("Literal")
    }


def select_one(word: str) -> None:
    _, faults = select([word], GROUPS, path="stages[0]")
    if faults:
        raise RecipeError("test", faults)


def shown(name: str) -> None:
    show_name(name, head=None, classes=None, input_size=None, verbosity=Verbosity(), as_json=True)


def listed(kind: str, pattern: str = "", **given: Any) -> None:
    show_list(kind, pattern, given=given, zoo_commands=(), verbosity=Verbosity(), as_json=True)


def disabled(word: str) -> None:
    """What ZOO_DISABLE_PLUGINS says of a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_DISABLE_PLUGINS", word)
        lines: list[str] = []
        Registry(report=lines.append)
    if lines:
        raise ValueError("\n".join(lines))


def checked(name: str) -> None:
    """`zoo plugins check`, without the checks of what exists."""
    if any(not message_of(look_up, name) for look_up in look_ups(default_registry())[:3]):
        return
    examine(name)


def look_ups(registry: Registry) -> list[Callable[[str], object]]:
    return [registry.backbone, registry.head, registry.recipe, registry.observer, registry.data_source]


def command(word: str) -> None:
    context = COMMANDS.make_context("zoo", ["doctor"], resilient_parsing=True)
    context.resilient_parsing = False
    COMMANDS.resolve_command(context, [word])


def subcommand(word: str) -> None:
    group = COMMANDS.commands["weights"]
    group.resolve_command(group.make_context("weights", ["list"]), [word])


def option(word: str) -> None:
    """An option of `finetune`, accepted if it is known; which values it takes is another question."""
    if word.startswith("--") and word not in (*options_of(COMMANDS.commands["finetune"]), "--help"):
        COMMANDS.invoke(COMMANDS.make_context("zoo", ["finetune", word]))


def option_of_head(head: str) -> Callable[[str], object]:
    spec = default_registry().head(head).spec
    values = {each.name: each.default for each in describe_options(spec.options)}
    return lambda key: build_options(spec.name, spec.options, {key: values.get(key, 1)})


def swept(place: Path, key: str) -> object:
    """Read a sweep file with a key of this name."""
    needed = {"data": '"x"', "backbone": '"resnet18"'}
    others = {"recipe": '"staged"', "head": '"linear"', "seeds": "2", "seed": "2", "trials": "4", "device": '"cpu"'}
    content = {**needed, key: {**needed, **others, "precision": '"float32"'}.get(key, "{}")}
    (place / "sweep.toml").write_text("".join(f"{name} = {value}\n" for name, value in content.items()))
    return settings_of({}, {}, place / "sweep.toml")


def vocabularies(place: Path) -> dict[str, Vocabulary]:
    """Every place that suggests something, by a name that `PLACES` uses."""
    registry = default_registry()
    catalogues = registry.backbones().catalogue()
    staged = registry.recipe("staged").spec
    resnet = registry.backbone("timm/resnet18")
    offered = [*registry.heads(), *registry.recipes(), *registry.observers(), *registry.data_sources()]
    found = {
        "backbones": Vocabulary(use=registry.backbone, words=backbone_words(registry), every=20),
        "weights": Vocabulary(
            use=lambda word: choose_weights(resnet, word), words=[*resnet.spec.tags, "default", "random"]
        ),
        "weights of a tagged name": Vocabulary(
            use=lambda word: choose_weights(registry.backbone("timm/resnet18.a1_in1k"), word),
            words=["a1_in1k", "default", "random"],
        ),
        "shown names": Vocabulary(
            use=shown,
            words=[
                "resnet18",
                "timm/resnet18.a1_in1k",
                "linear",
                "heads/linear",
                "staged",
                "recipes/staged",
                "tensorboard",
                "table",
            ],
        ),
        "checked names": Vocabulary(use=checked, words=["resnet18", "timm/resnet18", "linear", "recipes/staged"]),
        "list: kinds": Vocabulary(use=listed, words=list(LIST_KINDS[2:])),
        "list: heads": Vocabulary(
            use=lambda word: listed("heads", word), words=[h.spec.name for h in registry.heads()]
        ),
        "list: plugins": Vocabulary(
            use=lambda word: listed("plugins", word), words=[p.name for p in registry.plugins()]
        ),
        "list: backbones": Vocabulary(use=lambda word: zoo_list(word), words=["resnet18", "timm/resnet18", "vit_b_16"]),
        "list: weights": Vocabulary(
            use=lambda word: listed("weights", word, **NO_FILTER), words=["timm/resnet18.a1_in1k"], every=3
        ),
        "list: providers": Vocabulary(
            use=lambda word: zoo.list_backbones(provider=word, pattern="resnet18"),
            words=[held.spec.name for held, _ in catalogues],
        ),
        "list: licences": Vocabulary(
            use=lambda word: zoo.list_backbones(licence=word, pattern="resnet18"),
            words=["apache-2.0", "unstated"],
            every=4,
        ),
        "shortlist: licences": Vocabulary(
            use=lambda word: find_candidates(registry, ["resnet18=random"], Limits(licence=word), offline=True),
            words=["apache-2.0", "permissive"],
            every=4,
        ),
        "sweep: knobs": Vocabulary(
            use=lambda word: knobs.check_name(knobs.named(word), {"staged": [stage.name for stage in staged.stages]}),
            words=["head.lr", "last.epochs", "all.augment", "head", "backbone", "batch_size", "keep", "choose_by"],
        ),
        "sweep: options of a head": Vocabulary(
            use=lambda word: trials_of(
                settings_of({"data": "x", "backbone": "resnet18", "head": "mlp"}, knobs.parse_over([f"{word}=0.1"])),
                registry,
            ),
            words=[f"head_option.{each.name}" for each in describe_options(registry.head("mlp").spec.options)],
        ),
        "sweep: keys of a file": Vocabulary(
            use=lambda word: swept(place, word), words=["data", "backbone", "head", "seeds", "trials", "over"]
        ),
        "sweeps to resume": Vocabulary(use=lambda word: stored_settings(place / word), words=["sweep", "sweep2"]),
        "list: sort": Vocabulary(use=lambda word: zoo.list_backbones(sort=word, pattern="resnet18"), words=list(SORTS)),
        "disabled plugins": Vocabulary(use=disabled, words=[plugin.name for plugin in registry.plugins()], every=5),
        "commands": Vocabulary(use=command, words=list(COMMANDS.commands)),
        "subcommands": Vocabulary(use=subcommand, words=list(COMMANDS.commands["weights"].commands)),
        "options": Vocabulary(use=option, words=options_of(COMMANDS.commands["finetune"])),
        "groups": Vocabulary(use=lambda word: select_one(f"group:{word.removeprefix('group:')}"), words=list(GROUPS)),
        "selectors": Vocabulary(
            use=parse_selector,
            words=["head", "all", "last:1", "first:2", "middle:1", "group:layer4", "group:stem", "norm", "bias"],
        ),
        "keys of a recipe": Vocabulary(use=top_key, words=["summary", "references", "keep", "choose_by", "stages"]),
        "keys of a stage": Vocabulary(use=stage_key, words=list(Stage.model_fields)),
        "--set: stages": Vocabulary(
            use=lambda word: override(staged, [f"{word}.epochs=1"], epochs=None, batch_size=None),
            words=[stage.name for stage in staged.stages],
        ),
        "--set: keys": Vocabulary(use=set_key, words=list(Stage.model_fields)),
        "--set: keep": Vocabulary(
            use=lambda word: override(staged, [word], epochs=None, batch_size=None),
            words=["keep=last", "choose_by=accuracy"],
        ),
        "precision": Vocabulary(use=check_precision, words=["auto", "float32", "bfloat16"]),
        "views": Vocabulary(use=check_views, words=list(PASSES)),
        "numbers of vectors": Vocabulary(use=check_dtype, words=["float32", "float16"]),
        "ways to decode": Vocabulary(
            use=lambda word: make_request(backbone="resnet18", decode=word), words=["exact", "fast"]
        ),
        "places to compute": Vocabulary(use=parse_place, words=["local", "ray", "auto"]),
        "addresses": Vocabulary(use=address_of, words=["s3://bucket/photos", "gs://bucket/photos"], rare=True),
        "files of vectors": Vocabulary(use=lambda word: try_vector_file(place / f"v{word}"), words=list(SUFFIXES)),
        "groups of vectors": Vocabulary(use=lambda word: check_group(word, GROUPS, backbone="a"), words=list(GROUPS)),
        "device": Vocabulary(use=choose_device, words=["auto", "cpu"]),
        "format": Vocabulary(use=lambda word: ExportRequest(to=word), words=list(FORMATS)),
        "input of an export": Vocabulary(use=lambda word: ExportRequest(to="onnx", input=word), words=list(INPUTS)),
        "cache": Vocabulary(
            use=lambda word: eviction.clear([word]),
            words=["features", "measurements", "records", "sample", "listings", "all"],
        ),
        "kinds of plugins": Vocabulary(use=lambda word: new_plugin(place, word, "sharp"), words=list(KINDS)),
        "names of plugins": Vocabulary(
            use=lambda word: check_name("head", word), words=["linear", "SharpLinear", "x" * 40]
        ),
        "data: path": Vocabulary(use=lambda word: zoo.check_data(place / word), words=["photos"]),
        "data: sources": Vocabulary(use=lambda word: source(place, word), words=["table", "folder", "tar", "zip"]),
        "data: splits": Vocabulary(
            use=lambda word: table(place, "path,label,split", f"1.jpg,cat,{word}"), words=list(SPLIT_NAMES), rare=True
        ),
        "runs to resume": Vocabulary(use=lambda word: resumed(place, word), words=["stopped"], rare=True),
        "finished runs": Vocabulary(use=lambda word: finished(place, word), words=["done"], rare=True),
        "recipe files": Vocabulary(use=lambda word: recipe_from_file(place / word), words=["mine.toml"], rare=True),
    }
    for kind, look_up in zip(("heads", "recipes", "observers", "data sources"), look_ups(registry)[1:], strict=True):
        items = [item for item in offered if not message_of(look_up, qualified_name(item))]
        words = [name for item in items for name in (item.spec.name, qualified_name(item))]
        found[kind] = Vocabulary(use=look_up, words=words)
    for head in registry.heads():
        words = [each.name for each in describe_options(head.spec.options)]
        found[f"options of {head.spec.name}"] = Vocabulary(use=option_of_head(head.spec.name), words=words, rare=True)
    for key, values in literals(Stage).items():
        found[f"values of {key}"] = Vocabulary(use=set_value(key), words=values)
    for key, values in SET_AS_A_WHOLE.items():
        found[f"values of {key}"] = Vocabulary(use=set_as_a_whole(staged, key), words=list(values))
    return found


def set_as_a_whole(recipe: RecipeSpec, key: str) -> Callable[[str], object]:
    return lambda word: override(recipe, [f"{key}={word}"], epochs=None, batch_size=None)


NO_FILTER: dict[str, Any] = {
    **dict.fromkeys(("provider", "max_params", "max_gmacs", "licence", "input_size", "head", "sort")),
    "pretrained": False,
}


def zoo_list(word: str) -> None:
    listed("backbones", word, **NO_FILTER)


def top_key(word: str) -> None:
    value = {"summary": '"x"', "references": "[]", "keep": '"best"', "choose_by": '"loss"', "stages": "[]"}
    text = three_stages("")
    if word == "stages":
        recipe_from_toml(text, "mine")
    elif word in value:
        recipe_from_toml(text if word == "summary" else f"{word} = {value[word]}\n{text}", "mine")
    else:
        recipe_from_toml(f"{word} = 1\n{text}", "mine")


def stage_key(word: str) -> None:
    """A key in all of three stages, with its default as value."""
    if word not in ("name", "train", "epochs", "lr"):
        known = word in Stage.model_fields
        spec = recipe_from_toml(three_stages(""), "mine")
        text = spec.to_toml()
        recipe_from_toml(text if known else text.replace('name = "', f'{word} = 1\nname = "'), "mine")


def set_key(word: str) -> None:
    staged = default_registry().recipe("staged").spec
    value = getattr(staged.stages[0], word, "1")
    override(
        staged, [f"head.{word}={','.join(value) if isinstance(value, tuple) else value}"], epochs=None, batch_size=None
    )


def new_plugin(place: Path, kind: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.scaffold.new_plugin.write_plugin", None)
        if kind not in KINDS:
            write_plugin(kind, name, out=place / "never")


def source(place: Path, name: str) -> None:
    find_data(Path(f"{name}:{place / 'photos'}"), default_registry(), lambda _: None)


def table(place: Path, header: str, row: str) -> None:
    path = place / "photos" / "table.csv"
    others = "".join(f"{n}.jpg,{label},{split}\n" for n, label, split in PICTURES_OF_A_TABLE)
    path.write_text(f"{header}\n{row}\n{others}")
    try:
        zoo.check_data(path)
    except zoo.DataError as error:
        if "has the split" in str(error):
            raise


PICTURES_OF_A_TABLE = [
    (2, "dog", "train"),
    (3, "cat", "train"),
    (4, "cat", "val"),
    (5, "dog", "val"),
    (6, "dog", "test"),
]


def resumed(place: Path, name: str) -> None:
    """What `--resume` does first. The plans here are empty: that they cannot be read comes later."""
    refuse_other_than_a_bad_plan(lambda: read_plan(place / name, finished=False))
    refuse_finished(place / name)


def finished(place: Path, name: str) -> None:
    refuse_other_than_a_bad_plan(lambda: read_plan(place / name))
    if not (place / name / "result.json").exists():
        raise ValueError("not finished")


def refuse_other_than_a_bad_plan(read: Callable[[], object]) -> None:
    try:
        read()
    except RunError as error:
        if "is not a plan" not in str(error):
            raise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run that was stopped, a finished one, a recipe."""
    place = tmp_path_factory.mktemp("place")
    write_pictures(place / "photos", [*pictures_of("cat", "dog", count=2), *(f"{n}.jpg" for n in range(1, 7))])
    for name, files in (
        ("stopped", ["plan.json"]),
        ("stoped2", ["plan.json", "result.json"]),
        ("done", ["plan.json", "result.json"]),
        ("dones", ["plan.json"]),
    ):
        (place / name).mkdir()
        for file in files:
            (place / name / file).write_text("{}")
    (place / "mine.toml").write_text(three_stages(""))
    asked = settings_of({"data": "x", "backbone": "resnet18"}, {}).to_dict()
    for name in ("sweep", "sweep2"):
        (place / name).mkdir()
        (place / name / "settings.json").write_text(json.dumps({"format": 1, "settings": asked}))
    return place


NAMES = sorted(vocabularies(Path("place")))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "backbones" else ()) for name in NAMES]
)
def test_what_is_suggested_is_accepted(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = vocabularies(place)[name]
    assert {
        word: said
        for word in vocabulary.words[:: vocabulary.every]
        if (said := message_of(vocabulary.use, word)) and name != "names of plugins"
    } == {}
    made, refused = refused_suggestions(vocabulary.use, vocabulary.words, every=vocabulary.every)
    assert refused == []
    assert made or vocabulary.rare


@pytest.mark.long
@pytest.mark.parametrize("name", ["backbones", "list: backbones", "disabled plugins"])
def test_no_name_is_left_out(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = vocabularies(place)[name]
    # There are six misspellings of a word, so that every fifth is at least one of each word, and each kind in turn.
    assert refused_suggestions(vocabulary.use, vocabulary.words, every=5)[1] == []


def test_a_server_answers_with_an_address_and_an_option_that_it_has() -> None:
    from zoo.serving.routes import ADDRESSES, no_such_address, no_such_option

    for address in ADDRESSES[1:]:
        for misspelt in (address[:-1], address + "s", address.upper(), address[:2] + address[3:]):
            assert f"Did you mean {address!r}" in no_such_address(misspelt).detail
    assert "Did you mean 'top'?" in no_such_option("tops", ("top",)).detail


# Where the product suggests something -> the vocabularies above that provoke it, or the test that does.
PLACES = {
    "zoo.advice.relabel._refuse_other_data": "test_a_word_in_a_table_of_suspects_is_answered_with_one_that_it_takes",
    "zoo.advice.suspects._decision": "test_a_word_in_a_table_of_suspects_is_answered_with_one_that_it_takes",
    "zoo.advice.candidate_backbones._check_licence": "shortlist: licences",
    "zoo.api.arguments._unknown": "test_an_argument_of_a_function_is_answered_with_one_that_it_takes",
    "zoo.artefact.read.find_artefact": "test_a_saved_classifier_is_suggested_by_its_path",
    "zoo.cli.command_group.resolve_command": "commands",
    "zoo.cli.list._named": "list: heads",
    "zoo.cli.list._plugins": "list: plugins",
    "zoo.cli.list._kind_hint": "list: kinds",
    "zoo.cli.list_backbones.matching": "list: backbones, list: weights",
    "zoo.cli.show._find": "shown names",
    "zoo.cli.unknown_option.about_unknown_option": "options",
    "zoo.data.memory.contents._hint": "test_a_word_about_data_in_memory_is_answered_with_one_that_it_takes",
    "zoo.data.memory.objects._refuse_no_splits": "test_a_word_about_data_in_memory_is_answered_with_one_that_it_takes",
    "zoo.data.memory.tables._column": "test_a_word_about_data_in_memory_is_answered_with_one_that_it_takes",
    "zoo.data.folder.no_folder_message": "data: path",
    "zoo.data.decode.meant_image": "test_an_image_is_suggested_by_its_path",
    "zoo.data.sources._named": "data: sources",
    "zoo.data.listing._split_names": "data: splits",
    "zoo.data.splits._hint": "test_a_class_of_another_split_is_answered_with_a_class_of_train",
    "zoo.bulk.addresses.address_of": "addresses",
    "zoo.cluster.place._parsed": "places to compute",
    "zoo.planning.request.make_request": "ways to decode",
    "zoo.embedding.embed.check_dtype": "numbers of vectors",
    "zoo.embedding.embedder.check_group": "groups of vectors",
    "zoo.embedding.nearest.image_file": "test_an_image_is_suggested_by_its_path",
    "zoo.embedding.vector_file._writer": "files of vectors",
    "zoo.errors.UnknownName": "backbones, heads, recipes",
    "zoo.errors.meant": "precision",
    "zoo.errors.meant_beside": "recipe files",
    "zoo.errors.nearest": "test_nearest_gives_other_names_that_are_accepted",
    "zoo.evaluation.confusion_table.class_index": "test_a_class_of_a_model_is_answered_with_one_that_it_has",
    "zoo.exporting.formats.__post_init__": "format, input of an export",
    "zoo.model.devices.choose_device": "device",
    "zoo.planning.precision.check_precision": "precision",
    "zoo.registry.catalogue._refuse_unknown_licence": "list: licences",
    "zoo.registry.catalogue._refuse_unknown_provider": "list: providers",
    "zoo.registry.catalogue.find_backbones": "list: sort",
    "zoo.registry.names._unknown_architecture": "backbones",
    "zoo.registry.names._unknown_provider": "backbones",
    "zoo.registry.names._unknown_spec": "heads, recipes, observers, data sources",
    "zoo.registry.names._unknown_tag": "backbones",
    "zoo.registry.registry._report_unknown_disabled": "disabled plugins",
    "zoo.scaffold.new_plugin.write_plugin": "kinds of plugins",
    "zoo.serving.routes.no_such_address": "test_a_server_answers_with_an_address_and_an_option_that_it_has",
    "zoo.serving.routes.no_such_option": "test_a_server_answers_with_an_address_and_an_option_that_it_has",
    "zoo.specs.options.build_options": "options of mlp",
    "zoo.specs.recipe._key_hint": "keys of a recipe, keys of a stage, --set: keys",
    "zoo.specs.assignments._split_assignment": "--set: keep",
    "zoo.specs.assignments.override": "--set: stages",
    "zoo.specs.recipe.recipe_from_file": "recipe files",
    "zoo.specs.views.check_views": "views",
    "zoo.specs.selectors._nearest_selectors": "selectors",
    "zoo.specs.selectors.select": "groups",
    "zoo.storage.eviction.clear": "cache",
    "zoo.sweeping.checked_trials._check_option": "sweep: options of a head",
    "zoo.sweeping.knobs._unknown": "sweep: knobs",
    "zoo.sweeping.knobs.check_name": "sweep: knobs",
    "zoo.sweeping.settings._read": "sweep: keys of a file",
    "zoo.sweeping.settings.stored_settings": "sweeps to resume",
    "zoo.testing.find.examine": "checked names",
    "zoo.training.stored_plan._suggestion": "runs to resume, finished runs",
    "zoo.weights.obtain.choose_weights": "weights",
    "zoo.weights.state.check_weights_file": "test_a_weights_file_is_suggested_by_its_path",
    "zoo_sources.missing._nearest": "test_a_file_of_a_table_is_answered_with_a_file_that_is_there",
    "zoo_sources.columns._guess": "test_a_column_of_a_table_is_answered_with_a_column_that_is_there",
}
SUGGESTS = ("nearest", "meant", "meant_beside", "get_close_matches", "UnknownName")


def places_in(path: Path, tree: ast.AST) -> set[str]:
    """`module.function`, without classes, of every call that suggests something; for errors, of its class."""
    root = ROOT if path.is_relative_to(ROOT / "zoo") else ROOT / path.relative_to(ROOT).parts[0]
    module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    found = set()

    def visit(node: ast.AST, owner: str) -> None:
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            owner = owner or node.name
        elif isinstance(node, ast.ClassDef) and module == "zoo.errors":
            owner = node.name
        called = node.func if isinstance(node, ast.Call) else None
        if getattr(called, "id", getattr(called, "attr", "")) in SUGGESTS:
            found.add(f"{module}.{owner}")
        for child in ast.iter_child_nodes(node):
            visit(child, owner)

    visit(tree, "")
    return found


def test_every_place_that_suggests_something_is_named_here_with_what_tries_it() -> None:
    found = {place for path in product_files() for place in places_in(path, ast.parse(path.read_text("utf-8")))}
    assert found == set(PLACES)
    tests = {name for name in globals() if name.startswith("test_")}
    assert [each for words in PLACES.values() for each in words.split(", ") if each not in (*NAMES, *tests)] == []
    elsewhere = ast.parse("def ask(name):\n    return nearest(name, ['a'])")
    assert places_in(ROOT / "zoo" / "new.py", elsewhere) == {"zoo.new.ask"}  # a new one would be missed above


def test_an_argument_of_a_function_is_answered_with_one_that_it_takes() -> None:
    for function in (zoo.finetune, zoo.plan, zoo.list_backbones, zoo.evaluate):
        arguments = list(inspect.signature(function).parameters)
        for argument in arguments:
            misspelt: dict[str, Any] = {f"{argument}s" if f"{argument}s" not in arguments else f"{argument}_x": 1}
            with pytest.raises(TypeError, match="Did you mean") as refused:
                function(**misspelt)
            suggested = re.findall(r"'(\w+)'", str(refused.value).partition("Did you mean")[2])
            assert argument in suggested and set(suggested) <= set(arguments)


def test_a_class_of_a_model_is_answered_with_one_that_it_has() -> None:
    classes = ("daisy", "poppy", "red tulip")
    made, refused = refused_suggestions(lambda word: class_index(word, classes), classes)
    assert made and refused == []


def test_a_broken_vocabulary_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_wrong_word(name: str, known: Iterable[str], **limits: Any) -> str:
        return meant(name, [each.replace("2", "1") for each in known], **limits)

    assert refused_suggestions(check_precision, ["float32"])[1] == []
    monkeypatch.setattr("zoo.planning.precision.meant", with_a_wrong_word)
    _, refused = refused_suggestions(check_precision, ["float32", "bfloat16"])
    assert refused and all("'float31'" in each for each in refused)


def test_nearest_gives_other_names_that_are_accepted() -> None:
    assert nearest("cat", ["cat", "Cat", "CAT"]) == ("Cat", "CAT")  # never what was asked, and none hides another
    assert nearest("caat", ["cat", "cart"], accepts=lambda name: name != "cat") == ("cart",)
    assert nearest("learning_rate", Stage.model_fields) == ("lr",) and nearest("wd", Stage.model_fields) == (
        "weight_decay",
    )
    assert nearest("", ["a", "b_c"]) == nearest("x", []) == ()


@pytest.mark.parametrize(
    ("asked", "meant_to_say"),
    [
        ("lastt:1", "last:1"),
        ("last", "last:1"),
        ("last:0", "last:1"),
        ("last3", "last:3"),
        ("first-2", "first:2"),
        ("LAST:2", "last:2"),
        ("head:1", "head"),
        ("grup:layer4", "group:layer4"),
        ("norms", "norm"),
        (" head", "head"),
    ],
)
def test_a_selector_is_suggested_whole(asked: str, meant_to_say: str) -> None:
    message = message_of(parse_selector, asked)
    assert suggested(message)[0] == meant_to_say and message_of(parse_selector, meant_to_say) == ""


def test_the_same_mistake_in_every_stage_is_said_once_with_the_nearest_key() -> None:
    with pytest.raises(RecipeError) as raised:
        recipe_from_toml(three_stages("learning_rate = 0.1"), "mine")
    assert raised.value.faults == (
        "stages[0].learning_rate, stages[1].learning_rate, stages[2].learning_rate: unknown key; did you mean 'lr'?",
    )
    with pytest.raises(RecipeError) as raised:
        recipe_from_toml(three_stages("xyz = 1\nqqq = 2"), "mine")
    assert len(raised.value.faults) == 2 and str(raised.value).count("gradient_checkpointing") == 1
    with pytest.raises(RecipeError) as raised:  # different mistakes stay apart
        recipe_from_toml(three_stages("warmup = 2").replace("epochs = 1", "epochs = 0", 1), "mine")
    assert len(raised.value.faults) == 2


def test_a_key_in_the_wrong_place_is_sent_to_the_right_one() -> None:
    with pytest.raises(RecipeError, match=r"stages\[2\].keep: unknown key; it belongs to the recipe, above the first"):
        recipe_from_toml(three_stages("") + 'keep = "last"', "mine")
    assert recipe_from_toml('keep = "last"\n' + three_stages(""), "mine").keep == "last"
    with pytest.raises(RecipeError, match="epochs: unknown key; it belongs to a stage"):
        recipe_from_toml("epochs = 2\n" + three_stages(""), "mine")
    staged = default_registry().recipe("staged").spec
    with pytest.raises(RecipeError, match="with --set: keep=VALUE"):
        override(staged, ["head.keep=last"], epochs=None, batch_size=None)
    assert override(staged, ["keep=last"], epochs=None, batch_size=None).keep == "last"
    with pytest.raises(ZooError, match=r"for example --set head\.lr=0\.01"):
        override(staged, ["lr=0.01"], epochs=None, batch_size=None)
    assert override(staged, ["head.lr=0.01"], epochs=None, batch_size=None).stages[0].lr == 0.01


def twins(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two third parties that claim the same names, beside nothing else."""
    points = []
    for party in ("first", "second"):
        module = types.ModuleType(f"twin_{party}")
        source = PROVIDER.format(catalogue={"twinnet": ("v1",)}, name=party) + HEAD.format(name="twinhead")
        exec(source, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points.append(EntryPoint(name=party, value=module.__name__, group="zoo"))
    return Registry(points, strict=True)


@pytest.mark.parametrize("words", [["twinnet", "twinnet.v1", "first/twinnet.v1"], ["twinhead", "first/twinhead"]])
def test_a_name_that_two_plugins_claim_is_suggested_with_its_provider(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = twins(monkeypatch)
    look_up = registry.backbone if "twinnet" in words else registry.head
    assert "claimed more than once" in message_of(look_up, words[0])
    made, refused = refused_suggestions(look_up, words)
    assert made and refused == []
    assert "first/" in message_of(look_up, words[0].replace("win", "wiin"))


def test_what_another_provider_has_is_suggested_first() -> None:
    registry = default_registry()
    for asked, first in (
        ("torchvision/vit_base_patch16_224", "timm/vit_base_patch16_224"),
        ("torchvision/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("tim/resnet18", "timm"),
        ("torchvison/vit_base_patch16_224", "timm/vit_base_patch16_224"),
        ("resnt18.a1_in1k", "resnet18"),
    ):
        assert suggested(message_of(registry.backbone, asked))[0] == first
    assert suggested(message_of(registry.head, "timm/linear"))[0] == "heads/linear"


def test_a_saved_classifier_is_suggested_by_its_path(place: Path) -> None:
    for name in ("flowers", "flowrs"):
        (place / name).mkdir(exist_ok=True)
    (place / "flowers" / "config.json").write_text("{}")
    made, refused = refused_suggestions(lambda word: find_artefact(place / word), ["flowers"])
    assert made and refused == []
    assert suggested(message_of(lambda word: find_artefact(place / word), "xyz")) == []  # a common folder is not enough


def test_an_image_is_suggested_by_its_path(place: Path) -> None:
    (place / "rose.jpg").write_bytes(b"")
    made, refused = refused_suggestions(lambda word: image_file(place / word), ["rose.jpg"])
    assert made and refused == []
    # To a preprocessing or a classifier, any path can be given; what is no image is not what was meant.
    write_pictures(place, ["rose.jpg"])
    (place / "rose.txt").touch()
    sizes = zoo.Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    prepare = ImagePreprocessing.of(sizes)
    made, refused = refused_suggestions(lambda word: prepare(place / word), ["rose.jpg"])
    assert made and refused == []
    assert suggested(message_of(lambda word: prepare(place / word), "rose.txtt")) == []


def test_a_weights_file_is_suggested_by_its_path(tmp_path: Path) -> None:
    for name in ("trained.pth", "notes.txt"):
        (tmp_path / name).touch()
    made, refused = refused_suggestions(lambda word: check_weights_file(tmp_path / word), ["trained.pth"])
    assert made and refused == []
    # A file of another kind is none that could be meant.
    assert suggested(message_of(lambda word: check_weights_file(tmp_path / word), "notes.txtt")) == []


def test_gpu_means_an_accelerator_and_never_the_cpu() -> None:
    assert suggested(message_of(choose_device, "gpu")) == available_devices()[1:][-1:]
    assert choose_device("cpu:0") == "cpu" and "--device cpu." in message_of(choose_device, "cpu:1")
    assert suggested(message_of(choose_device, "CPU")) == ["cpu"] and message_of(choose_device, "cpu:")


def test_a_class_of_another_split_is_answered_with_a_class_of_train(tmp_path: Path) -> None:
    classes = ("ants", "bees")

    def use(word: str) -> None:
        folder = tmp_path / f"with {word}"
        if not folder.exists():
            write_pictures(folder, pictures_of(*(f"train/{each}" for each in classes), "val/ants", "val/bees", count=2))
            write_pictures(folder, pictures_of(f"val/{word}", count=1))
        try:
            zoo.plan(backbone="timm/test_resnet", weights="random", data=folder)
        except zoo.DataError as error:
            if "has classes that" in str(error):
                raise

    made, refused = refused_suggestions(use, classes, every=3)
    assert made and refused == []


def test_a_file_of_a_table_is_answered_with_a_file_that_is_there(place: Path) -> None:
    (place / "photos" / "1.jpgs").mkdir(exist_ok=True)

    def use(word: str) -> None:
        path = place / "photos" / "files.csv"
        path.write_text(f"path,label\n{word},cat\n1.jpg,cat\n2.jpg,dog\n3.jpg,dog\n")
        zoo.check_data(path)

    made, refused = refused_suggestions(use, ["6.jpg"])
    assert made and refused == []


def test_a_column_of_a_table_is_answered_with_a_column_that_is_there(place: Path) -> None:
    path = place / "photos" / "columns.csv"
    for wrong in mutations("label"):
        path.write_text(f"path,{wrong}\n1.jpg,cat\n2.jpg,cat\n3.jpg,dog\n4.jpg,dog\n")
        message = message_of(lambda _: zoo.check_data(path), "")
        assert set(suggested(message)) <= {wrong}
        # The next step: to name the column label.
        path.write_text(path.read_text().replace(wrong, "label"))
        zoo.check_data(path)


@pytest.mark.parametrize("what", ["path", "split", "column"])
def test_a_word_about_data_in_memory_is_answered_with_one_that_it_takes(what: str, place: Path) -> None:
    files = sorted((place / "photos").rglob("*.jpg"))[:4]
    pairs = [(file, "ab"[index % 2]) for index, file in enumerate(files)]
    table = pandas.DataFrame(pairs, columns=["photo", "species"])
    objects: dict[str, tuple[list[str], Callable[[str], Any]]] = {
        "path": ([str(file) for file in files], lambda word: [(word, "a")]),
        "split": (list(SPLIT_NAMES), lambda word: {word: pairs}),
        "column": (["photo"], lambda word: zoo.TableData(table, image=word, label="species")),
    }
    words, make = objects[what]

    made, refused = refused_suggestions(lambda word: register(make(word), default_registry(), silent), words, every=3)

    assert refused == [] and made


@pytest.mark.parametrize("column", ["accept", "suggested"])
def test_a_word_in_a_table_of_suspects_is_answered_with_one_that_it_takes(column: str, tmp_path: Path) -> None:
    classes = ("ants", "bees")
    data, table = tmp_path / "data", tmp_path / "suspects.csv"
    write_pictures(data, pictures_of(*(f"{split}/{each}" for split in ("train", "val") for each in classes), count=3))
    name = next(path for path in sorted(data.rglob("train/ants/*")))
    digest = hashlib.sha256(name.read_bytes()).hexdigest()

    def use(word: str) -> None:
        cells = {"accept": "yes", "suggested": "bees", column: word}
        row = f"{name.relative_to(data).as_posix()},ants,{cells['suggested']},{cells['accept']},{digest}"
        table.write_text(f"file,given,suggested,accept,sha256\n{row}\n")
        out = tmp_path / "new.csv"
        out.unlink(missing_ok=True)
        try:
            zoo.apply_suspects(data, table, out)
        except zoo.ZooError as error:
            if "No suggestion is accepted" not in str(error):  # `no`, or the given class, is a word that it takes
                raise

    made, refused = refused_suggestions(use, ["yes", "drop"] if column == "accept" else classes, every=2)
    assert made and refused == []


@pytest.mark.parametrize(
    "name", ["linear", "Linear", "os path", "9 lives!", "x" * 50, "my_" + "x" * 38, "Ünïcode", "---"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_suggested_name_of_a_plugin_can_be_given(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo-my-linear").mkdir()  # is in the way of a name that would be free
    message = message_of(lambda word: write_plugin(kind, word), name)
    assert message or name == "linear"
    for suggestion in suggested(message):
        write_plugin(kind, suggestion)
        again = message_of(lambda word: write_plugin(kind, word), suggestion)
        out = re.search(r"--out (\S+),", again)
        assert out and write_plugin(kind, suggestion, out=Path(out[1])).is_dir()
        assert message_of(lambda word: write_plugin(kind, word, out=Path("here")), name).endswith(" --out here")
