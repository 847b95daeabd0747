"""Subcommands: a function, and a Typer app with commands of its own."""

from typing import Annotated

import typer
from zoo import ZooError

garden = typer.Typer(help="Tend what grows.")


def greet(name: str, loud: Annotated[bool, typer.Option("--loud", help="In capitals.")] = False):
    """Greet somebody."""
    text = f"Hello {name}"
    print(text.upper() if loud else text)


def stumble(politely: bool = False):
    """Fail."""
    if politely:
        raise ZooError("The path is slippery.\nNext: walk slowly.")
    raise ZeroDivisionError("over the own feet")


@garden.command()
def water(litres: int):
    """Give water."""
    print(f"{litres} litres")


@garden.command()
def harvest():
    """Take fruit."""
    raise typer.Exit(3)
