"""Tables and pages as HTML: every text in it as text, light and dark, and nothing that is too large."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import zoo
from zoo.data.check.report import Case, DataReport, Finding
from zoo.display.blocks import FRAME_MOST, Line, TextTable, blocks_html, frame_html
from zoo.display.console import Verbosity
from zoo.display.plan import print_plan
from zoo.display.records import Records

EVIL = "<script>alert('&')</script>"


def tags(page: str) -> set[str]:
    return set(re.findall(r"</?([a-zA-Z]+)", page))


def texts(page: str) -> list[str]:
    """What a browser shows, piece by piece."""
    return [html.unescape(text) for text in re.sub(r"<[^>]*>", "\0", page).split("\0") if text]


def test_every_text_is_shown_as_it_is() -> None:
    table = TextTable(title=EVIL, columns=[EVIL, "b"], rows=[[EVIL, "1"], ["\udcff", ""]], right=["b"])
    page = blocks_html([table, Line(EVIL, "bold red"), Line("\nafter")])
    assert tags(page) == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert texts(page) == [EVIL, EVIL, "b", EVIL, "1", "\\xff", EVIL, "\nafter"]


def test_a_notebook_shows_the_tables_of_zoo_plan(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = zoo.plan("timm/test_resnet", weights="random", data=few, tune=False)
    print_plan(plan, Verbosity())
    printed = capsys.readouterr().out.split()
    page = plan._repr_html_()
    assert page is not None and " ".join(texts(page)).split() == printed


def test_a_data_report_is_shown_with_class_and_file_names_as_text() -> None:
    finding = Finding(
        code="leak", severity="fault", sentence=EVIL, next_step="Look.", cases=(Case(files=(EVIL,), detail=EVIL),)
    )
    report = DataReport(
        path="x", classes=(EVIL, "b"), images={"train": (1, 2)}, files=3, split_note="", findings=(finding,)
    )
    page = report._repr_html_()
    assert "script" not in tags(page) and texts(page).count(EVIL) == 1  # the class
    assert f"\nFAULT leak: {EVIL}" in texts(page) and f"  {EVIL}: {EVIL}" in texts(page)


def test_a_page_is_framed_whole_unless_it_is_too_large() -> None:
    page = f"<!doctype html><title>{EVIL}</title><p class='a'>\u00e9 \U0001f436"
    framed = frame_html(page, place=EVIL)
    assert framed is not None and tags(framed) == {"iframe"} and 'sandbox=""' in framed
    source = re.search(r'srcdoc="([^"]*)"', framed)
    assert source is not None and html.unescape(source[1]) == page
    assert frame_html("x" * FRAME_MOST, place="") is not None
    assert frame_html("x" * (FRAME_MOST - 1) + "\u00e9", place="") is None


def test_records_are_a_table_for_people_and_rows_for_programs() -> None:
    records = Records([{"stage": EVIL, "epoch": 1, "loss": 0.123456}, {"stage": "b", "epoch": 12345, "rate": 2.5e-05}])
    assert records == [
        {"stage": EVIL, "epoch": 1, "loss": 0.123456, "rate": None},
        {"stage": "b", "epoch": 12345, "loss": None, "rate": 2.5e-05},
    ]
    shown = ["stage", "epoch", "loss", "rate", EVIL, "1", "0.1235", "b", "12,345", "2.5e-05"]
    assert texts(records._repr_html_()) == shown
    assert Records().columns == () and "<td" not in Records()._repr_html_()
    pandas = pytest.importorskip("pandas")
    assert list(pandas.DataFrame(records).columns) == list(records.columns)
