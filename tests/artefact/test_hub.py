"""Classifiers sent to the Hugging Face hub and fetched from it, against a server on this machine that plays it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from tests.hub_host import TOKEN, HubHost, hub_host
from zoo.errors import ArtefactError, Offline, OptionError, Refused

REPO = "someone/shapes"
# The hub's library sends files in a way that its HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "run"
    tiny = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 1}
    return zoo.finetune(data=shapes, out=out, tune=False, report=False, **tiny).path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubHost]:
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    with hub_host() as host:
        monkeypatch.setattr(constants, "ENDPOINT", host.url)
        monkeypatch.setattr(hf_api.api, "endpoint", host.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", host.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        # Files go the hub's older way, by HTTP alone; its newer one speaks to servers that cannot be played here.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield host


def test_a_classifier_is_sent_and_used_from_there_with_the_same_bytes(
    hub: HubHost, run: Path, shapes: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    (run / "model" / "notes.txt").write_text("private")
    sent = zoo_inside("push", run, REPO)
    assert sent.returncode == 0, sent.stderr
    assert f"{hub.url}/{REPO}" in sent.stdout and f"hf://{REPO}" in sent.stdout
    held = hub.repos[REPO]["main"]
    assert sorted(held) == ["README.md", "config.json", "golden.safetensors", "model.safetensors"]
    for name, content in held.items():
        assert content == (run / "model" / name).read_bytes()

    picture = next((shapes / "val").rglob("*.jpg"))
    here, there = zoo.load(run), zoo.load(f"hf://{REPO}")
    assert here.predict([picture]) == there.predict([picture])
    for words in (("predict", f"hf://{REPO}", picture), ("verify", f"hf://{REPO}@main")):
        assert zoo_inside(*words).returncode == 0

    fetched = zoo_inside("pull", REPO, "--out", "here")
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == held["model.safetensors"]
    again = zoo_inside("pull", REPO, "--out", "here")
    assert again.returncode == Refused.exit_code and "exists" in again.stderr


def test_a_branch_is_a_place_of_its_own_and_a_private_repository_is(hub: HubHost, run: Path) -> None:
    zoo.push(run, REPO, private=True, revision="better")
    assert hub.private == {REPO} and hub.repos[REPO]["main"] == {}
    assert set(hub.repos[REPO]["better"]) > {"config.json"}
    assert zoo.load(f"hf://{REPO}@better").classes == zoo.load(run).classes
    with pytest.raises(ArtefactError, match=r"has no revision 'worse'"):
        zoo.load(f"hf://{REPO}@worse")
    with pytest.raises(ArtefactError, match=r"holds no artefact of zoo: it has no config\.json"):
        zoo.load(f"hf://{REPO}")


def test_what_was_changed_on_the_hub_is_not_loaded(hub: HubHost, run: Path, tmp_path: Path) -> None:
    zoo.push(run, REPO)
    weights = bytearray(hub.repos[REPO]["main"]["model.safetensors"])
    weights[-1] ^= 1
    hub.repos[REPO]["main"]["model.safetensors"] = bytes(weights)
    with pytest.raises(ArtefactError, match="damaged or was replaced"):
        zoo.load(f"hf://{REPO}")
    with pytest.raises(ArtefactError, match="damaged or was replaced"):
        zoo.pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_artefact_is_not_sent(hub: HubHost, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError):
        zoo.push(tmp_path, REPO)
    assert hub.repos == {}
    with pytest.raises(ArtefactError, match="you lack permission to see it"):
        zoo.pull("someone/nothing", tmp_path / "out")


@pytest.mark.parametrize("name", ["shapes", "someone/shapes/more", "hf://", "a b/c"])
def test_what_names_no_repository_is_refused(run: Path, name: str) -> None:
    with pytest.raises(OptionError, match="is not a valid repository name"):
        zoo.push(run, name)


def test_two_revisions_are_refused_and_one_may_be_given_twice(hub: HubHost, run: Path, tmp_path: Path) -> None:
    zoo.push(run, REPO, revision="v2")
    zoo.pull(f"hf://{REPO}@v2", tmp_path / "out", revision="v2")
    assert (tmp_path / "out" / "config.json").is_file()
    # Not one of them without a word: it would be another classifier than the other one says.
    with pytest.raises(OptionError, match=r"'v1'.*'v2'(.|\n)*\nNext: leave one of the two out"):
        zoo.pull(f"hf://{REPO}@v1", tmp_path / "other", revision="v2")
    assert not (tmp_path / "other").exists()


def test_an_address_on_the_hub_is_not_sent_and_what_to_do_is_said(zoo_inside: Zoo) -> None:
    sent = zoo_inside("push", f"hf://{REPO}", "you/copy")
    assert sent.returncode == 2 and "\nNext: zoo pull someone/shapes --out FOLDER" in sent.stderr
    # What push says that it takes, it takes.
    assert "hf://" not in zoo_inside("push", "--help").stdout


def test_without_a_token_or_the_right_nothing_is_sent(
    hub: HubHost, run: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_ours = zoo_inside("push", run, "others/shapes")
    assert not_ours.returncode == Refused.exit_code and "or lack permission" in not_ours.stderr
    monkeypatch.delenv("HF_TOKEN")
    done = zoo_inside("push", run, REPO)
    assert done.returncode == Refused.exit_code and "hf auth login" in done.stderr, done.stderr
    assert hub.repos == {}


def test_offline_the_hubs_cache_is_all_there_is(
    hub: HubHost, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.push(run, REPO)
    zoo.load(f"hf://{REPO}")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    asked = len(hub.seen)
    assert zoo.load(f"hf://{REPO}").classes == zoo.load(run).classes
    with pytest.raises(Offline, match="is not in the hub's cache"):
        zoo.load("hf://someone/other")
    with pytest.raises(Offline, match="cannot be sent"):
        zoo.push(run, REPO)
    assert len(hub.seen) == asked


def test_a_hub_that_cannot_be_reached_is_said(run: Path, hub: HubHost, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_api

    monkeypatch.setattr(hf_api.api, "endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ArtefactError, match="Nothing could be fetched from hf://someone/new"):
        zoo.load("hf://someone/new")
    with pytest.raises(ArtefactError, match="Nothing could be sent to hf://someone/new"):
        zoo.push(run, "someone/new")


def test_the_card_is_what_the_hub_reads(run: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(run / "model" / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert json.loads((run / "model" / "config.json").read_text("utf-8"))["format"]
