"""`zoo cache ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import Json

cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What zoo keeps on this machine, to be fast.")


@cache_app.command("show")
def show_cache(as_json: Json = False) -> None:
    """List what the cache folder holds, with sizes."""
    from zoo import housekeeping
    from zoo.caches import cache_folder
    from zoo.cli.cache_text import print_kept
    from zoo.features.folder import size_limit
    from zoo.files import json_text

    found = housekeeping.kept()
    if as_json:
        print(json_text([each.to_dict() for each in found]), end="")
    else:
        print_kept(found, cache_folder(), size_limit())


@cache_app.command("clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(help="features (the default), measurements, sample, or all.", show_default=False),
    ] = None,
) -> None:
    """Remove what can be made again."""
    from zoo import housekeeping
    from zoo.cli.cache_text import print_cleared

    print_cleared(housekeeping.clear(kinds or ["features"]))
