"""The house keeps its own rules, and each rule would notice when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zoo
from tests import house

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "zoo"
PACKAGES = [ZOO, *(ROOT / "plugins").glob("zoo_*"), ROOT / "heads" / "zoo_heads", ROOT / "recipes" / "zoo_recipes"]
LOOSE = {
    "__init__": "the public names",
    "__main__": "`python -m zoo`",
    "errors": "what every package raises",
    "events": "what every package reports",
    "process": "all that changes the process as a whole",
    "plugin": "the names of `zoo` that authors of plugins need",
    "text": "names and amounts as people read them, in every package",
}
SIZES = {
    "zoo.__main__": "an entry point",
    "zoo.api.runs": "every argument of a run and what it means, three times",
    "zoo.api.progress": "one decorator that every public function may have",
    "zoo.cli.compare": "one command, whose text the library writes",
    "zoo.cli.data": "one command, whose text the library writes",
    "zoo.data.image_preprocessing": "what a model's preprocessing has beside the record: that it can be called",
    "zoo.display.records": "one kind of table",
    "zoo.frozen.cut_check": "one question, asked of a cut and of a stage",
    "zoo.frozen.exchange": "one meeting of processes",
    "zoo.exporting.pt2": "one file for each format",
    "zoo.model.redraw": "one question and its answer",
    "zoo.model.stated_preprocessing": "what one other library states",
    "zoo.plugin": "its names stand in the stub beside it",
    "zoo.planning.batch_norm": "one decision, with the number that it turns on",
    "zoo.planning.batch_sizes": "pure arithmetic that light modules and the training loop share",
    "zoo.planning.decode_ahead": "must stay free of torch, which is imported meanwhile",
    "zoo.planning.versions": "must stay free of torch",
    "zoo.registry.hooks": "the whole extension surface on one screen",
    "zoo.specs.drawn": "the one hook by which a record is drawn by what lies above it",
    "zoo.serving.packages": "must stay free of torch, and of the packages that it looks for",
    "zoo.serving.page": "the templates beside it are the page",
    "zoo.specs.compute": "two choices and their origin, which plan, model and artefact share",
    "zoo.specs.validation": "checks that all specs share",
    "zoo.testing.heads": "every check of a head, in the order in which they are made",
    "zoo.testing.tiny_module": "needs torch, which the rest of the tiny backbone does without",
    "zoo.weights.offline": "one switch, asked by the hub and by downloads",
}
"""Modules shorter or longer than the rest, each with its reason."""
PLUGIN_SIZES = {
    "zoo_sources.programs": "commands that messages of four modules offer",
    "zoo_sources.table": "which reader a table gets, so that no reader imports another",
    "zoo_timm.build_index": "run by hand when timm changes, and imported by nothing",
    "zoo_torchvision.build_index": "run by hand when torchvision changes, and imported by nothing",
    "zoo_torchvision.index": "must stay free of torch",
}
"""The same for the bundled plugins."""
NAMES = {
    "bulk": "the library's functions; the commands",
    "cache": "the cache folder; the commands on it",
    "compare": "runs compared; tensors compared by the kit; the command",
    "curve": "what more images would bring: computed; of a run; the picture; the command's text",
    "data": "what a data source declares; the commands on data",
    "embed": "how it is made; the command",
    "evaluate": "how a classifier is scored; the command",
    "export": "carried out; the command",
    "labels": "the check; the command",
    "manifest": "of the images of a data set; of weights in a bundle or the store",
    "measure": "what building a backbone tells; what a few steps take",
    "objects": "in place of names; that hold images",
    "options": "of a head; of the command line",
    "page": "the report; a comparison",
    "pictures": "in memory, as bytes; of an image, in answers of the server",
    "plan": "the record; the command's text",
    "plugins": "loading them; the commands on them",
    "report": "of the data check; of the conformance kit",
    "result": "the record; what finetune returns; the command's text",
    "shortlist": "how it is made; the command",
    "solver": "what belongs to it; where it is used",
    "stages": "planned; trained",
    "verify": "an artefact; a run",
}
"""File names that stand in several packages, each with what they do alike."""
NO_PACKAGES = {
    "plugins": "mirrors plugins/",
    "heads": "mirrors heads/",
    "recipes": "mirrors recipes/",
    "dists": "distributions that tests install",
    "examples": "the example that the guide shows",
    "typing": "calls that type checkers read, and nothing runs",
    "field": "faults that users met, one file a kind, across all packages",
}


def test_the_top_of_the_package_stays_small() -> None:
    assert len(LOOSE) <= 7 and house.unlisted_loose_modules(ZOO, LOOSE) == []
    functions = [name for name in zoo.__all__ if callable(getattr(zoo, name)) and name.islower()]
    assert house.named_as_public_functions(ZOO, functions) == []


def test_a_name_means_one_thing() -> None:
    assert house.classes_named_twice(ZOO) == {}
    assert house.file_names_twice(ZOO, NAMES) == []


def test_packages_are_described_and_files_have_a_readable_size() -> None:
    # `zoo` loads its names when they are used; `zoo.testing` is what plugin authors import.
    assert house.packages_with_code(ZOO, ["zoo", "zoo.testing"]) == []
    assert house.files_out_of_size(ZOO, SIZES) == []
    plugins = [name for package in PACKAGES[1:] for name in house.files_out_of_size(package, {})]
    assert sorted(plugins) == sorted(PLUGIN_SIZES)


def test_no_module_is_in_a_circle() -> None:
    assert house.circles(PACKAGES) == []


def test_public_functions_say_the_shapes_of_their_tensors() -> None:
    assert [name for package in PACKAGES for name in house.without_shapes(package)] == []


def test_tests_mirror_the_code_and_patch_no_private_name() -> None:
    assert house.unmirrored(ROOT / "tests", ZOO, NO_PACKAGES) == []
    assert house.private_names_patched(ROOT / "tests") == []


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A package that breaks every rule once."""
    package = tmp_path / "pets"
    files = {
        "__init__.py": '"""Pets."""\n',
        "feed.py": "from pets.home.cat import Cat\n\n\nclass Food: ...\n",
        "home/__init__.py": '"""Where they live."""\n\nimport os\n',
        "home/cat.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from pets import feed\n\n\n"
        'class Cat: ...\n\n\ndef weigh(cats: "Tensor") -> None:\n    """Weigh them."""\n',
        "garden/__init__.py": '"""Where they play."""\n',
        "garden/cat.py": "class Cat: ...\n" + "\n" * house.LONG,
        "tests/attic/test_cat.py": 'def test(monkeypatch):\n    monkeypatch.setattr("pets.feed._bowl", None)\n',
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "tests").rename(tmp_path / "tests")
    return package


@pytest.mark.parametrize(
    ("rule", "broken_by"),
    [
        (lambda pets: house.unlisted_loose_modules(pets, ["__init__"]), ["feed"]),
        (lambda pets: house.named_as_public_functions(pets, ["feed", "stroke"]), ["feed"]),
        (house.classes_named_twice, {"Cat": ["pets.garden.cat", "pets.home.cat"]}),
        (lambda pets: house.packages_with_code(pets, []), ["pets.home"]),
        (lambda pets: house.files_out_of_size(pets, {"pets.feed": "few words"}), ["pets.garden.cat", "pets.home.cat"]),
        (
            lambda pets: house.files_out_of_size(pets, dict.fromkeys(["pets.feed", "pets.home.cat", "pets.gone"], "")),
            ["pets.garden.cat", "pets.gone needs no reason"],
        ),
        (lambda pets: house.file_names_twice(pets, {}), ["cat"]),
        (lambda pets: house.file_names_twice(pets, {"cat": "alike", "dog": "alike"}), ["dog needs no reason"]),
        (lambda pets: house.circles([pets]), [["pets.feed", "pets.home.cat"]]),
        (house.without_shapes, ["pets.home.cat.weigh"]),
        (lambda pets: house.private_names_patched(pets.parent / "tests"), ["attic/test_cat.py:2"]),
        (lambda pets: house.unmirrored(pets.parent / "tests", pets, []), ["attic"]),
    ],
)
def test_every_rule_notices_what_breaks_it(rule: Callable[[Path], object], broken_by: object, broken: Path) -> None:
    assert rule(broken) == broken_by
