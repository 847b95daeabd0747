from __future__ import annotations

import pytest
from tests.conftest import Zoo

LAUNCHED = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_command_whose_work_is_not_shared_is_refused_and_runs_without_the_launcher(
    zoo_inside: Zoo, launched: pytest.MonkeyPatch
) -> None:
    refused = zoo_inside("list", "recipes")
    assert refused.returncode == 2 and refused.stdout == ""
    said = " ".join(refused.stderr.split())
    assert "2 processes were started for zoo list recipes, and each would do all of its work" in said
    assert "Next: zoo list recipes, without the launcher." in said
    for name in LAUNCHED:
        launched.delenv(name)
    assert zoo_inside("list", "recipes").returncode == 0


def test_accelerate_that_started_one_process_for_several_is_refused(
    zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    refused = zoo_inside("finetune", "--backbone", "timm/test_vit")
    assert refused.returncode == 2 and "started this one alone" in " ".join(refused.stderr.split())
