"""What a message suggests is accepted where it is used, for every word of every vocabulary (issue 17, kind 14).

`lastt:1` was answered with "did you mean 'last'?", and `last` is no selector.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import zoo
from tests.commands import COMMANDS, fault_of
from tests.field.pictures import pictures_of, write_pictures
from zoo.cli.list import show_list
from zoo.cli.options import LIST_KINDS
from zoo.cli.show import show_name
from zoo.data.sources import find_data
from zoo.errors import RecipeError, ZooError, meant, nearest
from zoo.exporting.export import export
from zoo.exporting.formats import FORMATS
from zoo.model.devices import choose_device
from zoo.planning.precision import check_precision
from zoo.registry.catalogue import SORTS
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry, default_registry
from zoo.scaffold.new_plugin import KINDS, check_name, write_plugin
from zoo.specs.data import SPLIT_NAMES
from zoo.specs.options import build_options, describe_options
from zoo.specs.recipe import RecipeSpec, Stage, override, recipe_from_file, recipe_from_toml
from zoo.specs.selectors import select
from zoo.storage import eviction
from zoo.testing import examine
from zoo.training.stored_plan import read_plan, refuse_finished
from zoo.weights.obtain import choose_weights

ROOT = Path(__file__).parents[2]
PRODUCT = ("zoo", "plugins", "heads", "recipes")
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4")
QUOTED = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
ASKED = re.compile(rf"[Dd]id you mean ({QUOTED}(?:(?:, | or ){QUOTED})*)\?")
CHOICE = re.compile(rf"should be ({QUOTED}(?:(?:, | or ){QUOTED})*), got")
CLICKS = re.compile(r"\(Possible options: ([^)]*)\)|Did you mean (--[\w-]+)\?")
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
    found = [ast.literal_eval(each) for part in (ASKED, CHOICE) for text in part.findall(message)
             for each in re.findall(QUOTED, text)]
    clicks = [each for texts in CLICKS.findall(message) for text in texts for each in re.findall(r"--?[\w-]+", text)]
    counted = len(re.findall(r"did you mean", message, re.IGNORECASE))
    assert counted == len(ASKED.findall(message)) + len(re.findall(r"Did you mean --", message)), message
    return [*found, *clicks, *COMMAND.findall(message)]


def message_of(use: Callable[[str], object], word: str) -> str:
    """The message with which a word is refused; empty if it is accepted."""
    try:
        use(word)
    except (ZooError, ValueError, typer.BadParameter, typer.Abort) as error:
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
    show_name(name, head=None, classes=None, input_size=None, as_json=True)


def listed(kind: str, pattern: str = "", **given: Any) -> None:
    show_list(kind, pattern, given=given, zoo_commands=(), as_json=True)


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
    of_command = COMMANDS.commands["finetune"]
    if word not in options_of(of_command):
        of_command.make_context("finetune", [word])


def options_of(of_command: Any) -> list[str]:
    return [name for parameter in of_command.params for name in parameter.opts if name.startswith("--")]


def option_of_head(head: str) -> Callable[[str], object]:
    spec = default_registry().head(head).spec
    values = {each.name: each.default for each in describe_options(spec.options)}
    return lambda key: build_options(spec.name, spec.options, {key: values.get(key, 1)})


def vocabularies(place: Path) -> dict[str, Vocabulary]:
    """Every place that suggests something, by a name that `PLACES` uses."""
    registry = default_registry()
    catalogues = registry.backbones().catalogue()
    staged = registry.recipe("staged").spec
    resnet = registry.backbone("timm/resnet18")
    offered = [*registry.heads(), *registry.recipes(), *registry.observers(), *registry.data_sources()]
    found = {
        "backbones": Vocabulary(use=registry.backbone, words=backbone_words(registry), every=150),
        "weights": Vocabulary(use=lambda word: choose_weights(resnet, word), words=list(resnet.spec.tags)),
        "shown names": Vocabulary(use=shown, words=["resnet18", "timm/resnet18.a1_in1k", "linear", "heads/linear",
                                                     "staged", "recipes/staged", "tensorboard", "table"]),
        "checked names": Vocabulary(use=checked, words=["resnet18", "timm/resnet18", "linear", "recipes/staged"]),
        "list: kinds": Vocabulary(use=listed, words=list(LIST_KINDS[2:])),
        "list: heads": Vocabulary(use=lambda word: listed("heads", word), words=[h.spec.name for h in registry.heads()]),
        "list: plugins": Vocabulary(use=lambda word: listed("plugins", word), words=[p.name for p in registry.plugins()]),
        "list: backbones": Vocabulary(
            use=lambda word: zoo_list(word), words=["resnet18", "timm/resnet18", "vit_b_16"]
        ),
        "list: weights": Vocabulary(use=lambda word: listed("weights", word, **NO_FILTER),
                                    words=["timm/resnet18.a1_in1k"], every=3),
        "list: providers": Vocabulary(use=lambda word: zoo.list_backbones(provider=word, pattern="resnet18"),
                                      words=[held.spec.name for held, _ in catalogues]),
        "list: licences": Vocabulary(use=lambda word: zoo.list_backbones(licence=word, pattern="resnet18"),
                                     words=["apache-2.0", "unstated"], every=4),
        "list: sort": Vocabulary(use=lambda word: zoo.list_backbones(sort=word, pattern="resnet18"), words=list(SORTS)),
        "disabled plugins": Vocabulary(use=disabled, words=[plugin.name for plugin in registry.plugins()], every=5),
        "commands": Vocabulary(use=command, words=list(COMMANDS.commands)),
        "subcommands": Vocabulary(use=subcommand, words=list(COMMANDS.commands["weights"].commands)),
        "options": Vocabulary(use=option, words=options_of(COMMANDS.commands["finetune"])),
        "selectors": Vocabulary(use=select_one, words=["head", "all", "last:1", "first:2", "middle:1", "group:layer4",
                                                       "group:stem", "norm", "bias"]),
        "keys of a recipe": Vocabulary(use=top_key, words=["summary", "references", "keep", "stages"]),
        "keys of a stage": Vocabulary(use=stage_key, words=list(Stage.model_fields)),
        "--set: stages": Vocabulary(
            use=lambda word: override(staged, [f"{word}.epochs=1"], epochs=None, batch_size=None),
            words=[stage.name for stage in staged.stages],
        ),
        "--set: keys": Vocabulary(use=set_key, words=list(Stage.model_fields)),
        "--set: keep": Vocabulary(
            use=lambda word: override(staged, [word], epochs=None, batch_size=None), words=["keep=last"]
        ),
        "precision": Vocabulary(use=check_precision, words=["auto", "float32", "bfloat16"]),
        "device": Vocabulary(use=choose_device, words=["auto", "cpu"]),
        "format": Vocabulary(use=lambda word: export_nothing(place, word), words=list(FORMATS)),
        "cache": Vocabulary(use=lambda word: eviction.clear([word]), words=["features", "measurements", "sample", "all"]),
        "kinds of plugins": Vocabulary(use=lambda word: new_plugin(place, word, "sharp"), words=list(KINDS)),
        "names of plugins": Vocabulary(use=lambda word: check_name("head", word), words=["linear", "SharpLinear", "x" * 40]),
        "data: path": Vocabulary(use=lambda word: zoo.check_data(word), words=[str(place / "photos")]),
        "data: sources": Vocabulary(use=lambda word: source(place, word), words=["table", "folder", "tar", "zip"]),
        "data: splits": Vocabulary(use=lambda word: table(place, "path,label,split", f"1.jpg,cat,{word}"),
                                   words=list(SPLIT_NAMES), rare=True),
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
    found["values of keep"] = Vocabulary(
        use=lambda word: override(staged, [f"keep={word}"], epochs=None, batch_size=None), words=["best", "last"]
    )
    return found


NO_FILTER: dict[str, Any] = dict.fromkeys(
    ("provider", "pretrained", "max_params", "max_gmacs", "licence", "input_size", "head", "sort")
)


def zoo_list(word: str) -> None:
    listed("backbones", word, **NO_FILTER)


def top_key(word: str) -> None:
    value = {"summary": '"x"', "references": "[]", "keep": '"best"', "stages": "[]"}
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
    override(staged, [f"head.{word}={','.join(value) if isinstance(value, tuple) else value}"], epochs=None,
             batch_size=None)


def export_nothing(place: Path, to: str) -> None:
    """Ask for a format; that there is no artefact is noticed after it."""
    try:
        export(place / "no artefact", to, None, default_registry(), lambda _: None)
    except zoo.ArtefactError:
        pass


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


PICTURES_OF_A_TABLE = [(2, "dog", "train"), (3, "cat", "train"), (4, "cat", "val"), (5, "dog", "val"), (6, "dog", "test")]


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
    except zoo.RunError as error:
        if "is not a plan" not in str(error):
            raise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a run that was stopped, a finished one, a recipe."""
    place = tmp_path_factory.mktemp("place")
    write_pictures(place / "photos", [*pictures_of("cat", "dog", count=2), *(f"{n}.jpg" for n in range(1, 7))])
    for name, files in (("stopped", ["plan.json"]), ("stoped2", ["plan.json", "result.json"]),
                        ("done", ["plan.json", "result.json"]), ("dones", ["plan.json"])):
        (place / name).mkdir()
        for file in files:
            (place / name / file).write_text("{}")
    (place / "mine.toml").write_text(three_stages(""))
    return place


NAMES = sorted(vocabularies(Path("place")))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_suggested_is_accepted(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = vocabularies(place)[name]
    assert {word: said for word in vocabulary.words[:: vocabulary.every] if (said := message_of(vocabulary.use, word))
            and name != "names of plugins"} == {}
    made, refused = refused_suggestions(vocabulary.use, vocabulary.words, every=vocabulary.every)
    assert refused == []
    assert made or vocabulary.rare
