"""Readers that nothing brings down; the whole of it by `python -m tests.fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import fuzz


@pytest.mark.long
def test_ten_thousand_mutated_files_are_read_rightly_or_refused() -> None:
    assert fuzz.fuzz(10_000) == []


@pytest.mark.long
def test_it_sees_a_wrong_model_a_crash_a_hang_and_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spawned workers import `tests.fuzz` anew, so each injects the fault that an environment variable names."""
    monkeypatch.setattr(fuzz, "SECONDS", 5.0)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    originals = fuzz.Originals.make(tmp_path)
    for fault, verdict in (("seal", "WRONG"), ("crash", "CRASH"), ("hang", "HANG"), ("error", "ERROR")):
        monkeypatch.setenv("ZOO_FUZZ_FAULT", fault)
        bad = fuzz.carry_out(originals, 40 if fault == "seal" else 1, seed=3, only="artefact")
        assert verdict in {outcome.verdict for outcome in bad}, fault
