"""`zoo verify` repeats the first steps of a run, and finds changes in an artefact from the artefact alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.conftest import Zoo
from tests.numeric import draw_few
from zoo.artefact.config import sealed
from zoo.artefact.golden import compare_tensors
from zoo.errors import ArtefactError, RunError
from zoo.storage.tensors import file_digest

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "epochs": 2, "tune": False}

ARTEFACT_PASSED = dict.fromkeys(("saved_file", "class_names", "golden_preprocessing", "golden_logits"), "passed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    data = draw_few(folder / "data")
    return zoo.finetune(
        **USUAL, data=data, recipe="staged", batch_size=2, set=["head.solver=gradient"], out=folder / "run"
    ).path


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def verdicts(run: Path) -> dict[str, str]:
    return {check.name: check.verdict for check in zoo.verify(run).checks}


def test_a_run_verifies_and_nothing_is_written(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))}
    found = zoo.verify(run)
    assert found.passed and {check.verdict for check in found.checks} == {"passed"}
    assert "the first 3 steps give the same losses and weights, bit for bit" in [each.summary for each in found.checks]
    assert {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))} == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"head": "prototype", "epochs": None},
        {"recipe": "lp_ft"},
        {"recipe": "head_only", "set": ["head.lr=auto"]},
        {"recipe": "full", "epochs": 1, "set": ["all.augment=rand", "all.mixup=0.2"]},
    ],
)
@pytest.mark.long
def test_other_kinds_of_first_stages_verify(arguments: dict[str, Any], few: Path, tmp_path: Path) -> None:
    run = zoo.finetune(**{**USUAL, **arguments}, data=few, out=tmp_path / "run").path
    assert verdicts(run) == {
        "plan": "passed",
        "first_steps": "passed",
        **ARTEFACT_PASSED,
        "plan_classes": "passed",
        "own_file": "passed",
        "own_predictions": "passed",
        "own_numbers": "passed",
    }


def test_a_tampered_plan_gives_other_steps(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    (run / "plan.json").write_text(json.dumps({**plan, "seed": plan["seed"] + 1}), "utf-8")
    assert verdicts(run)["first_steps"] == "failed"


def test_other_versions_are_a_warning_and_then_close_losses_too(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    plan["versions"]["torch"] = "2.0.0"
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")
    proof = json.loads((run / "proof.json").read_text("utf-8"))
    for check in proof["checks"]:
        if check["name"] == "seeds":
            evidence = check["evidence"]
            evidence["first_losses"] = [(float.fromhex(each) * (1 + 1e-5)).hex() for each in evidence["first_losses"]]
    (run / "proof.json").write_text(json.dumps(proof), "utf-8")
    assert verdicts(run) == {
        "plan": "warning",
        "first_steps": "warning",
        **ARTEFACT_PASSED,
        "plan_classes": "passed",
        "own_file": "passed",
        "own_predictions": "passed",
        "own_numbers": "passed",
    }


def test_the_command_says_what_failed_and_exits_with_3(run: Path, zoo_inside: Zoo) -> None:
    (run / "model" / "model.safetensors").write_bytes(b"something else")
    done = zoo_inside("verify", run)
    assert done.returncode == 3 and "model.safetensors is damaged or was replaced" in done.stdout
    told = zoo_inside("verify", run, "--json")
    assert told.returncode == 3 and json.loads(told.stdout)["verdict"] == "failed"


def test_a_run_without_a_result_is_to_be_resumed_first(run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(RunError, match=r"is not finished: it has no result.json\.\s+Next: zoo finetune --resume"):
        zoo.verify(run)


def test_the_classifier_of_another_run_is_found(run: Path, tmp_path: Path) -> None:
    """It is whole in itself, and has the same classes."""
    data = draw_few(tmp_path / "data")
    other = zoo.finetune(**USUAL, data=data, recipe="head_only", seed=5, out=tmp_path / "other").path
    shutil.rmtree(run / "model")
    shutil.copytree(other / "model", run / "model")
    assert verdicts(run)["own_file"] == "failed" and verdicts(other)["own_file"] == "passed"


def test_a_damaged_file_is_not_called_the_runs_own(run: Path) -> None:
    path = run / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = {check.name: check for check in zoo.verify(run).checks}
    assert found["saved_file"].verdict == found["own_file"].verdict == "failed"
    assert "is another file than the one that the run proved" in found["own_file"].summary


def test_the_steps_of_a_message_are_read_as_words_in_the_table(tmp_path: Path, zoo_inside: Zoo) -> None:
    """A message has lines, and a cell of a table has none: no escape may stand for their ends."""
    data = draw_few(tmp_path / "data")
    pairs = [(str(file), file.parent.name) for file in sorted((data / "train").rglob("*.*"))]
    run = zoo.finetune(**USUAL, data=pairs, recipe="head_only", out=tmp_path / "run", report=False).path
    told = " ".join(zoo_inside("verify", run).stdout.split())
    assert "which no name finds again. Next: give the same object in Python" in told and "\\n" not in told


def test_predictions_that_somebody_changed_are_found(run: Path) -> None:
    table = run / "predictions.csv"
    table.write_text(table.read_text("utf-8").replace(",0.", ",0.9"), "utf-8")
    assert verdicts(run)["own_predictions"] == "failed"
    with pytest.raises(RunError, match=r"predictions\.csv was changed after the run wrote it") as refused:
        zoo.report(run)
    assert f"Next: zoo verify {run} tells what else has changed." in str(refused.value)
    # An older zoo recorded no digest.
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    del evaluation["predictions_digest"]
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    assert "own_predictions" not in verdicts(run)


def test_scores_that_do_not_follow_from_the_predictions_are_found(run: Path) -> None:
    """Whoever passes a run on could write any number into it."""
    result, evaluation = (json.loads((run / name).read_text("utf-8")) for name in ("result.json", "evaluation.json"))
    true = result["metrics"]["val"]["accuracy"]
    better = json.loads(json.dumps(result))
    better["metrics"]["val"] |= {"accuracy": true + 0.125, "macro_f1": 0.999, "loss": 0.01}
    (run / "result.json").write_text(json.dumps(better), "utf-8")
    (found,) = [each for each in zoo.verify(run).checks if each.name == "own_numbers"]
    told = f"result.json says accuracy {true + 0.125:.4f} on val, and predictions.csv gives {true:.4f}; "
    assert found.verdict == "failed" and told in found.summary
    assert "macro_f1 0.9990" in found.summary and "loss 0.0100" in found.summary
    assert "result.json and model/config.json differ in accuracy on val" in found.summary
    (run / "result.json").write_text(json.dumps(result), "utf-8")
    assert verdicts(run)["own_numbers"] == "passed"
    # The same in the other file, and in the counts that its shares are made of.
    matrix = evaluation["val"]["confusion"]
    matrix[0][0], matrix[0][1] = matrix[0][0] - 1, matrix[0][1] + 1
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    (found,) = [each for each in zoo.verify(run).checks if each.name == "own_numbers"]
    assert found.verdict == "failed"
    (run / "predictions.csv").unlink()
    (unknown,) = [each for each in zoo.verify(run).checks if each.name == "own_numbers"]
    assert unknown.verdict == "warning" and "there is no predictions.csv with which" in unknown.summary
    assert "the confusion matrix of val in evaluation.json is not that of predictions.csv" in found.summary


@pytest.mark.parametrize(
    "checks",
    ["text", ["text"], [{"name": "seeds"}], [{"name": "seeds", "verdict": "passed", "summary": "", "evidence": "e"}]],
)
def test_a_proof_of_another_structure_is_told_of(checks: object, run: Path) -> None:
    (run / "proof.json").write_text(json.dumps({"checks": checks}), "utf-8")
    for call in (zoo.verify, zoo.report):
        with pytest.raises(RunError, match=r"proof\.json cannot be read: its checks are not as a run writes them"):
            call(run)


@pytest.mark.parametrize("evidence", [None, {}, {"first_losses": ["0x1p-1", 3]}])
def test_first_steps_that_are_gone_or_no_numbers_are_a_fault(evidence: dict[str, Any] | None, run: Path) -> None:
    proof = json.loads((run / "proof.json").read_text("utf-8"))
    for check in proof["checks"]:
        if check["name"] == "seeds":
            check["evidence"] = evidence or {}
    if evidence is None:
        proof["checks"] = [check for check in proof["checks"] if check["name"] != "seeds"]
    (run / "proof.json").write_text(json.dumps(proof), "utf-8")
    assert verdicts(run)["first_steps"] == "failed"


def test_a_finished_run_without_its_proof_is_not_to_be_resumed(run: Path) -> None:
    (run / "proof.json").unlink()
    with pytest.raises(RunError, match=r"is finished, but its proof.json is gone") as refused:
        zoo.verify(run)
    assert f"Next: zoo verify {run / 'model'} checks" in str(refused.value) and zoo.verify(run / "model").passed


def test_changed_images_fail_the_plan(tmp_path: Path) -> None:
    data = draw_few(tmp_path / "data")
    run = zoo.finetune(**USUAL, data=data, recipe="head_only", out=tmp_path / "run").path
    shutil.copy(data / "train" / "a" / "0.jpg", data / "train" / "a" / "1.jpg")
    found = zoo.verify(run)
    assert not found.passed
    assert next(each for each in found.checks if each.name == "plan").summary.startswith("data.digest: ")


def edit(artefact: Path, **values: Any) -> None:
    path = artefact / "config.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text("utf-8")), **values})), "utf-8")


def edit_golden(artefact: Path, **tensors: torch.Tensor) -> None:
    """Other tensors in golden.safetensors, under the right digest."""
    path = artefact / "golden.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
    golden = json.loads((artefact / "config.json").read_text("utf-8"))["golden"]
    edit(artefact, golden={**golden, "digest": file_digest(path)})


def test_golden_pictures_are_in_the_artefact_and_small(run: Path) -> None:
    path = run / "model" / "golden.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == {"pictures", "images", "logits", "classes"}
    tensors = load_file(path)
    assert tensors["pictures"].dtype == torch.uint8 and tensors["pictures"].shape[:2] == (4, 3)
    assert tensors["images"].shape == (4, 3, 160, 160) and tensors["logits"].shape == (4, 2)
    assert path.stat().st_size < 5_000_000
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o644}
    assert json.loads((run / "model" / "config.json").read_text())["golden"]["digest"] == file_digest(path)
    assert torch.equal(zoo.load(run, device="cpu").logits(tensors["images"]), tensors["logits"])


def test_an_artefact_verifies_by_itself_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    artefact = Path(shutil.copytree(run / "model", tmp_path / "alone"))
    before = {path: path.stat().st_mtime_ns for path in sorted(artefact.rglob("*"))}
    assert verdicts(artefact) == ARTEFACT_PASSED
    assert {path: path.stat().st_mtime_ns for path in sorted(artefact.rglob("*"))} == before


def test_a_run_whose_data_are_gone_still_verifies_its_artefact(kept: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(kept, tmp_path / "run"))
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    plan["data"]["path"] = str(tmp_path / "gone")
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")
    found = zoo.verify(run)
    assert found.passed and {check.name: check.verdict for check in found.checks} == {
        "first_steps": "warning",
        **ARTEFACT_PASSED,
        "plan_classes": "passed",
        "own_file": "passed",
        "own_predictions": "passed",
        "own_numbers": "passed",
    }
    assert "could not be repeated: " in found.checks[0].summary and "gone" in found.checks[0].summary


def test_classes_in_another_order_are_a_fault(run: Path) -> None:
    edit(run / "model", classes=["b", "a"])
    assert verdicts(run)["class_names"] == verdicts(run)["plan_classes"] == "failed"
    assert verdicts(run / "model")["class_names"] == "failed"


def test_another_preprocessing_is_a_fault(run: Path) -> None:
    preprocessing = json.loads((run / "model" / "config.json").read_text("utf-8"))["preprocessing"]
    edit(run / "model", preprocessing={**preprocessing, "interpolation": "nearest"})
    assert verdicts(run / "model") == {**ARTEFACT_PASSED, "golden_preprocessing": "failed"}


def test_other_logits_are_a_warning_within_the_tolerance_and_else_a_fault(run: Path) -> None:
    artefact = run / "model"
    logits = load_file(artefact / "golden.safetensors")["logits"]
    scale = logits.abs().max()
    edit_golden(artefact, logits=logits + 5e-5 * scale)
    assert verdicts(artefact) == {**ARTEFACT_PASSED, "golden_logits": "warning"}
    edit_golden(artefact, logits=logits + 5e-4 * scale)
    assert verdicts(artefact) == {**ARTEFACT_PASSED, "golden_logits": "failed"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_never_close(value: float) -> None:
    assert compare_tensors(torch.ones(2, 3), torch.full((2, 3), value), 1e-4).match == "other"
    assert compare_tensors(torch.full((2, 3), value), torch.ones(2, 3), 1e-4).match == "other"


def test_an_artefact_from_before_golden_logits_says_that_it_has_none(run: Path) -> None:
    artefact = run / "model"
    (artefact / "golden.safetensors").unlink()
    edit(artefact, golden=None)
    found = {check.name: check for check in zoo.verify(artefact).checks}
    assert {name: check.verdict for name, check in found.items()} == {
        "saved_file": "passed",
        "golden_logits": "warning",
    }
    assert found["golden_logits"].summary.startswith("it has none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("golden.safetensors", "golden.safetensors is damaged or was replaced"),
        ("model.safetensors", "model.safetensors is damaged or was replaced"),
        ("config.json", "config.json cannot be read"),
    ],
)
def test_a_damaged_artefact_exits_with_3(run: Path, name: str, message: str, zoo_inside: Zoo) -> None:
    path = run / "model" / name
    path.write_bytes(path.read_bytes()[:-9])
    done = zoo_inside("verify", run / "model", "--json")
    assert done.returncode == 3
    assert message in json.loads(done.stdout)["checks"][0]["summary"]


def test_what_is_neither_run_nor_artefact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"(?s)There is no .*Next: give an artefact folder or a run folder"):
        zoo.verify(tmp_path / "nothing")


def test_a_missing_plugin_is_named_with_what_installs_it(run: Path) -> None:
    head = {"name": "example/scaled_linear", "options": {}, "distribution": "zoo-example", "version": "0.3.1"}
    edit(run / "model", head=head)
    (found,) = [check for check in zoo.verify(run / "model").checks if check.name == "golden_logits"]
    assert found.verdict == "failed" and "Next: pip install 'zoo-example==0.3.1'" in found.summary
    # From an address, and not from an index that may have another package of that name.
    address = "git+https://example.org/zoo-example@0123abc"
    edit(run / "model", head={**head, "installed_from": address})
    (found,) = [check for check in zoo.verify(run / "model").checks if check.name == "golden_logits"]
    assert f"Next: install it again from where it came from: {address}" in found.summary
    assert "pip install" not in found.summary


def test_another_version_of_a_plugin_is_said_and_the_golden_logits_decide(run: Path) -> None:
    artefact = run / "model"
    config = json.loads((artefact / "config.json").read_text("utf-8"))
    notes: list[Any] = []
    zoo.load(artefact, on_event=notes.append)
    assert notes == []
    for part in ("head", "backbone"):
        edit(artefact, **{part: {**config[part], "version": "0.0.1"}})
    zoo.load(artefact, on_event=notes.append)
    assert "was made with zoo-registry" in notes[0].text and "the same, bit for bit" in notes[0].text
    edit_golden(artefact, logits=load_file(artefact / "golden.safetensors")["logits"] + 1)
    with pytest.raises(ArtefactError, match=r"gives other logits (?s:.*)Next: pip install 'zoo-registry==0.0.1'"):
        zoo.load(artefact)
    (artefact / "golden.safetensors").unlink()
    edit(artefact, golden=None)
    zoo.load(artefact, on_event=notes.append)
    assert notes[-1].loud and "no golden logits" in notes[-1].text


def test_another_version_of_the_backbones_package_is_said_and_the_golden_logits_decide(run: Path) -> None:
    """The plugin of timm's backbones is zoo's own, and stays the same when timm is updated."""
    artefact = run / "model"
    config = json.loads((artefact / "config.json").read_text("utf-8"))
    (package,) = {config["backbone"]["name"].partition("/")[0]}
    edit(artefact, versions={**config["versions"], "torch": "0.0.1"})
    notes: list[Any] = []
    zoo.load(artefact, on_event=notes.append)
    assert notes == []
    edit(artefact, versions={**config["versions"], package: "0.0.1"})
    zoo.load(artefact, on_event=notes.append)
    assert f"was made with {package} 0.0.1 (here is {config['versions'][package]})" in notes[0].text
    assert "the same, bit for bit" in notes[0].text and not notes[0].loud
    edit_golden(artefact, logits=load_file(artefact / "golden.safetensors")["logits"] + 1)
    with pytest.raises(ArtefactError, match=rf"gives other logits (?s:.*)Next: pip install '{package}==0.0.1'$"):
        zoo.load(artefact)
    (found,) = [check for check in zoo.verify(artefact).checks if check.name == "golden_logits"]
    assert found.verdict == "failed" and f"It was made with {package} 0.0.1 (here is " in found.summary
    assert found.summary.endswith(f"\nNext: pip install '{package}==0.0.1'")


def test_data_that_changed_are_a_fault(kept: Path, tmp_path: Path) -> None:
    """Data that are gone are only a warning."""
    moved = Path(shutil.copytree(kept.parent / "data", tmp_path / "data"))
    run = zoo.finetune(**USUAL, data=moved, recipe="head_only", out=tmp_path / "run").path
    shutil.rmtree(next((moved / "train").iterdir()))
    assert verdicts(run)["first_steps"] == "failed" and not zoo.verify(run).passed
    shutil.rmtree(moved)
    assert verdicts(run)["first_steps"] == "warning" and zoo.verify(run).passed
