"""Saved classifiers on the Hugging Face hub, sent and fetched by `huggingface_hub`.

The library's settings apply: `HF_ENDPOINT` for another hub, `HF_TOKEN` or `hf auth login` for the account, `HF_HOME`
for the cache. What comes from the hub is checked like any artefact, and no code in it is run.
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
from zoo.storage.atomic import new_path
from zoo.weights.offline import switched_off

FILES = (CONFIG, TENSORS, GOLDEN, CARD)
"""The files of an artefact; nothing else is sent or fetched."""
# A single slash too: `Path` turns hf://OWNER/NAME into hf:/OWNER/NAME.
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^@]*)(?:@(?P<revision>.+))?")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class HubPlace(NamedTuple):
    """A repository on the hub, at a revision."""

    repo: str
    """OWNER/NAME."""
    revision: str | None
    """A branch, tag or commit; None for the main branch."""

    def __str__(self) -> str:
        return f"hf://{self.repo}{f'@{self.revision}' if self.revision else ''}"


def place_of(path: str | Path) -> HubPlace | None:
    """The place that `hf://OWNER/NAME[@REVISION]` names; None for a path that is not an address of the hub.

    Raises OptionError for an address that is not valid.
    """
    address = _ADDRESS.fullmatch(str(path))
    return None if address is None else _checked(address["repo"], address["revision"])


def local_folder(path: str | Path) -> Path:
    """The folder of an artefact: the path itself, or a folder in the hub's cache that an `hf://` address is fetched to.

    Raises:
        ArtefactError: The repository does not exist, or holds no artefact.
        Offline: It is not in the cache, and the network is switched off.
    """
    place = place_of(path)
    return Path(path).expanduser() if place is None else _snapshot(place)


def pull(repo: str, out: Path, *, revision: str | None = None) -> Path:
    """Fetch an artefact into `out`, a new folder, and check it -> `out`.

    Raises ArtefactError, Offline; Refused if `out` exists; OptionError for two revisions, one of them in the address.
    """
    place = place_of(repo) or _checked(repo, None)
    if revision is not None and place.revision not in (None, revision):
        raise OptionError(
            f"The address {place} names the revision {place.revision!r}, --revision names {revision!r}.\n"
            "Next: leave one of the two out."
        )
    place = place if revision is None else place._replace(revision=revision)
    # Copied out of the hub's cache, whose files are links, and are removed when somebody cleans it.
    with new_path(out) as draft:
        snapshot = _snapshot(place)
        draft.mkdir()
        for name in FILES:
            if (snapshot / name).is_file():
                shutil.copyfile(snapshot / name, draft / name)
    return out


def push(artefact: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send an artefact's files to a repository, which is created if there is none -> its address in a browser.

    Args:
        artefact: An artefact or a run folder.
        repo: OWNER/NAME.
        private: Whether a repository that is created is private.
        revision: The branch to send to, created if there is none; None for the main branch.

    Raises:
        ArtefactError: There is no artefact, or it is damaged.
        OptionError: `artefact` is on the hub already, or `repo` is not a name.
        Refused: You are not logged in to the hub, or lack permission.
        Offline: The network is switched off.
    """
    if there := place_of(artefact):
        fetched = f"zoo pull {there.repo} --out FOLDER" + (f" --revision {there.revision}" if there.revision else "")
        raise OptionError(
            f"{there} is on the hub already, and only what is on this machine is sent.\n"
            f"Next: {fetched}; then zoo push FOLDER {repo}"
        )
    from huggingface_hub import HfApi

    place = _checked(repo, revision)
    folder = find_artefact(artefact)
    # Before anything is sent: others would find out by loading it.
    check_files(folder)
    switch = switched_off(False, hub=True)
    if switch is not None:
        raise Offline(f"{folder} cannot be sent to {place}: the network is switched off by {switch}.\nNext: unset it.")
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


def _checked(repo: str, revision: str | None) -> HubPlace:
    if not _REPOSITORY.fullmatch(repo):
        raise OptionError(
            f"{repo!r} is not a valid repository name of the hub.\n"
            "Next: give OWNER/NAME, or hf://OWNER/NAME[@REVISION] to load."
        )
    return HubPlace(repo, revision)


def _snapshot(place: HubPlace) -> Path:
    """The folder in the hub's cache that a place is fetched to, checked."""
    from huggingface_hub import snapshot_download

    switch = switched_off(False, hub=True)
    with _clear_errors(place, "fetched from", switch=switch):
        folder = Path(
            snapshot_download(
                place.repo,
                revision=place.revision,
                allow_patterns=list(FILES),
                local_files_only=switch is not None,
                library_name="zoo",
            )
        )
    if not (folder / CONFIG).is_file():
        raise ArtefactError(f"{place} holds no artefact of zoo: it has no {CONFIG}.\nNext: look at its files there.")
    check_files(folder)
    return folder


@contextlib.contextmanager
def _clear_errors(place: HubPlace, action: str, *, switch: str | None = None) -> Iterator[None]:
    """Turn the errors of the hub and its library into messages for people.

    `action`: "sent to" or "fetched from"; `switch`: what keeps zoo from using the network, if anything does.
    """
    from huggingface_hub import errors

    try:
        yield
    # Special errors first: GatedRepoError is a RepositoryNotFoundError, which is an HfHubHTTPError.
    except errors.GatedRepoError:
        raise Refused(
            f"{place} requires its licence to be accepted first.\nNext: open it in a browser, then hf auth login."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ArtefactError(
            f"{place} does not exist, or you lack permission to see it.\n"
            "Next: check the name; a private repository needs hf auth login or HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise ArtefactError(f"{place.repo} has no revision {place.revision!r}.\nNext: leave it out for main.") from None
    except errors.LocalTokenNotFoundError:
        raise Refused(_no_permission(place, action)) from None
    except errors.LocalEntryNotFoundError as error:
        if switch is not None:
            raise Offline(
                f"{place} is not in the hub's cache on this machine, and the network is switched off by {switch}.\n"
                f"Next: unset {switch}, or on a connected machine: zoo pull {place.repo} --out FOLDER"
            ) from None
        raise ArtefactError(_failed(place, action, error)) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise Refused(_no_permission(place, action)) from None
        raise ArtefactError(_failed(place, action, error)) from None
    except Exception as error:  # No connection, a full disk, a file that was refused: each library has its own.
        raise ArtefactError(_failed(place, action, error)) from None


def _no_permission(place: HubPlace, action: str) -> str:
    return (
        f"Nothing can be {action} {place}: you are not logged in to the hub, or lack permission.\n"
        "Next: hf auth login, or set HF_TOKEN to a token with that permission."
    )


def _failed(place: HubPlace, action: str, error: Exception) -> str:
    # The library's message says which file it was; only its cause says why.
    why = f"{first_line(error)} ({first_line(error.__cause__)})" if error.__cause__ else first_line(error)
    return f"Nothing could be {action} {place}: {why}\nNext: check the connection, and try again."
