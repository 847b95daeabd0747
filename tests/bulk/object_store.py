"""An object store of this machine alone, which speaks as S3 does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ObjectStore:
    """A server with an empty bucket `bucket`."""

    variables: dict[str, str]
    """What the environment of a client says."""
    system: Any
    """A client of pyarrow."""

    def put(self, folder: Path, prefix: str) -> list[str]:
        """Put a folder's files below a prefix -> their addresses, sorted."""
        names = []
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            key = f"bucket/{prefix}/{path.relative_to(folder).as_posix()}"
            with self.system.open_output_stream(key) as stream:
                stream.write(path.read_bytes())
            names.append(f"s3://{key}")
        return names


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Start the server on a free port of the loopback address, and end it."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        system = fs.S3FileSystem(
            access_key="testing",
            secret_key="testing",
            region="us-east-1",
            endpoint_override=variables["AWS_ENDPOINT_URL"],
            allow_bucket_creation=True,
        )
        system.create_dir("bucket")
        yield ObjectStore(variables, system)
    finally:
        server.stop()
