"""Saved classifiers on the Hugging Face hub: sent there, fetched from there, by `huggingface_hub`.

Its settings count: `HF_ENDPOINT` for another hub, `HF_TOKEN` or `hf auth login` for who one is, `HF_HOME` for where its
cache lies. What comes from there is read with the same suspicion as any artefact, and nothing of it is executed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo.artefact.config import CARD, CONFIG, GOLDEN, TENSORS
from zoo.artefact.read import check_files, find_artefact
from zoo.errors import ArtefactError, Offline, OptionError, Refused, first_line
from zoo.files import new_path
from zoo.weights.network import switched_off

FILES = (CONFIG, TENSORS, GOLDEN, CARD)
"""All that an artefact is; nothing else is sent or fetched."""
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^@]*)(?:@(?P<revision>.+))?")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Place(NamedTuple):
    """Where on the hub."""

    repo: str
    """OWNER/NAME."""
    revision: str | None
    """A branch, tag or commit; None: the main branch."""

    def __str__(self) -> str:
        return f"hf://{self.repo}{f'@{self.revision}' if self.revision else ''}"


def place_of(path: str | Path) -> Place | None:
    """`hf://OWNER/NAME[@REVISION]`, also as a path that has lost a slash; None for what is no address of the hub.

    Raises OptionError for one that cannot be.
    """
    found = _ADDRESS.fullmatch(str(path))
    return None if found is None else _checked(found["repo"], found["revision"])


def local(path: str | Path) -> Path:
    """The folder of an artefact: the path itself, or what it names on the hub, fetched into the hub's cache.

    Raises ArtefactError for a repository that is not there or holds no artefact, Offline.
    """
    place = place_of(path)
    return Path(path).expanduser() if place is None else _snapshot(place)


def pull(repo: str, out: Path, *, revision: str | None = None) -> Path:
    """Fetch an artefact into `out`, a new folder, checked -> `out`.

    Raises ArtefactError, Offline, Refused where `out` exists.
    """
    place = place_of(repo) or _checked(repo, None)
    place = place if revision is None else place._replace(revision=revision)
    with new_path(out) as draft:
        snapshot = _snapshot(place)
        draft.mkdir()
        for name in FILES:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, draft / name)
    return out


def push(artefact: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send an artefact's files; the repository is made where there is none -> its address in a browser.

    Raises ArtefactError for no artefact or a damaged one, Refused without a token or permission, Offline.
    """
    from huggingface_hub import HfApi

    place = _checked(repo, revision)
    folder = find_artefact(artefact)
    check_files(folder)
    why = _off()
    if why is not None:
        raise Offline(f"{folder} cannot be sent to {place}: the network is switched off by {why}.\nNext: unset it.")
    hub = HfApi(library_name="zoo")
    with _clear_errors(place, "sent to"):
        url = str(hub.create_repo(place.repo, private=private, exist_ok=True))
        if revision is not None:
            hub.create_branch(place.repo, branch=revision, exist_ok=True)
        hub.upload_folder(
            repo_id=place.repo,
            folder_path=folder,
            revision=revision,
            allow_patterns=list(FILES),
            commit_message="Add a classifier of zoo",
        )
    return url if revision is None else f"{url}/tree/{revision}"


def _checked(repo: str, revision: str | None) -> Place:
    if not _REPOSITORY.fullmatch(repo):
        raise OptionError(
            f"{repo!r} names no repository of the hub.\nNext: give OWNER/NAME, or hf://OWNER/NAME[@REVISION] to load."
        )
    return Place(repo, revision)


def _off() -> str | None:
    return switched_off(False, hub=True)


def _snapshot(place: Place) -> Path:
    from huggingface_hub import snapshot_download

    why = _off()
    with _clear_errors(place, "fetched from", why=why):
        folder = Path(
            snapshot_download(
                place.repo,
                revision=place.revision,
                allow_patterns=list(FILES),
                local_files_only=why is not None,
                library_name="zoo",
            )
        )
    if not (folder / CONFIG).is_file():
        raise ArtefactError(f"{place} holds no artefact of zoo: it has no {CONFIG}.\nNext: look at its files there.")
    check_files(folder)
    return folder


@contextlib.contextmanager
def _clear_errors(place: Place, doing: str, *, why: str | None = None) -> Iterator[None]:
    """What the hub and its library say, in this program's words."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise Refused(
            f"{place} asks for its licence to be accepted first.\nNext: open it in a browser, then hf auth login."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ArtefactError(
            f"There is no {place} that you may see.\n"
            "Next: look at the name; a private one needs hf auth login or HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise ArtefactError(f"{place.repo} has no revision {place.revision!r}.\nNext: leave it out for main.") from None
    except errors.LocalTokenNotFoundError:
        raise Refused(_unknown(place, doing)) from None
    except errors.LocalEntryNotFoundError as error:
        if why is not None:
            raise Offline(
                f"{place} is not in the hub's cache on this machine, and the network is switched off by {why}.\n"
                f"Next: unset {why}, or on a connected machine: zoo pull {place.repo} --out FOLDER"
            ) from None
        raise ArtefactError(_not_done(place, doing, error)) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise Refused(_unknown(place, doing)) from None
        raise ArtefactError(_not_done(place, doing, error)) from None
    except Exception as error:  # no connection, a full disk, a file that was not taken: each library has its own
        raise ArtefactError(_not_done(place, doing, error)) from None


def _unknown(place: Place, doing: str) -> str:
    return (
        f"Nothing can be {doing} {place}: the hub does not know you, or you may not.\n"
        "Next: hf auth login, or set HF_TOKEN to a token with that right."
    )


def _not_done(place: Place, doing: str, error: Exception) -> str:
    # The library says which file it was, and why only in what lies behind.
    why = f"{first_line(error)} ({first_line(error.__cause__)})" if error.__cause__ else first_line(error)
    return f"Nothing could be {doing} {place}: {why}\nNext: look at the connection, and try again."
