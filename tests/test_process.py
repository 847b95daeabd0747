"""The process of the `zoo` command, and how it uses memory: quick to end, and nothing lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import zoo.__main__
import zoo.cli.main
from zoo.process import keep_freed_memory

ENDS = """
import atexit, sys, threading, time
import zoo.cli.main as process

def main():
    atexit.register(print, "registered")
    threading.Thread(target=lambda: (time.sleep(0.2), print("from a thread"))).start()
    print("printed")
    {way}

process.main = main
process.run()
"""

PASSES = """
import resource, torch
from zoo.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print([faults() for _ in range(16)][-1])  # glibc takes a few of one size to join again what it cut off for alignment
"""

IN_A_THREAD = (
    PASSES.replace("keep_freed_memory()\n", "{}keep_freed_memory()\n")
    .replace("import resource, torch", "import resource, threading, torch\nfrom zoo.process import share_one_heap")
    .replace("print([", "threading.Thread(target=lambda: print([")
    .replace("[-1])", "[-1])).start()")
)

SERVES = (
    "import sys, threading"
    + PASSES.partition("keep_freed_memory()\n")[0]
    + """
from concurrent.futures import ThreadPoolExecutor
import zoo.cli.main as process

def main():
    keep_freed_memory()
    together, alone = threading.Barrier(4), threading.Lock()
    def passes(_):
        together.wait()  # so that there are as many threads, and none takes over what another one had
        with alone:
            return [faults() for _ in range(16)][-1]
    with ThreadPoolExecutor(4) as pool:
        print(max(pool.map(passes, range(4))))

process.main = main
sys.argv = ["zoo", "{}", "RUN"]
process.run()
"""
)


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | variables
    )


@pytest.mark.parametrize(
    ("way", "code"),
    [("pass", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('Error: a message')", 1), ("1 / 0", 1)],
)
def test_whatever_way_a_command_ends_its_output_and_its_exit_code_are_there(way: str, code: int) -> None:
    done = _python(ENDS.format(way=way))
    assert done.returncode == code
    assert done.stdout.splitlines() == ["printed", "from a thread", "registered"]
    assert ("a message" in done.stderr) == ("message" in way)
    assert ("ZeroDivisionError" in done.stderr) == ("/" in way)


def test_the_console_script_is_this_process() -> None:
    scripts = entry_points(group="console_scripts", name="zoo")
    # The second is what installations of before name.
    assert len(scripts) == 1 and {script.load() for script in scripts} <= {zoo.__main__.run, zoo.cli.main.run}


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_is_kept_for_the_next_pass_unless_somebody_set_how() -> None:
    assert int(_python(PASSES).stdout) == 0
    assert int(_python(PASSES, MALLOC_MMAP_THRESHOLD_="33554432").stdout) > 0
    assert int(_python(PASSES, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=33554432").stdout) > 0


@pytest.mark.long
def test_what_is_imported_is_not_looked_at_by_every_collection() -> None:
    code = (
        "import gc; from zoo.process import start_computing; start_computing('torch'); "
        "gc.collect(); print(len(gc.get_objects()) < gc.get_freeze_count() / 10 and gc.isenabled())"
    )
    assert _python(code).stdout == "True\n"


@pytest.mark.parametrize(
    ("most", "becomes"), [(32 << 20, {-3: 32 << 20, -1: 2**31 - 1}), (2**31, {-3: 1 << 30, -1: 2**31 - 1}), (0, {})]
)
def test_a_glibc_that_takes_no_large_threshold_is_not_left_with_a_small_one(
    most: int, becomes: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trim threshold is set, the one for maps stays what it is: set alone, every tensor would be mapped."""
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    set_there: dict[int, int] = {}

    class Library:
        """As glibc up to 2.34, which refuses thresholds of more than 32 MB."""

        def __init__(self, name: None) -> None:
            """Stand for the process itself."""

        def mallopt(self, parameter: int, value: int) -> int:
            taken = parameter != -3 or value <= most
            set_there.update({parameter: value} if taken else {})
            return int(taken)

    monkeypatch.setattr("ctypes.CDLL", Library)
    keep_freed_memory()
    assert set_there == becomes


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_a_thread_keeps_what_it_frees_only_where_all_share_one_heap() -> None:
    assert int(_python(IN_A_THREAD.format("share_one_heap(); ")).stdout) == 0
    assert int(_python(IN_A_THREAD.format("")).stdout) > 0
    assert int(_python(IN_A_THREAD.format("share_one_heap(); "), MALLOC_ARENA_MAX="4").stdout) > 0


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_all_threads_of_a_server_share_one_heap_and_so_does_the_one_that_hears_signals() -> None:
    assert int(_python(SERVES.format("serve")).stdout) == 0
    assert int(_python(SERVES.format("predict")).stdout) > 0


@pytest.mark.parametrize(
    ("theirs", "becomes"),
    [({}, "1000 None"), ({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE")],
)
def test_threads_that_wait_leave_the_processor_to_others_unless_told_otherwise(
    theirs: dict[str, str], becomes: str
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    rest = {name: value for name, value in os.environ.items() if name not in names}
    # The variables are read when torch is imported, so that they must be there before.
    program = (
        "import os, sys, zoo.process as process\n"
        "process.start_computing('zoo.text')\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**rest, **theirs}, capture_output=True, text=True)
    assert done.stdout.strip() == becomes, done.stderr
