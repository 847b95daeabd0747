"""`--on`: what it takes, and what is said of everything else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from zoo.cluster.place import Place, parse_place
from zoo.errors import OptionError, meant


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("local", Place("local")),
        ("ray", Place("ray")),
        ("auto", Place("cluster", "auto")),
        ("10.0.0.5:6379", Place("cluster", "10.0.0.5:6379")),
        ("ray://head.example:10001", Place("cluster", "ray://head.example:10001")),
        ("ray://[::1]:10001", Place("cluster", "ray://[::1]:10001")),
    ],
)
def test_words_and_addresses_are_places(text: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert parse_place(text) == place


def test_auto_is_the_cluster_that_ray_itself_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.5:10001")
    assert parse_place("auto") == Place("cluster", "ray://10.0.0.5:10001")
    assert parse_place("auto").host_and_port == ("10.0.0.5", 10001)
    assert parse_place("ray") == Place("ray"), "a Ray of this machine is one even where a cluster is named"


@pytest.mark.parametrize(("text", "nearest"), [("rya", "ray"), ("Ray", "ray"), ("locl", "local"), ("autoo", "auto")])
def test_a_word_that_is_no_place_gets_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(OptionError, match=f"Did you mean '{nearest}'") as refused:
        parse_place(text)
    assert meant(text, ("local", "ray", "auto")) in str(refused.value)
    parse_place(nearest)


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("ray://10.0.0.5", "ray://10.0.0.5:10001"),
        ("ray://10.0.0.5:0", "ray://10.0.0.5:10001"),
        ("10.0.0.5:99999", "10.0.0.5:6379"),
        ("10.0.0.5:", "10.0.0.5:6379"),
    ],
)
def test_an_address_without_a_port_is_answered_with_one(text: str, suggested: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_place(text)
    assert suggested in str(refused.value)
    parse_place(suggested)


def test_without_the_package_ray_the_message_says_what_to_install() -> None:
    """In a process that finds no ray: as installed without the extra."""
    program = (
        "import sys, importlib.abc\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'ray' else found(name, *a)\n"
        "from zoo.cluster.place import parse_place\n"
        "from zoo.errors import Refused\n"
        "assert parse_place('local').kind == 'local'\n"
        "try: parse_place('ray')\n"
        "except Refused as refused: print(refused)\n"
        "assert not {'ray', 'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--on ray needs the package ray" in done.stdout
    assert "pip install 'zoo-registry[ray]', or --on local" in done.stdout
