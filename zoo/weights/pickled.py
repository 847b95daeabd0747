"""Pickled checkpoints, read without running code: torch's safe unpickler, and stand-ins for what training programs add.

A checkpoint often holds more than tensors: the options of the program (`argparse.Namespace`), a best score as a numpy
number, paths. torch's safe unpickler refuses the whole file for one of these. Here each is read as a stand-in of this
module, which keeps the values and does nothing else. Nothing that the file names is imported or called.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.errors import WeightsError, first_line

_LOCK = threading.Lock()
"""torch keeps what is allowed for the whole process, so one file is read at a time."""
_NAMED = re.compile(r"(?:Unsupported (?:global|class|operand)[^\n]*?|GLOBAL )([\w.]+\.[\w.]+)")
_ROUNDS = 50
_COPY = "Next: copy it again; it may not be complete."


class Values:
    """Stands in for an object that holds values, such as a Namespace: its attributes are kept, it can do nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Values:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever the real class would be made with."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})


class NumpyArray:
    """Stands in for a numpy array. `array` is None until its bytes were read, and where it holds no numbers."""

    def __init__(self, *args: Any) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if isinstance(kind, _NumpyType) and kind.dtype is not None and isinstance(content, bytes):
            flat = np.frombuffer(content, kind.dtype)
            # Copied, as the bytes of the file cannot be written to, which torch warns of.
            self.array = flat.reshape(shape, order="F" if fortran else "C").copy()


class _NumpyType:
    """Stands in for numpy's dtype. Of numbers alone: an array of objects holds addresses, and no file may set those."""

    def __init__(self, code: Any = "", *args: Any) -> None:
        self._code = code if isinstance(code, str) and re.fullmatch(r"b1|[iuf][1248]", code) else None
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self._order = order if order in ("<", ">") else "="

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return np.dtype(f"{self._order}{self._code}") if self._code else None


def _numpy_number(kind: Any = None, content: Any = None) -> Any:
    if isinstance(kind, _NumpyType) and kind.dtype is not None and isinstance(content, bytes):
        return np.frombuffer(content, kind.dtype)[0].item()
    return None


def _empty_array(*args: Any) -> NumpyArray:
    return NumpyArray()


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}


_STAND_INS: dict[str, Any] = {
    "argparse.Namespace": Values,
    "types.SimpleNamespace": Values,
    "collections.defaultdict": _plain_dict,
    "builtins.list": Values,
    "builtins.dict": Values,
    "builtins.int": Values,
    "builtins.float": Values,
    "numpy.ndarray": NumpyArray,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
}
_OF_VALUES = ("pathlib.", "datetime.", "omegaconf.", "typing.")
"""Modules whose objects hold values: read as `Values`, whatever they are called."""


def read_pickled(path: Path, *, values: bool = True) -> object:
    """What a file of `torch.save` holds, on the CPU. `values` False: tensors may stay on the disk until they are used.

    Raises:
        WeightsError: The file is damaged, or would run code.
    """
    try:
        if not values and zipfile.is_zipfile(path):
            return _load(path, mmap=True)
        return _load(path, mmap=False)
    except pickle.UnpicklingError as error:
        if not _is_of_torch(path):
            raise WeightsError(f"{path} is no file of torch.save.\n{_COPY}") from None
        names = _would_run(path, error)
        raise WeightsError(
            f"{path} is a pickle that would run code to load{f' (it names {names})' if names else ''}, so it was not "
            "loaded.\nNext: if you trust its origin, load it there, save its state_dict() as .safetensors, and pass "
            "that."
        ) from None
    # A damaged pickle can fail with any of these, and stand-ins with more: their arguments come from the file.
    except (
        *(OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError),
        struct.error,  # cut off in the middle of a number
    ) as error:
        raise _unreadable(path, error) from None
    except zipfile.BadZipFile as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if "TorchScript" in str(error):
        return WeightsError(
            f"{path} is a TorchScript archive, which holds code beside the tensors, so it was not loaded.\n"
            "Next: if you trust its origin, torch.save(torch.jit.load(FILE).state_dict(), OTHER), and pass that."
        )
    return WeightsError(f"{path} is not a readable weights file: {first_line(error)}\n{_COPY}")


def _is_of_torch(path: Path) -> bool:
    """Whether the file begins as torch's files do: a zip, or a pickle of protocol 2 or later."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _load(path: Path, *, mmap: bool) -> object:
    """Load, with stand-ins where the file needs more than tensors."""
    # First without: a program that uses zoo may have allowed the real classes, and the two must not be mixed.
    with _LOCK, contextlib.suppress(pickle.UnpicklingError):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    allowed = dict(_STAND_INS)
    with _LOCK:
        for _ in range(_ROUNDS):
            try:
                with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in allowed.items()]):
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            except pickle.UnpicklingError as error:
                name = _named(error)
                if name in allowed or not name.startswith(_OF_VALUES):
                    raise
                allowed[name] = Values
    raise pickle.UnpicklingError("it names too many things")


def _named(error: Exception) -> str:
    named = _NAMED.search(str(error))
    return named.group(1) if named else ""


def _would_run(path: Path, error: Exception) -> str:
    """Every name that is missing, so that nobody mends one to find the next."""
    try:
        missing = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # An older format, or a damaged file: the name that the error tells is enough.
        missing = []
    names = [name for name in missing if name not in _STAND_INS and not name.startswith(_OF_VALUES)]
    return ", ".join(sorted(names)) or _named(error)
