"""`zoo compare`: what was found on the terminal first, then the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo import api
from zoo.cli.compare_text import print_comparison, print_comparison_json
from zoo.streams import prints_to_stderr


def compare_and_print(runs: Sequence[Path], *, html: Path | None, as_json: bool) -> None:
    """Compare, print, and write the page: to `html`, or to a new file unless JSON alone is wanted."""
    from zoo.comparing.page import refuse_existing_page, write_page

    if html is not None:
        refuse_existing_page(html)
    with prints_to_stderr():  # plugins are asked for recipes and input sizes
        found = api.compare(*runs)
    if as_json:
        page = write_page(found, html) if html is not None else None
        print_comparison_json(found, page)
        return
    print_comparison(found)
    print(f"\npage: {write_page(found, html)}")
