"""Whence a plugin was installed, as installers record it (PEP 610)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.distributions import head, install

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
