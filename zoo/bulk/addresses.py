"""Paths and addresses (`s3://`, `gs://`) in the file systems of pyarrow, with credentials from the environment."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from zoo.errors import DataError, OptionError, Refused, first_line, meant
from zoo.storage.passing_faults import ANSWER_SECONDS

SCHEMES = ("s3", "gs", "file")
"""What an address may begin with."""
# One slash is enough: `pathlib.Path("s3://bucket")` is `s3:/bucket`.
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/{1,2}(?=[^/])|^(file):/{1,3}")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # that of the service comes first, as in AWS's own tools


@dataclass(frozen=True, slots=True)
class Address:
    """A file or a folder on this machine, or in a bucket."""

    scheme: str
    """`file`, `s3` or `gs`."""
    path: str
    """A path of this machine, or `bucket/key`."""

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return self.scheme == "file"

    def named(self, path: str) -> str:
        """The name of a file system's path, as people write it."""
        return path if self.is_local else f"{self.scheme}://{path}"

    def __str__(self) -> str:
        return self.named(self.path)


def address_of(text: str | os.PathLike[str]) -> Address:
    """The address that a text means. A `Path` of an address, in which `//` became `/`, means it as well.

    Raises OptionError for a scheme that cannot be read, or a bucket without a name.
    """
    given = os.fspath(text)
    found = _ADDRESS.match(given)
    if found is None:
        if re.match(r"^(s3|gs|gcs):/*$", given):
            raise OptionError(f"{given!r} names no bucket.\nNext: s3://BUCKET/FOLDER.")
        try:
            return Address("file", str(Path(given).expanduser()))
        except RuntimeError:  # `~name` of nobody: a file of that name
            return Address("file", given)
    scheme, rest = (found[1] or found[2]).lower(), given[found.end() :]
    if scheme == "file":
        return Address("file", "/" + rest.lstrip("/"))
    if scheme == "gcs":
        scheme = "gs"
    if scheme not in SCHEMES:
        # `notes:/photo.jpg` may be a path of this machine.
        if Path(given).exists():
            return Address("file", given)
        hint = meant(f"{scheme}://{rest}", [f"{each}://{rest}" for each in ("s3", "gs")], count=1)
        raise OptionError(
            f"{given!r}: zoo reads paths of this machine, s3:// and gs://.{hint}\n"
            "Next: give a path, s3://BUCKET/... or gs://BUCKET/..."
        )
    return Address(scheme, rest.rstrip("/"))


def listed_address(name: str) -> Address:
    """The address of a file that was listed, whose name is taken as it is: `~1.jpg` is a file of that name."""
    scheme, found, rest = name.partition("://")
    # Not by `address_of`, which expands `~` and takes other schemes for mistakes.
    return Address(scheme, rest) if found and scheme in SCHEMES else Address("file", name)


def file_system(scheme: str) -> Any:
    """The file system of pyarrow for a scheme. Raises Refused where pyarrow is missing or lacks it."""
    # pyarrow reads credentials and region where every tool of AWS does, but not the endpoint.
    return _opened(scheme, next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None))


@cache  # a connection for all files; another endpoint in the environment makes another one
def _opened(scheme: str, endpoint: str | None) -> Any:
    try:
        from pyarrow import fs
    except ImportError:
        raise Refused(
            "Parquet parts and addresses need the package pyarrow, which is not installed here.\n"
            "Next: pip install 'zoo-registry[ray]'"
        ) from None
    if scheme == "file":
        return fs.LocalFileSystem()
    try:
        if scheme == "gs":
            return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=ANSWER_SECONDS))  # else a quarter of an hour
        return fs.S3FileSystem(endpoint_override=endpoint) if endpoint else fs.S3FileSystem()
    except Exception as error:
        raise Refused(
            f"{scheme}:// cannot be reached from here: {first_line(error)}\n"
            "Next: check the network and your credentials."
        ) from error


def read_bytes(address: Address) -> bytes:
    """The bytes of a file. Raises OSError, FileNotFoundError among others."""
    if address.is_local:
        return Path(address.path).read_bytes()
    from pyarrow import ArrowException, ArrowInvalid

    try:
        with file_system(address.scheme).open_input_stream(address.path) as stream:
            content: bytes = stream.read()
    except ArrowException as error:  # such as of a quota that is used up, or of a key that no file system takes
        number = errno.EINVAL if isinstance(error, ArrowInvalid) else 0
        raise OSError(number, first_line(error)) from error
    return content


def unreachable(address: Address, error: Exception) -> DataError:
    """The error for an address that cannot be listed or read."""
    return DataError(
        f"{address} cannot be read: {first_line(error)}\n"
        "Next: compare the bucket's name, the credentials (AWS_ACCESS_KEY_ID or a profile), AWS_DEFAULT_REGION, and "
        "AWS_ENDPOINT_URL where the store is not that of AWS."
    )
