"""A real Ray: started here and ended, joined as a cluster, and what is said where none answers or it is another one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zoo
from zoo.cluster.connect import Cluster
from zoo.cluster.place import parse_place
from zoo.cluster.probe import refuse_without_answer
from zoo.errors import ClusterError


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own: a process takes part in one Ray."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**os.environ, **variables},
        check=False,
    )


CONNECT = """
import sys
from zoo.cluster.connect import connected
from zoo.cluster.place import parse_place
from zoo.errors import ZooError
try:
    with connected(parse_place(sys.argv[1]), lambda note: print(note.text), cores=2) as cluster:
        import os, signal
        pid = cluster.ray.get(cluster.ray.remote(lambda: __import__("os").getpid()).remote())
        assert pid != os.getpid()
        origin = cluster.ray.get(cluster.ray.remote(lambda: __import__("zoo").__file__).remote())
        import zoo; assert origin == zoo.__file__, origin
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Ray takes SIGTERM"
        exec(sys.argv[2] if len(sys.argv) > 2 else "")
except ZooError as error:
    print(error.__cause__, file=sys.stderr)
    print(type(error).__name__, error)
"""


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    for each in (address, f"ray://{address}"):
        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"No Ray answers at .*: nothing takes connections there") as told:
            refuse_without_answer(parse_place(each))
        assert time.monotonic() - began < 5 and each in str(told.value) and "Next: " in str(told.value)


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for each in kept:
            each.close()


@pytest.mark.long
def test_what_is_no_ray_is_told_within_ten_seconds(mute: str) -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match="something takes connections there, but it does not answer as a Ray does"):
        refuse_without_answer(parse_place(f"ray://{mute}"))
    assert time.monotonic() - began < 15, "ten, and what a busy machine takes to start a process"


@pytest.mark.long
def test_a_ray_of_this_machine_listens_here_alone_and_leaves_nothing(tmp_path: Path, short_folder: Path) -> None:
    listening = (
        "import subprocess, psutil, json\n"
        "me = psutil.Process()\n"
        "mine = [me, *me.children(recursive=True)]\n"
        "all = [each for one in mine for each in one.net_connections('tcp')]\n"
        "ips = sorted({each.laddr.ip for each in all if each.status == 'LISTEN'})\n"
        "print(json.dumps({'ips': ips, 'pids': [one.pid for one in mine[1:]]}))"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = run(CONNECT, "ray", listening, TMPDIR=str(short_folder), HOME=str(home), RAY_ADDRESS="10.255.255.1:1")
    assert done.returncode == 0 and not done.stderr, done.stderr
    note, said = done.stdout.splitlines()
    assert note == "Ray on this machine: 2 cores"
    seen = json.loads(said)
    assert seen["ips"] and {ip.removeprefix("::ffff:") for ip in seen["ips"]} == {"127.0.0.1"}
    time.sleep(1.0)
    assert not [pid for pid in seen["pids"] if Path(f"/proc/{pid}").exists()]
    assert not list(short_folder.iterdir()) and not list(home.rglob("*token*"))


@dataclass(frozen=True)
class Head:
    """A cluster of one machine, on the loopback address."""

    address: str
    client: str
    variables: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, client = free_port(), free_port()
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
    here = Path("/tmp") / f"zoo-test-ray-{os.getpid()}"
    command = ["start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"]
    command += ["--ray-client-server-port", str(client), "--include-dashboard=false", "--temp-dir", str(here)]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--object-store-memory", str(2**28)]
    program = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", program, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
    try:
        address = Head(f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}", variables)
        for _ in range(60):
            if run(f"import socket; socket.create_connection(('127.0.0.1', {client}), 1)").returncode == 0:
                break
            time.sleep(0.5)
        yield address
    finally:
        started.terminate()
        started.wait(30)
        shutil.rmtree(here, ignore_errors=True)


@pytest.mark.long
def test_a_cluster_is_joined_by_either_address_and_only_with_its_token(head: Head) -> None:
    for address in (head.address, head.client):
        done = run(CONNECT, address, **head.variables)
        assert done.stdout == "Ray on 1 machine: 2 cores\n", done.stdout + done.stderr
    nobodys = run(CONNECT, head.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert "ClusterError" in nobodys.stdout and "lets in only who has its token" in nobodys.stdout


@pytest.mark.long
def test_a_machine_with_another_zoo_is_refused_before_any_work(head: Head, tmp_path: Path) -> None:
    """Same version, one comment more, seen by this process and not by the cluster."""
    shutil.copytree(Path(zoo.__file__).parent, tmp_path / "zoo")
    with (tmp_path / "zoo" / "text.py").open("a") as file:
        file.write("# changed\n")
    path = os.pathsep.join([str(tmp_path), head.variables["PYTHONPATH"]])
    done = run(CONNECT, head.client, **{**head.variables, "PYTHONPATH": path})
    assert "Refused Machine" in done.stdout and "has another zoo's code (of the same version)" in done.stdout


@pytest.mark.long
def test_another_ray_there_is_named(head: Head) -> None:
    """The cluster says of itself that it is another version, and Ray believes it."""
    lie = (
        "import json\n"
        "from ray.experimental.internal_kv import _internal_kv_get as get, _internal_kv_put as put\n"
        "held = json.loads(get(b'CLUSTER_METADATA', namespace=b'cluster'))\n"
        "new = dict(held, **json.loads('{}'))\n"
        "put(b'CLUSTER_METADATA', json.dumps(new).encode(), overwrite=True, namespace=b'cluster')\n"
        "print(held['ray_version'], held['python_version'])"
    )
    told = run(CONNECT, head.address, lie.replace("{}", '{"ray_version": "2.7.0"}'), **head.variables)
    own_ray, own_python = told.stdout.split()[-2:]
    refused = run(CONNECT, head.address, **head.variables)
    assert f"Refused The Ray at {head.address} is version 2.7.0" in refused.stdout and own_ray in refused.stdout
    assert f"pip install 'ray[client,data]==2.7.0' here, or 'ray[client,data]=={own_ray}'" in refused.stdout
    assert own_python in refused.stdout


def test_no_worker_asks_for_more_than_one_machine_has() -> None:
    """Ray holds what asks for more for ever."""
    alike = Cluster(pytest, 32, 0, 4, False, of_machines=((8, 0),) * 4)
    assert [alike.cores_for(count, on_gpu=False) for count in (1, 2, 4, 8, 64)] == [8, 8, 8, 4, 1]
    mixed = Cluster(pytest, 72, 4, 3, False, of_machines=((8, 4), (32, 0), (32, 0)))
    assert mixed.cores_for(4, on_gpu=True) == 2
    assert Cluster(pytest, 6, 0, 1, True).cores_for(2, on_gpu=False) == 3
