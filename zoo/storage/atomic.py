"""Atomic writes: a file or folder gets a temporary name, is flushed to the disk and then renamed.

So whoever reads finds the old content or the new one, also after a power cut, and never a part.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from zoo.errors import Refused, RunError
from zoo.text import escaping_errors, printable

_LEFT_BY_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")


def json_text(content: Any) -> str:
    """Content as indented JSON, with keys in the order given.

    A number that is not finite becomes null. Bytes of file names that are not UTF-8 become escapes, `\\xff`.
    """
    return _dumped(content, indent=2) + "\n"


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError also for text that is nested too deeply, for files may come from anywhere."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_line(content: Any) -> str:
    """Content as JSON in one line, by the rules of `json_text`."""
    return _dumped(content)


def _dumped(content: Any, *, indent: int | None = None) -> str:
    text = json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)
    # JSON escapes the other control characters itself. To some terminals these are commands, too; they mean the same.
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, Mapping):
        return {_plain(key): _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content


def write_text(path: Path, text: str) -> None:
    """Write a file atomically. Raises RunError where that fails, and leaves the old content."""
    with clear_write_errors(path), new_text(path) as file:
        file.write(text)


@contextlib.contextmanager
def new_text(path: Path) -> Iterator[IO[str]]:
    """Open a draft that becomes `path` when the block ends without an exception. Otherwise the old content stays.

    Raises, at the start already, Refused where `path` is there and is no file, RunError where it cannot be written.
    """
    _refuse_no_file(path)
    with clear_write_errors(path):
        # In the same folder, because a rename works only within one file system.
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        # Line ends are written as they are: one may be part of a name.
        file = os.fdopen(handle, "w", encoding="utf-8", errors=escaping_errors(), newline="")
        try:
            yield file
            with clear_write_errors(path):
                file.flush()
                # Before the rename: a file system may write the new name first, and a power cut leaves an empty file.
                os.fsync(file.fileno())
        finally:
            # It tries again to write what a full disk did not take, which has been told by then.
            with contextlib.suppress(OSError):
                file.close()
        with clear_write_errors(path):
            # `mkstemp` makes files that only their owner can read.
            Path(draft).chmod(0o644)
            Path(draft).replace(path)
            sync_folder(path.parent)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def append_line(path: Path, text: str) -> None:
    """Append one line and flush it to the disk. Raises RunError."""
    with clear_write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a draft folder that becomes `path` when the block ends without an exception, else is removed.

    Raises RunError.
    """
    with clear_write_errors(path):
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            yield draft
            # In this order, so that after a power cut the new name leads to a whole folder or is not there.
            for file in draft.iterdir():
                _finish_file(file)
            sync_folder(draft)
            draft.chmod(0o755)
            draft.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def new_numbered_folder(base: Path, write: Callable[[Path], object]) -> Path:
    """Make the folder `base`, or else `base-2`, `base-3` and so on, the first that is not there -> its path.

    `write` fills its draft with at least one file. Of processes that want the same name at once one gets it, and each
    of the others the next: a folder that has files is never replaced. Raises RunError.
    """
    return _first_free(base, "", new_folder, write)


def new_numbered_file(base: Path, write: Callable[[Path], object]) -> Path:
    """Make the file `base`, such as `a.html`, or else `a-2.html` and so on, the first that is not there -> its path.

    `write` makes its draft. Each of several processes at once gets a name of its own. Raises RunError.
    """
    return _first_free(base, base.suffix, new_path, write)


def _first_free(
    base: Path,
    suffix: str,
    new: Callable[[Path], contextlib.AbstractContextManager[Path]],
    write: Callable[[Path], object],
) -> Path:
    """Make what `write` fills by `new`, under the first name that nobody has; numbers come before the `suffix`."""
    for number in itertools.count(1):
        path = base if number == 1 else base.with_name(f"{base.name.removesuffix(suffix)}-{number}{suffix}")
        # Not `exists`, which does not see a broken link.
        if os.path.lexists(path):
            continue
        try:
            with new(path) as draft:
                write(draft)
            return path
        except (Refused, RunError):
            if not os.path.lexists(path):  # else another process has made it meanwhile
                raise
    raise AssertionError("numbers do not end")


@contextlib.contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """The path of a draft, a file or folder that the block makes. It becomes `path` when the block ends without an
    exception, else it is removed.

    Raises Refused where `path` exists, at the start or at the end, and RunError where it cannot be written.
    """
    refuse_existing(path)
    with clear_write_errors(path):
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            draft = staging / path.name
            yield draft
            # A folder in the draft was made by `new_folder`, which has finished its files.
            for file in draft.iterdir() if draft.is_dir() else [draft]:
                if file.is_file():
                    _finish_file(file)
            _put(draft, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _finish_file(path: Path) -> None:
    """Flush a file to the disk and let everyone read it. safetensors makes files that only their owner can read."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o644)


def _put(draft: Path, path: Path) -> None:
    """Rename without replacing a file that appeared in the meantime."""
    if draft.is_file():
        with contextlib.suppress(OSError):
            path.hardlink_to(draft)  # refuses an existing path; not every file system has hard links
            return
    refuse_existing(path)
    draft.rename(path)


def refuse_existing(path: Path) -> None:
    """Raise Refused for a path at which there is anything, a broken link included."""
    if os.path.lexists(path):
        raise Refused(f"{path} exists, and zoo overwrites nothing.\nNext: name another path, or remove it.")


def try_file(path: Path) -> None:
    """Before work that ends with writing a file: refuse a path that it could not be written to.

    A file that is there already is no hindrance.

    Raises Refused where `path` is something else, RunError where nothing can be written.
    """
    _refuse_no_file(path)
    _try_writing(path, path.parent)


def try_new_path(path: Path, *, with_parents: bool = False) -> None:
    """Before work that ends with writing a new file or folder: refuse a path that it could not be written to.

    Args:
        path: Where the result is to be.
        with_parents: Whether the folders above it are made with it. Else they must be there.

    Raises Refused where there is anything at `path`, RunError where nothing can be written.
    """
    refuse_existing(path)
    refuse_unwritable(path, with_parents=with_parents)


def refuse_unwritable(path: Path, *, with_parents: bool = False, named: Path | None = None) -> None:
    """Raise RunError where no file or folder could be made at `path`. `named`: what the message calls it."""
    with clear_write_errors(named or path):
        parent = existing_parent(path) if with_parents else path.parent
    _try_writing(named or path, parent, name=path.name)


def _try_writing(path: Path, folder: Path, *, name: str = "") -> None:
    # Trying to write is the only test that also knows read-only disks, quotas, access lists and names too long.
    with clear_write_errors(path):
        handle, draft = tempfile.mkstemp(prefix=f".{name or path.name}-", dir=folder)
        os.close(handle)
        Path(draft).unlink()


def _refuse_no_file(path: Path) -> None:
    """Raise Refused for what is there and is no file: a folder, and a device, which a rename would take away."""
    with clear_write_errors(path):
        is_other = path.exists() and not path.is_file()
    if is_other:
        what = "a folder" if path.is_dir() else "no file but a device or a pipe"
        raise Refused(f"{path} is {what}, and a file cannot take its place.\nNext: name another path.")


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system can do that."""
    # Windows cannot open a folder.
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's error about a failed write into a RunError with a message for people."""
    try:
        yield
    except OSError as error:
        raise RunError(write_problem(path, error)) from error


def write_problem(path: Path, error: OSError) -> str:
    """What went wrong with a write, and what to do."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(existing_parent(path)).free
        return (
            f"No space left for {path}: {free / 1e6:.0f} MB are free there.\n"
            "Next: free space there, or write to another place."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written: {error.strerror}.\nNext: write to another place."
    if error.errno == errno.ENOENT and not path.parent.exists():
        return (
            f"{path} cannot be written: there is no folder {path.parent}.\n"
            "Next: make that folder, or write to another place."
        )
    if error.errno == errno.ENOTDIR:
        return f"{path} cannot be written: a part of it is a file, not a folder.\nNext: write to another place."
    return f"{path} cannot be written: {error.strerror or error}.\nNext: write to another place."


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())
