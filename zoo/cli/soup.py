"""`zoo soup`: what became of each ingredient, what the soup is worth, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.cli.document import print_document
from zoo.cli.result import proof_lines, split_line
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.storage.atomic import json_text
from zoo.text import shell_word

if TYPE_CHECKING:
    from zoo.training.soup.outcome import Soup


def print_soup(soup: Soup, verbosity: Verbosity, *, as_json: bool) -> None:
    """Print the ingredients in the order in which they were tried, the soup's scores, its proof and its place."""
    if as_json:
        print_document(json_text({**soup.content, "path": str(soup.path)}))
        return
    screen = console.out()
    # What ingredients were compared by: where their runs ask for it, every class counts the same.
    kind = "balanced " if "balanced_accuracy" in soup.metrics["val"] else ""
    numbers = [f"val {kind}accuracy", f"val {kind}loss", "with it", "loss with it"]
    columns = ["ingredient", "kept stage", *numbers, "added"]
    rows = [_row(each) for each in soup.ingredients]
    screen.print()
    console.show(screen, console.table("Soup", columns, rows, right=columns[2:6]))
    screen.print()
    # A soup begins with the run that is best on validation.
    best, reached = _scores(soup.ingredients[0]["metrics"]["val"]), _scores(soup.metrics["val"])
    added = soup.added
    what = f"average of {console.count(len(added), 'run')}" if len(added) > 1 else f"{added[0]} alone, no average"
    screen.print(
        f"val {kind}accuracy {reached[0]}, loss {reached[1]}: {what}; the best run alone has {best[0]}, loss {best[1]}",
        style="bold",
    )
    if "test" in soup.metrics:
        test = soup.metrics["test"]
        screen.print(split_line("test", test), style="bold")
    screen.print(proof_lines(soup, verbosity))
    screen.print(f"time: {console.seconds(soup.content['seconds']['total'])}")
    screen.print(f"classifier: {soup.artefact}")
    if not verbosity.quiet:
        screen.print(f"next: zoo predict {shell_word(soup.path)} IMAGE")


def _row(ingredient: dict[str, Any]) -> list[str]:
    """One ingredient: its own scores, those of the average with it, and whether it was added."""
    own, together = ingredient["metrics"]["val"], ingredient["together"]
    averaged = ["-", "-"] if together is None else _scores(together["val"])
    added = f"no, same as {ingredient['same_as']}" if ingredient["same_as"] else "yes" if ingredient["added"] else "no"
    return [ingredient["name"], ingredient["kept"], *_scores(own), *averaged, added]


def _scores(scores: dict[str, float]) -> list[str]:
    kind = "balanced_" if "balanced_accuracy" in scores else ""
    return [f"{scores[f'{kind}accuracy']:.3f}", _number(scores[f"{kind}loss"])]


def _number(loss: float | None) -> str:
    # JSON has no such number: a loss that is not finite is stored as null.
    return "not finite" if loss is None else f"{loss:.4f}"
