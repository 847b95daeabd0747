"""Templates filled in and written, all of them or nothing."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from zoo.errors import Refused, RunError, UnknownName
from zoo.scaffold.naming import Names, check_name

KINDS = ("head", "backbone", "recipe")
_SUFFIX = ".template"  # so that no tool takes a template for the code that it becomes
_PLACEHOLDER = re.compile(r"@(name|module|distribution|class|kind)@")


def write_plugin(kind: str, name: str, *, out: Path | None = None) -> Path:
    """Write an installable package with one head, backbone or recipe that works, and tests that call `zoo.testing`.

    Args:
        kind: `head`, `backbone` or `recipe`.
        name: Its name; the module is `zoo_NAME`.
        out: The folder to write; must not exist. Default: `zoo-NAME`, with dashes, in the working directory.

    Returns:
        The folder.

    Raises:
        UnknownName: An unknown kind.
        Refused: A name that cannot be, a folder that is there already.
        RunError: It cannot be written.
    """
    if kind not in KINDS:
        raise UnknownName("kind of plugin", kind, KINDS, hint=f"There are: {', '.join(KINDS)}.")
    names = check_name(kind, name)
    folder = Path(names.distribution) if out is None else out.expanduser()
    if folder.exists() or folder.is_symlink():
        raise Refused(
            f"{str(folder)!r} is already there, and nothing is overwritten. "
            f"Next: zoo plugins new {kind} {name} --out {folder}-new, or another name."
        )
    try:
        _write(folder, kind, names)
    except OSError as error:
        raise RunError(f"The plugin cannot be written to {str(folder)!r}: {error.strerror or error}.") from None
    return folder


def _write(folder: Path, kind: str, names: Names) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that the folder is there whole or not at all.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        templates = files(__package__).joinpath("templates")
        for part in ("common", kind):
            for path, text in _texts(templates.joinpath(part), PurePosixPath()):
                target = draft / _filled(str(path), kind, names).removesuffix(_SUFFIX)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_filled(text, kind, names), encoding="utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _texts(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _texts(each, path / each.name)
        elif each.name.endswith(_SUFFIX):
            yield path / each.name, each.read_text("utf-8")


def _filled(text: str, kind: str, names: Names) -> str:
    values = {
        "name": names.name,
        "module": names.module,
        "distribution": names.distribution,
        "class": names.class_name,
        "kind": kind,
    }
    return _PLACEHOLDER.sub(lambda found: values[found.group(1)], text)
