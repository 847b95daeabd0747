"""What mkdocs asks while it builds the site: pages that are generated, and their places in the navigation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import documents  # mkdocs puts this folder on the path while it loads this file
import notebook
import reference
import specs

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"

Pages = dict[str, str]
"""Texts of pages in Markdown by their paths under `docs/`, in the order of the navigation."""

GENERATED: dict[str, Callable[[], Pages]] = {
    "head pages": specs.head_pages,
    "recipe pages": specs.recipe_pages,
    "reference pages": reference.pages,
    "notebook pages": lambda: notebook.pages(NOTEBOOK, run=os.environ.get("ZOO_SITE_NOTEBOOK") == "run"),
}
"""What a word in the navigation stands for."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put generated pages in the place of the words that stand for them in the navigation."""
    generated = {word: make() for word, make in GENERATED.items()}
    config.extra["generated"] = generated
    named = str(config.nav)
    further = [path.name for path in sorted(DOCS.glob("*.md")) if f"'{path.name}'" not in named]
    # A guide that is new has a place before somebody chooses one.
    config.nav = _filled(config.nav, {**generated, "further pages": dict.fromkeys(further, "")})
    return config


def _filled(entries: Any, generated: dict[str, Pages]) -> Any:
    """The navigation, or a part of it, with pages for words."""
    if isinstance(entries, dict):
        return {title: _filled(entry, generated) for title, entry in entries.items()}
    if not isinstance(entries, list):
        return entries
    filled: list[Any] = []
    for entry in entries:
        filled += (
            list(generated[entry]) if isinstance(entry, str) and entry in generated else [_filled(entry, generated)]
        )
    return filled


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for pages in (*config.extra["generated"].values(), documents.from_outside()):
        for path, text in pages.items():
            files.append(File.generated(config, path, content=text))
    if NOTEBOOK.is_file():
        files.remove(files.get_file_from_path(NOTEBOOK.name))  # its page is there instead
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Read documents as GitHub does."""
    return documents.as_page(markdown, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Put what cells of the notebook showed in its place; Markdown would change it."""
    return notebook.with_outputs(html)
