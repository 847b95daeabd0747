"""What is read of the distributions that plugins come from, and whence they were installed (PEP 610)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import Distribution, EntryPoint
from os import PathLike
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.distributions import head, install
from zoo.registry.entry_points import find

GIT = {"vcs": "git", "commit_id": "0123abc"}


@pytest.mark.parametrize(
    ("content", "installer", "origin"),
    [
        (None, "pip", None),
        ({"url": "file:///home/ann/my%20head", "dir_info": {"editable": True}}, "pip", "/home/ann/my head"),
        ({"url": "https://example.org/a.git", "vcs_info": GIT}, "pip", "git+https://example.org/a.git@0123abc"),
        (
            {"url": "https://example.org/a.git", "vcs_info": GIT, "subdirectory": "b"},
            "pip",
            "git+https://example.org/a.git@0123abc#subdirectory=b",
        ),
        # A signature opens the file to whoever has it, and does not belong in what is shared.
        ({"url": "https://example.org/a.whl?Signature=x", "archive_info": {}}, "pip", "https://example.org/a.whl"),
        # Who may open it does not, either. Only a login name of ssh is part of the address, as pip needs it.
        ({"url": "https://ann:t0ken@example.org/a.whl", "archive_info": {}}, "pip", "https://example.org/a.whl"),
        (
            {"url": "https://t0ken@example.org:8443/a.git", "vcs_info": GIT},
            "uv",
            "git+https://example.org:8443/a.git@0123abc",
        ),
        (
            {"url": "ssh://git:t0ken@example.org/a.git", "vcs_info": GIT},
            "pip",
            "git+ssh://git@example.org/a.git@0123abc",
        ),
        # The machine that built a package of conda.
        ({"url": "file:///home/conda/work", "dir_info": {}}, "conda", None),
        ("no JSON", "pip", None),
        (["no", "table"], "pip", None),
    ],
)
def test_where_a_plugin_was_installed_from_is_what_pip_takes_again(
    content: Mapping[str, Any] | str | None,
    installer: str,
    origin: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_path, "zoo-whence", head("whence"))
    (info,) = tmp_path.glob("*.dist-info")
    (info / "INSTALLER").write_text(f"{installer}\n")
    if content is not None:
        (info / "direct_url.json").write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.syspath_prepend(tmp_path)
    assert zoo.Registry(report=pytest.fail).head("whence").plugin.installed_from == origin
    assert zoo.Registry(report=pytest.fail).head("linear").plugin.installed_from is None  # zoo's own


class _Described(Distribution):
    """An installed distribution, which notes what is read of it."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def read_text(self, filename: str) -> str | None:
        self.read.append(filename)
        return "Metadata-Version: 2.1\nName: Ten_Heads\nVersion: 1.5\n" if filename == "METADATA" else None

    def locate_file(self, path: str | PathLike[str]) -> Path:
        return Path(path)


class _Unhashable(_Described):
    """As one of another importer may be."""

    __hash__ = None  # type: ignore[assignment]


def _points(dist: Distribution) -> list[EntryPoint]:
    points = [EntryPoint(f"head{number}", f"ten_heads.head{number}", "zoo") for number in range(10)]
    for point in points:
        vars(point).update(dist=dist)  # as Python does: an entry point cannot be changed otherwise
    return points


def test_metadata_is_read_once_for_all_plugins_of_a_distribution() -> None:
    dist = _Described()
    found = [plugin for plugin, _ in find(_points(dist))]
    assert [(plugin.distribution, plugin.version) for plugin in found] == [("Ten_Heads", "1.5")] * 10
    assert dist.read.count("METADATA") == 1


def test_plugins_of_a_distribution_that_cannot_be_described_are_found() -> None:
    assert {plugin.version for plugin, _ in find(_points(_Unhashable()))} == {"unknown"}
