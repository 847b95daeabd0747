"""Documents that are written for GitHub, as the site's Markdown needs them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE_DOCS = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents of the root folder that have a page, by their names there and here."""
_MOVED = {"README.md": "index.md", "docs/notebook.ipynb": "notebook.md"} | BESIDE_DOCS
"""Other files that a page here stands for. `docs/` has no prefix among pages."""


def from_outside() -> dict[str, str]:
    """Texts of the documents that lie beside `docs/`, by the path of the page."""
    return {page: (ROOT / name).read_text("utf-8") for name, page in BESIDE_DOCS.items()}


def as_page(text: str, page: str) -> str:
    """The text of a document for its page: links as the site has the files, lists as its Markdown reads them."""
    source = next((name for name, there in BESIDE_DOCS.items() if there == page), f"docs/{page}")
    parts = re.split(r"(?ms)(^ *```.*?^ *```[ ]*$)", text)  # every second one is code
    return "".join(
        part if number % 2 else _with_links(_with_lists(part), source, page) for number, part in enumerate(parts)
    )


def _with_links(text: str, source: str, page: str) -> str:
    def linked(found: re.Match[str]) -> str:
        title, target, anchor = found.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        path = f"{path}/README.md" if (ROOT / path).is_dir() else path
        there = _MOVED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None:
            return str(title)  # a file of the source code: the site does not have it
        return f"[{title}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)", linked, text)


def _with_lists(text: str) -> str:
    """Lists with an empty line before them, and four spaces before lists in lists."""
    text = re.sub(r"(?m)^ {2,3}(?=[-*] )", "    ", text)
    lines = text.split("\n")
    for number in range(len(lines) - 1, 0, -1):
        before = lines[number - 1]
        if re.match(r"([-*]|\d+\.) ", lines[number]) and before.strip() and not _in_list(lines, number - 1):
            lines.insert(number, "")
    return "\n".join(lines)


def _in_list(lines: list[str], number: int) -> bool:
    """Whether a line belongs to a list item: it is one, or an indented line after one."""
    while number >= 0 and lines[number].startswith(" "):
        number -= 1
    return number >= 0 and re.match(r"([-*]|\d+\.) ", lines[number]) is not None
