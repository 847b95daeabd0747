"""Every error that is meant for people.

    ZooError                    1  it failed: data, weights, reading or writing, network, device
    ├── Refused                 2  refused before anything ran
    │   ├── UnknownName            a name that nothing registered, with the nearest names
    │   ├── NameConflict           a name that two distributions claim
    │   ├── OptionError            an option that does not exist, or a value it cannot take
    │   ├── RecipeError            a recipe with faults, all listed at once
    │   └── OtherAnswer            data in memory that give something else when they are asked again
    ├── DataError                  the images
    ├── WeightsError               pretrained weights: none, not downloaded, or not for this architecture
    │   ├── WeightsMismatch        a file for another architecture
    │   ├── Unreachable            the download host cannot be reached
    │   └── Offline                the network is switched off, and the file is not on this machine
    ├── DeviceError                the device does not exist, or its memory does not suffice
    ├── ClusterError               a Ray cluster that does not answer, or workers that were lost for good
    ├── PluginError                a plugin broke its contract
    ├── RunError                   a run folder that cannot be written or read
    │   └── ProcessLost            another process of the same run has ended (`zoo.distributed.pulse`)
    ├── ArtefactError              an artefact that cannot be read, or is not what it claims
    └── CheckFailed             3  a check of the proof found a fault

The command line turns a `ZooError` into its message and `exit_code`; anything else is a traceback on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

# As shells report it: 128 and the number of the signal.
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of a command that Ctrl-C or SIGTERM ended."""
FAULT_FOUND = 3
"""Exit code of a command whose check found a fault."""


class ZooError(Exception):
    """Base of every error meant for people. Its message says what was asked, what was found and what to do."""

    exit_code = 1
    code = "error"
    """The name of this kind of error for programs (`--json`); it stays. The table: docs/command.md."""
    next_step = ""
    """What to do after every error of this kind; a message that says what to do keeps its own. Empty: each says it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(with_step(message, self.next_step))


class Refused(ZooError):
    """What was asked for cannot be done. Nothing ran."""

    exit_code = 2
    code = "refused"


class UnknownName(Refused):
    """A name that nothing registered.

    Attributes: `kind` ("backbone", "head", ...), `name` as asked, `nearest` names that exist.
    """

    code = "unknown_name"

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        hint: str = "",
        step: str = "",
        first: Sequence[str] = (),
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        """`hint` and `step`: what else to know, and what to do next.

        `first`: names that are meant more likely than those that are spelt alike. `accepts`: see `nearest`.
        """
        self.kind = kind
        self.name = name
        self.nearest = tuple(dict.fromkeys([*first, *nearest(name, known, accepts=accepts)]))[:3]
        super().__init__(with_step(f"There is no {kind} {name!r}.{_asked(self.nearest)} {hint}".rstrip(), step))


class NameConflict(Refused):
    """A bare name that two distributions claim."""

    code = "name_conflict"


class OptionError(Refused):
    """An option that does not exist, or a value that it cannot take."""

    code = "option"
    on_command_line = ""
    """The message with the names of options, where that of a call in Python has those of arguments."""


class RecipeError(Refused):
    """A recipe with faults. `faults` lists every one with its key path."""

    code = "recipe"
    next_step = "correct what is named above; zoo show staged prints a recipe as an example."

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(f"The recipe {source} has {count}:\n" + "\n".join(f"  {fault}" for fault in self.faults))


class OtherAnswer(Refused):
    """An object that was given as data gave something else for an image than before. It ends the run."""

    code = "other_answer"


class DataError(ZooError):
    """The images cannot be used as they are."""

    code = "data"


class NoAnswer(DataError):
    """An image cannot be read now, such as where a network folder does not answer. It says nothing of the image."""

    code = "no_answer"


class FeaturesError(ZooError):
    """Features that no head can be fitted to."""

    code = "features"


class WeightsError(ZooError):
    """Pretrained weights that do not exist, cannot be read or cannot be downloaded."""

    code = "weights"


class WeightsMismatch(WeightsError):
    """A weights file for another architecture. The model was not changed.

    Attributes: `missing` and `unexpected` tensor names, `shapes` as (name, shape in the file, shape in the model).
    """

    code = "weights_mismatch"

    def __init__(
        self,
        architecture: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        holds: str = "",
    ) -> None:
        """`holds`: what the file holds instead, as lines of the message."""
        self.architecture = architecture
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.shapes = tuple(shapes)
        lines = [f"These weights are not for {architecture}; no tensor was loaded."]
        lines += _listed("missing from the file", self.missing)
        lines += _listed("in the file, unknown to the model", self.unexpected)
        lines += _listed(
            "of another shape", [f"{name}: file {list(ours)}, model {list(theirs)}" for name, ours, theirs in shapes]
        )
        lines += [holds] if holds else []
        lines.append("Next: pass the file of this architecture, or name the backbone that the file is for.")
        super().__init__("\n".join(lines))


class Unreachable(WeightsError):
    """The host that serves the weights cannot be reached."""

    code = "unreachable"


class Offline(WeightsError):
    """The network is switched off, and the file is not on this machine."""

    code = "offline"


class DeviceError(ZooError):
    """The device does not exist, or its memory does not suffice."""

    code = "device"


class ClusterError(ZooError):
    """A Ray cluster that does not answer, or whose workers were lost for good."""

    code = "cluster"


class PluginError(ZooError):
    """A plugin is broken or broke its contract. The message names its distribution."""

    code = "plugin"
    # Of some it is unknown whose code it is: an object that was given in Python goes the way of a plugin.
    next_step = (
        "mend it where it is yours (zoo plugins check NAME); else update or uninstall the plugin, or tell its authors: "
        "zoo list plugins"
    )


class RunError(ZooError):
    """A run folder that cannot be written or read."""

    code = "run"


class ArtefactError(ZooError):
    """An artefact that cannot be read, or is not what it claims to be."""

    code = "artefact"


class CheckFailed(ZooError):
    """A check of the proof found a fault."""

    exit_code = 3
    code = "check_failed"


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM). Unlike a plugin's `sys.exit`, code that isolates plugins lets it pass."""


COPY_FOLDER = "Next: copy the folder again from where it was made."
"""What to do where a file in the folder of a run or a sweep is damaged."""
_STEP = re.compile(r"^(?:Next|To resume): ", re.MULTILINE)


def with_step(message: str, step: str) -> str:
    """The message with a line that says what to do next, unless it has one."""
    return f"{message}\nNext: {step}" if step and not _STEP.search(message) else message


def without_step(message: str) -> str:
    """The message up to its next step, as a reason inside another message, which says its own."""
    return message.partition("\nNext: ")[0]


def nearest(
    name: str, known: Iterable[str], *, count: int = 3, accepts: Callable[[str], bool] | None = None
) -> tuple[str, ...]:
    """The known names most like `name`, best first: at most `count`, possibly none, never `name` itself.

    What is suggested must be accepted in the place of `name`. `known` are names of which this is certain; where it is
    not, `accepts` tells, and is asked about few.
    """
    by_folded: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(known):
        if candidate != name:
            by_folded.setdefault(candidate.lower(), []).append(candidate)
    folded = name.lower()
    # All that are close, not `count` of them: `accepts` may turn down the first ones.
    close = get_close_matches(folded, by_folded, n=len(by_folded), cutoff=0.6) if by_folded else []
    # A part of a name. One or two letters are a part of nearly every name.
    if not close and len(folded) >= 3:
        close = sorted((candidate for candidate in by_folded if folded in candidate), key=len)
    if not close and folded:
        # `learning_rate` for lr, `wd` for weight_decay.
        close = [each for each in by_folded if each == _initials(folded) or _initials(each) == folded]
    candidates = (candidate for each in close for candidate in by_folded[each])
    return tuple(islice((each for each in candidates if accepts is None or accepts(each)), count))


def meant(name: str, known: Iterable[str], *, count: int = 3, accepts: Callable[[str], bool] | None = None) -> str:
    """` Did you mean 'a' or 'b'?` with the nearest names, to follow a sentence; nothing where none is near."""
    return _asked(nearest(name, known, count=count, accepts=accepts))


def meant_beside(path: Path, names: Iterable[str]) -> str:
    """The same for a path that does not exist: the name beside it that is nearest, as a path."""
    close = nearest(path.name, names, count=1)
    return f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""


def _asked(names: Sequence[str]) -> str:
    return f" Did you mean {either(names)}?" if names else ""


def _initials(name: str) -> str:
    words = re.findall(r"[^\W_]+", name)
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def either(names: Sequence[str]) -> str:
    """Names as a choice: `'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]


def plain(message: str) -> str:
    """Pydantic's message as the end of a sentence: `should be at least 1`."""
    # What follows these words is about how pydantic parses, not about what the user wrote.
    text = message.removeprefix("Input ").split(", unable to ")[0].split(", got ")[0]
    text = text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return text[:1].lower() + text[1:]


def _listed(title: str, items: Sequence[str], *, show: int = 5) -> list[str]:
    if not items:
        return []
    more = [f"    and {len(items) - show} more"] if len(items) > show else []
    return [f"  {title} ({len(items)}):", *(f"    {item}" for item in items[:show]), *more]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages by which torch's plain RuntimeErrors tell that memory ran out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    # torch has a class of its own for graphics cards alone; on a CPU its message has to tell. By its name, as nothing
    # here imports torch.
    if isinstance(error, MemoryError) or any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
