"""Check the name of a new plugin, fill in its templates and write them: the whole package or nothing."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from zoo.errors import Refused, RunError, UnknownName
from zoo.registry.registry import Registry, default_registry
from zoo.text import shell_word

KINDS = ("head", "backbone", "recipe")
# Templates are no Python or TOML until they are filled in: the suffix keeps linters, type checkers and pytest away.
_SUFFIX = ".template"
_PLACEHOLDER = re.compile(r"@(name|module|distribution|class|kind)@")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_MAX_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a plugin package needs, derived from one."""

    name: str
    """Name of the head, backbone or recipe, and of the plugin: `sharp_linear`."""

    @property
    def module(self) -> str:
        """Name of the Python module: `zoo_sharp_linear`. The prefix avoids clashes with other installed modules."""
        return f"zoo_{self.name}"

    @property
    def distribution(self) -> str:
        """Name of the distribution and of its folder: `zoo-sharp-linear`."""
        return self.module.replace("_", "-")

    @property
    def class_name(self) -> str:
        """Name of the torch module's class: `SharpLinear`."""
        return "".join(part.capitalize() for part in self.name.split("_"))


def write_plugin(kind: str, name: str, *, out: Path | None = None) -> Path:
    """Write an installable package with a working head, backbone or recipe, and tests that call `zoo.testing`.

    Args:
        kind: `head`, `backbone` or `recipe`.
        name: Name of the head, backbone or recipe; the module is called `zoo_NAME`.
        out: The folder to create. Default: `zoo-NAME`, with dashes, in the working directory.

    Returns:
        The folder.

    Raises:
        UnknownName: `kind` is none of the three.
        Refused: The name is invalid or taken, or the folder already exists.
        RunError: The folder cannot be written.
    """
    if kind not in KINDS:
        raise UnknownName(
            "kind of plugin", kind, KINDS, hint=f"There are: {', '.join(KINDS)}.", step="give one of these."
        )
    names = check_name(kind, name, out=out)
    folder = Path(names.distribution) if out is None else out.expanduser()
    if _exists(folder):
        raise Refused(
            f"{str(folder)!r} already exists, and nothing is overwritten.\n"
            f"Next: zoo plugins new {kind} {name} --out {shell_word(_free_folder(folder))}, or another name."
        )
    try:
        _write(folder, kind, names)
    except OSError as error:
        raise RunError(
            f"The plugin cannot be written to {str(folder)!r}: {error.strerror or error}.\n"
            f"Next: zoo plugins new {kind} {name} --out FOLDER, where you may write."
        ) from None
    return folder


def check_name(kind: str, name: str, *, out: Path | None = None) -> Names:
    """Return the names derived from `name`. Raises Refused with the nearest usable name if it is invalid or taken."""
    fault = _fault_of(kind, name)
    if fault:
        usable = _nearest_name(kind, name, default_folder=out is None)
        where = "" if out is None else f" --out {shell_word(out)}"
        raise Refused(f"{fault}\nNext: zoo plugins new {kind} {usable}{where}")
    return Names(name)


def _fault_of(kind: str, name: str) -> str:
    """Why a plugin cannot have the name; empty if it can."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_LENGTH:
        return (
            f"{name!r} is not a valid name for a {kind}. It also names a Python module and a distribution, so "
            f"use lower-case letters, digits and single '_' between them, a letter first, {_MAX_LENGTH} at most."
        )
    names = Names(name)
    if find_spec(names.module) is not None:
        return f"The module of a {kind} {name!r} would be {names.module!r}, and one of this name is already installed."
    # Two plugins may share a name, but then neither can be given as a bare name.
    if name in _taken_names(kind, default_registry()):
        return f"There is already a {kind} {name!r}, so {name!r} alone would be ambiguous."
    return ""


def _taken_names(kind: str, registry: Registry) -> set[str]:
    if kind == "backbone":
        return {part for name in registry.backbones().names() for part in name.split("/")}
    return {entry.spec.name for entry in (registry.heads() if kind == "head" else registry.recipes())}


def _nearest_name(kind: str, name: str, *, default_folder: bool) -> str:
    """The name that is usable and most like `name`: as it is spelt by the rules, else with `my_`, else numbered."""
    spelt = _spelt_by_the_rules(kind, name)
    mine = spelt if spelt.startswith("my_") else f"my_{spelt}"
    numbered = (f"{mine[: _MAX_LENGTH - 4].rstrip('_')}_{number}" for number in itertools.count(2))
    for candidate in itertools.chain([spelt, mine], numbered):
        folder = Path(Names(candidate).distribution)
        if not _fault_of(kind, candidate) and not (default_folder and _exists(folder)):
            return candidate
    raise AssertionError("numbers do not end")


def _exists(folder: Path) -> bool:
    return folder.exists() or folder.is_symlink()


def _free_folder(taken: Path) -> Path:
    names = itertools.chain(["new"], map(str, itertools.count(2)))
    return next(folder for name in names if not _exists(folder := taken.with_name(f"{taken.name}-{name}")))


def _spelt_by_the_rules(kind: str, name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", ascii_name)
    snake_case = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_").lstrip("0123456789_")
    return snake_case[:_MAX_LENGTH].rstrip("_") or f"my_{kind}"


def _write(folder: Path, kind: str, names: Names) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system as the target, so that one rename creates the whole package or nothing.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        # mkdtemp creates folders that only their owner can read.
        draft.chmod(0o755)
        templates = files(__package__).joinpath("templates")
        for part in ("common", kind):
            for path, text in _templates(templates.joinpath(part), PurePosixPath()):
                target = draft / _fill_in(str(path), kind, names).removesuffix(_SUFFIX)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_fill_in(text, kind, names), encoding="utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _templates(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield (relative path, text) of every template below `folder`; paths contain placeholders too."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield path / entry.name, entry.read_text("utf-8")


def _fill_in(text: str, kind: str, names: Names) -> str:
    values = {
        "name": names.name,
        "module": names.module,
        "distribution": names.distribution,
        "class": names.class_name,
        "kind": kind,
    }
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder.group(1)], text)
