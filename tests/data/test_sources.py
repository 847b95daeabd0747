"""`--data`: which data source reads a path, what plugins may claim, and what a broken plugin costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.distributions import install
from tests.packing import pack, write_zip
from zoo.data.sources import find_data, read_dataset
from zoo.errors import DataError, NameConflict, PluginError, Refused, UnknownName
from zoo.events import Event
from zoo.registry.registry import Registry

EXAMPLE = Path(__file__).parents[1] / "examples" / "zoo_example" / "zoo_example"
GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
SOURCE = """
import sys, zoo

def content():
    {content}

def recognises(path):
    {recognises}

def read(path):
    {read}
    images = [
        zoo.SourceImage(name=f"{{label}}/{{number}}.jpg", label=label, content=content)
        for label in ("a", "b") for number in range(3)
    ]
    return zoo.SourceListing(images=images)

@zoo.hookimpl
def zoo_data_sources():
    return [zoo.DataSourceSpec(name={name!r}, summary="For the test.", recognises=recognises, read=read)]
"""
TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 1}
Plugins = Callable[..., tuple[Registry, list[str]]]


def source(
    name: str, *, recognises: str = "return path.suffix == '.pics'", read: str = "", content: str = "return b''"
) -> str:
    return SOURCE.format(name=name, recognises=recognises, read=read or "pass", content=content)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """A registry in which these distributions (name -> source) are installed as well, and what it reported."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    installed: list[str] = []

    def build(**sources: str) -> tuple[Registry, list[str]]:
        lines: list[str] = []
        for name, text in sources.items():
            installed.append(install(folder, f"test-{name}", text, plugin=name))
        return Registry(report=lines.append, strict=False), lines

    yield build
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def pics(tmp_path: Path) -> Path:
    (tmp_path / "set.pics").write_text("")
    return tmp_path / "set.pics"


def place(asked: Path | str, registry: Registry) -> tuple[str, list[str]]:
    """-> (what reads it, the notes that were reported)."""
    notes: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, zoo.Note):
            notes.append(event.text)

    return find_data(Path(asked), registry, report).reader, notes


def test_the_bundled_sources_recognise_their_own_and_class_folders_are_zoos(few: Path, tmp_path: Path) -> None:
    registry = zoo.Registry()
    expected = {
        "table": "sources/table", "parquet": "sources/table", "hub": "sources/table", "tar": "sources/tar",
        "webdataset": "sources/tar",
        "pattern": "sources/tar", "zip": "sources/zip", "hf": "sources/hf",
    }  # fmt: skip
    for kind, reader in expected.items():
        assert place(pack(few, kind, tmp_path / kind), registry) == (reader, []), kind
    assert place(few, registry) == ("folder", [])
    # A tar file beside class folders makes no shards of them.
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "backup.tar").write_bytes(b"")
    assert place(tmp_path / "photos", registry) == ("folder", [])
    assert [source.name for source in zoo.list_data_sources()] == ["table", "tar", "zip", "hf"]


def test_a_path_that_a_plugin_alone_recognises_is_read_by_it_and_said(plugins: Plugins, pics: Path) -> None:
    registry, lines = plugins(one=source("pics"))
    assert place(pics, registry) == (
        "one/pics", [f"{pics} is read by the data source 'one/pics' of test-one 2.1."]
    )  # fmt: skip
    assert place(f"pics:{pics}", registry) == place(f"one/pics:{pics}", registry) == ("one/pics", [])
    assert lines == [] and "pics" in [source.name for source in zoo.list_data_sources(registry=registry)]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_zoo_reads_is_not_taken_over_and_the_other_way_is_said(
    plugins: Plugins, few: Path, tmp_path: Path, kind: str
) -> None:
    registry, _ = plugins(greedy=source("greedy", recognises="return True"))
    path = few if kind == "folder" else pack(few, kind, tmp_path / kind)
    reader, (note,) = place(path, registry)
    assert reader == ("folder" if kind == "folder" else "sources/zip")
    assert "read by zoo itself" in note and f"test-greedy 2.1: --data greedy/greedy:{path}" in note
    assert place(f"greedy:{path}", registry) == ("greedy/greedy", [])
    own = "folder" if kind == "folder" else "zip"
    assert place(f"{own}:{path}", registry) == (reader, [])


def test_two_plugins_that_claim_a_path_are_named_and_a_name_decides(plugins: Plugins, pics: Path) -> None:
    registry, _ = plugins(one=source("first"), two=source("second"))
    with pytest.raises(NameConflict) as caught:
        place(pics, registry)
    for said in (f"test-one 2.1: --data one/first:{pics}", f"test-two 2.1: --data two/second:{pics}"):
        assert said in str(caught.value)
    assert place(f"second:{pics}", registry)[0] == "two/second"


def test_a_name_that_two_plugins_give_their_sources_needs_the_plugins_name(plugins: Plugins, pics: Path) -> None:
    registry, _ = plugins(one=source("pics"), two=source("pics"), three=source("zip"))
    with pytest.raises(NameConflict, match=r"(?s)test-one 2\.1: one/pics.*test-two 2\.1: two/pics"):
        place(f"pics:{pics}", registry)
    assert place(f"two/pics:{pics}", registry)[0] == "two/pics"
    assert place(f"zip:{pics}", registry)[0] == "sources/zip"  # zoo's own names cannot be taken over
    notes = {plugin.name: plugin.notes for plugin in registry.plugins()}
    assert notes["three"] == ["its claim on the data source name 'zip' is not honoured: zoo holds it"]
    assert notes["one"] == ["the data source name 'pics' is also claimed by test-two"]


@pytest.mark.parametrize(
    ("recognises", "said"),
    [
        ("raise KeyError('shape')", "recognises of pics: KeyError: 'shape'"),
        ("sys.exit(4)", "recognises of pics: SystemExit: 4"),
        ("return 'yes'", "recognises of pics: TypeError: must return a bool, returned str"),
    ],
)
def test_a_source_that_cannot_tell_is_left_out_and_named(
    plugins: Plugins, few: Path, pics: Path, recognises: str, said: str
) -> None:
    registry, lines = plugins(bad=source("pics", recognises=recognises), good=source("other"))
    assert place(few, registry) == ("folder", [])
    assert place(pics, registry)[0] == "good/other"
    assert lines[0] == f"Data source pics of plugin bad (test-bad 2.1) is left out; {said}"
    (plugin,) = [plugin for plugin in registry.plugins() if plugin.name == "bad"]
    assert plugin.state == "broken" and said in str(plugin.error)


@pytest.mark.parametrize(
    ("read", "error", "said"),
    [
        ("raise KeyError('rows')", PluginError, "'bad/pics' of test-bad 2.1 cannot read .*: KeyError: 'rows'"),
        ("sys.exit('gone')", PluginError, "'bad/pics' of test-bad 2.1 cannot read .*: SystemExit: gone"),
        (
            "return []",
            PluginError,
            "'bad/pics' of test-bad 2.1 must read .* to a SourceListing or ClassFolders, gave list",
        ),
        ("raise ValueError('no header in it')", zoo.DataError, "set.pics cannot be read: no header in it"),
        ("raise zoo.DataError('no pictures here')", zoo.DataError, "^no pictures here$"),
        ("raise ImportError('needs lmdb')", Refused, "set.pics cannot be read here: needs lmdb"),
        ("open('/nowhere/x')", zoo.DataError, "/nowhere/x: No such file or directory"),
        ("return zoo.SourceListing(images=[1])", PluginError, "TypeError: images must be SourceImage objects"),
        ("zoo.SourceImage(name='', label='a', content=content)", zoo.DataError, "name must be a text"),
        ("zoo.SourceImage(name='x', label='a', content=3)", PluginError, "TypeError: content of 'x' must be a Path"),
    ],
)
def test_a_source_that_fails_costs_the_command_alone_and_is_named(
    plugins: Plugins, pics: Path, read: str, error: type[Exception], said: str
) -> None:
    registry, _ = plugins(bad=source("pics", read=read))
    with pytest.raises(error, match=said):
        zoo.finetune(**TINY, data=pics, registry=registry)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise KeyError('offset')", "the data source 'bad/pics' of test-bad 2.1 raised KeyError: 'offset'"),
        ("sys.exit(3)", "the data source 'bad/pics' of test-bad 2.1 raised SystemExit: 3"),
        ("return 'text'", "the data source 'bad/pics' of test-bad 2.1 must give bytes, gave str"),
        ("raise zoo.DataError('row 3 is gone')", "a/0.jpg: row 3 is gone"),
        ("return b''", "the file is empty"),
    ],
)
def test_an_image_that_a_source_cannot_give_is_unreadable_for_that_reason(
    plugins: Plugins, pics: Path, content: str, said: str
) -> None:
    registry, _ = plugins(bad=source("pics", content=content))
    with pytest.raises(zoo.DataError, match="No readable image is left") as caught:
        zoo.finetune(**TINY, data=pics, registry=registry)
    assert said in str(caught.value)
    assert next(fault.code for fault in zoo.check_data(pics, registry=registry).faults) == "unreadable"


def test_a_hook_that_returns_something_else_leaves_the_others_in_use(plugins: Plugins, few: Path) -> None:
    text = "import zoo\n@zoo.hookimpl\ndef zoo_data_sources():\n    return ['zip']\n"
    registry, lines = plugins(wrong=text)
    assert place(few, registry) == ("folder", [])
    assert lines == [
        "What zoo_data_sources of plugin wrong (test-wrong 2.1) returns is left out; "
        "zoo_data_sources: TypeError: must return DataSourceSpec objects, one of them is str"
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("zpi:photos.zip", r"There is no data source 'zpi'\. Did you mean 'zip'\? .*\nNext: zoo list sources"),
        ("sources/zpi:photos.zip", r"There is no data source 'sources/zpi'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(few: Path, tmp_path: Path, asked: str, said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        place(asked, zoo.Registry())


def test_a_path_with_a_colon_is_a_path(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day:2").symlink_to(few)
    assert place("day:2", zoo.Registry())[0] == "folder"
    location = find_data(Path("folder:day:2"), zoo.Registry(), lambda event: None)
    assert (location.reader, location.path) == ("folder", Path("day:2"))


def test_nothing_that_reads_it_is_said_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    (tmp_path / "photos.csv").write_bytes(b"")
    with pytest.raises(zoo.DataError, match=r"file that no data source recognises; there are: folder, table, tar, zip"):
        place(tmp_path / "photos.rar", zoo.Registry())
    with pytest.raises(zoo.DataError, match=r"There is no file or folder '.*foto\.csv'\. Did you mean '.*photos\.csv'"):
        place(tmp_path / "foto.csv", zoo.Registry())


def test_the_guides_data_source_is_the_one_that_is_tested() -> None:
    code = (EXAMPLE / "flat.py").read_text("utf-8")
    assert f"```python\n{code}```" in GUIDE.read_text("utf-8")


def test_the_examples_source_trains_and_resumes_and_is_missed(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    info = tmp_path / "site" / "zoo_example-0.3.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-example\nVersion: 0.3.1\n")
    (info / "entry_points.txt").write_text("[zoo]\nexample = zoo_example\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted((few / "train").rglob("*.jpg")):
        (flat / f"{file.parent.name}_{file.name}").write_bytes(file.read_bytes())
    (flat / "notes.txt").write_text("")
    registry = zoo.Registry(report=pytest.fail)
    dataset = read_dataset(find_data(flat, registry, lambda event: None), seed=0)
    assert dataset.classes == ("a", "b") and dataset.counts() == {"train": [3, 3], "val": [1, 1]}
    assert [(skipped.relative, skipped.reason) for skipped in dataset.skipped] == [("notes.txt", "not an image")]
    result = zoo.finetune(**TINY, data=flat, out=tmp_path / "run", registry=registry)
    plan = json.loads((result.path / "plan.json").read_text("utf-8"))
    assert (plan["data"]["reader"], plan["data"]["path"]) == ("example/flat", str(flat))
    assert result.proof == "passed" and zoo.verify(result.path, registry=registry).passed
    without = zoo.Registry(disabled=["example"])
    repeated, *_ = zoo.verify(result.path, registry=without).checks
    assert repeated.verdict == "warning" and "There is no data source 'example/flat'" in repeated.summary


def test_the_command_lists_sources_and_takes_a_name(zoo_inside: Zoo, few: Path, tmp_path: Path) -> None:
    listed = zoo_inside("list", "sources").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "folder",
        "sources/table",
        "sources/tar",
        "sources/zip",
        "sources/hf",
    ]
    rows = json.loads(zoo_inside("list", "sources", "tar", "--json").stdout)
    assert [row["name"] for row in rows] == ["sources/tar"]
    refused = zoo_inside("list", "sources", "tra")
    assert refused.returncode == 2 and "Did you mean 'tar'?\nNext: zoo list sources" in refused.stderr
    brings = json.loads(zoo_inside("list", "plugins", "sources", "--json").stdout)
    assert brings[0]["brings"] == {"sources": ["table", "tar", "zip", "hf"]}
    path = write_zip(tmp_path / "photos.bin", {f"{name}/{n}.jpg": (few / "train" / name / f"{n}.jpg").read_bytes()
                                               for name in "ab" for n in range(4)})  # fmt: skip
    checked = zoo_inside("data", "check", f"zip:{path}", "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["files"] == 8


def test_a_path_that_cannot_be_looked_at_is_refused_and_says_why(tmp_path: Path, zoo_inside: Zoo) -> None:
    """A folder that is closed fails in the same way, but not for root, who may run the tests."""
    (tmp_path / "loop").symlink_to("loop")
    for path, why in (("a" * 300, "File name too long"), ("loop/images", "Too many levels of symbolic links")):
        for words in (("plan", "--backbone", "resnet18", "--data", path), ("data", "check", path)):
            done = zoo_inside(*words)
            assert done.returncode == 1 and f"'{path}' cannot be looked at: {why}.\nNext: " in done.stderr, done.stderr
            assert "left out" not in done.stderr, "no data source is asked"
        with pytest.raises(DataError, match=f"cannot be looked at: {why}"):
            zoo.plan(backbone="resnet18", data=[(f"{path}/0.jpg", "a"), (f"{path}/1.jpg", "b")])
    done = zoo_inside("predict", "nowhere", "a" * 300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    done = zoo_inside("report", "a" * 300, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"]["kind"] == "path", done.stdout
    assert "Traceback" not in done.stderr and "File name too long.\nNext: " in done.stderr
