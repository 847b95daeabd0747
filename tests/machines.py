"""Two machines on one: network namespaces that see each other over a cable of their own, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


class Machines:
    """Two of them, at 10.77.0.1 and 10.77.0.2. What they need are Linux and the right to make namespaces."""

    def __init__(self) -> None:
        if any(shutil.which(tool) is None for tool in ("unshare", "nsenter", "ip")):
            pytest.skip("two machines are made with unshare, nsenter and ip")
        # Without root's rights, those of a user namespace do.
        self._user = [] if os.geteuid() == 0 else ["--user"]
        rights = [*self._user, *(["--map-root-user"] if self._user else [])]
        self._holders: list[subprocess.Popen[str]] = []
        try:
            self._hold(["unshare", *rights, "--net"])
            # The second is made inside the first: the cable is never seen by the machine that this runs on.
            self._hold([*self._inside(0), "unshare", "--net"])
            self._do(0, f"ip link add cable type veth peer name cable netns {self._holders[1].pid}")
            for each in range(2):
                self._do(each, "ip link set lo up")
                self._do(each, f"ip addr add {self.address(each)}/24 dev cable")
                self._do(each, "ip link set cable up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            pytest.skip(f"no network namespaces can be made here: {error}")

    def address(self, machine: int) -> str:
        return f"10.77.0.{machine + 1}"

    def start(self, machine: int, program: Sequence[str], said: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a machine's part of a job, a Python program with its arguments; what it says goes into a file."""
        # A machine is host where its name leads to the address; these have no name.
        place = [f"--rdzv-endpoint={self.address(0)}:29400", f"--rdzv-conf=is_host={1 - machine}"]
        launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", *place]
        with said.open("wb") as file:
            return subprocess.Popen(
                [*self._inside(machine), sys.executable, *launcher, f"--local-addr={self.address(machine)}", *program],
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable", **variables},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def cut(self) -> None:
        """Pull the cable out: neither hears of the other any more, and no connection is closed."""
        self._do(1, "ip link set cable down")

    def close(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.communicate()

    def _hold(self, command: Sequence[str]) -> None:
        holder = subprocess.Popen(
            [*command, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        if said := holder.stdout.readline().strip():
            raise OSError(said)

    def _inside(self, machine: int) -> list[str]:
        keep = [*self._user, "--preserve-credentials"] if self._user else []
        return ["nsenter", "--target", str(self._holders[machine].pid), *keep, "--net"]

    def _do(self, machine: int, command: str) -> None:
        subprocess.run([*self._inside(machine), *command.split()], check=True, capture_output=True)
