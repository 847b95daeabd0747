"""`zoo compare`: the comparison on the terminal first, then the page.

Printing first means that a page which cannot be written costs only the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import zoo
from zoo.cli.document import print_document
from zoo.comparing.summary_tables import comparison_blocks
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.process import prints_to_stderr
from zoo.storage.atomic import json_text, try_new_path


def compare_and_print(runs: Sequence[Path], *, html: Path | None, as_json: bool) -> None:
    """Compare runs, print the result, and write the page: to `html`, else to a new file, with `as_json` only to `html`.

    Raises Refused for a page that exists, RunError for a run that cannot be read.
    """
    from zoo.comparing.page import write_page

    if html is not None:
        try_new_path(html)
    with prints_to_stderr():  # plugins are asked for recipes and input sizes, and may print
        comparison = zoo.compare(*runs)
    if as_json:
        page = write_page(comparison, html) if html is not None else None
        print_document(json_text({**comparison.to_dict(), "page": str(page) if page else None}))
        return
    print_blocks(console.out(), comparison_blocks(comparison))
    print(f"\npage: {write_page(comparison, html)}")
