"""One look for all pages: the report, the server's page, the comparison and the answers of probes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import zoo
from zoo.reporting.page import environment, styles

PACKAGE = Path(zoo.__file__).parent
TEMPLATES = sorted(PACKAGE.glob("*/templates/*.*"))
FRAME = PACKAGE / "reporting/templates/page.html"
"""What every page begins and ends with."""
PAGES = [page for page in TEMPLATES if page.suffix == ".html" and not page.stem.endswith("_part") and page != FRAME]
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|oklch)\(")
BLACK = {"background: rgb(0 0 0", "background: #000;"}
"""Behind a dialog, and behind the picture of a camera: the same by day and by night."""


def own_look(text: str) -> list[str]:
    """What a template has of a look of its own: colours and fonts that are not those of the shared styles."""
    for allowed in BLACK:
        text = text.replace(allowed, "")
    # Addresses of parts of a page (`href="#top"`) are no colours.
    text = re.sub(r'(?:href|id|for)="[^"]*"', "", text)
    return [*COLOUR.findall(text), *re.findall(r"font-family|font: *\d", text)]


def test_the_pages_are_all_there() -> None:
    assert {page.name for page in PAGES} >= {"report.html", "serve.html", "compare.html", "shortlist.html"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_page_has_the_shared_styles_and_works_on_small_and_dark_screens(page: Path) -> None:
    assert page.read_text("utf-8").startswith(f'{{% extends "{FRAME.name}" %}}')
    assert "<style" not in page.read_text("utf-8")
    text = FRAME.read_text("utf-8")
    inside = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    # What follows the shared styles may arrange a page's own parts; the next test keeps colours and fonts out of it.
    assert len(inside) == 1 and inside[0].strip().startswith("{{ css }}")
    assert '<meta name="viewport" content="width=device-width' in text
    shared = str(styles(environment()))
    assert "prefers-color-scheme: dark" in shared and "--page:" in shared


@pytest.mark.parametrize(
    "template", [each for each in TEMPLATES if each.name != "report.css"], ids=lambda each: each.name
)
def test_no_template_has_colours_or_fonts_of_its_own(template: Path) -> None:
    assert own_look(template.read_text("utf-8")) == []


def test_a_colour_or_a_font_of_its_own_is_seen() -> None:
    assert own_look('<p style="color: #c00">') == ["#c00"]
    assert own_look("h1 { color: rgb(1 2 3); font-family: serif }") == ["rgb(", "font-family"]
    assert own_look('<a href="#add">') == []
