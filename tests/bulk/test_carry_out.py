"""Very many files in one process: the rows of `zoo predict` and `zoo embed`, resumed, refused where they would mix."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zoo
from pyarrow import parquet
from zoo.errors import DataError, OptionError, Refused, RunError


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows, as any reader of a folder of Parquet files gives them."""
    rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return rows


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def done(artefact: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "parts"
    told: list[zoo.Event] = []
    made = zoo.predict_files(artefact, photos, out=out, part_size=32, verbose=False, on_event=told.append)
    assert any(f"1 file not used: {photos}/a/000.gif: not an image (.gif extension)" in str(each) for each in told)
    assert (made.images, made.unreadable, len(made.parts), made.computed) == (70, 2, 3, 3)
    return out


def test_what_a_pattern_takes_beside_its_folder_is_not_told_as_unused(
    artefact: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "shots").mkdir()
    for name in ("a.jpg", "b.gif"):
        shutil.copy(next(photos.rglob("*.jpg")), tmp_path / "shots" / name)
    told: list[zoo.Event] = []
    files = [tmp_path / "shots", tmp_path / "shots" / "*.gif"]
    made = zoo.predict_files(artefact, files, out=tmp_path / "out", verbose=False, on_event=told.append)
    assert made.images == 2 and not any("not used" in str(each) for each in told)


@pytest.fixture
def kept(done: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(done, tmp_path / "parts"))


def test_the_rows_are_those_of_predict_bit_for_bit(artefact: Path, photos: Path, done: Path) -> None:
    faults: dict[str, str] = {}
    files = sorted(photos.rglob("*.jpg"))
    classifier = zoo.load(artefact, verbose=False)
    expected = classifier.predict(files, top=3, on_error=lambda source, error: faults.update({source: str(error)}))
    rows = rows_of(done)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    good = [row for row in rows if row["error"] is None]
    assert [(row["file"], row["label"], row["probability"]) for row in good] == [
        (each.source, each.label, each.probability) for each in expected
    ]
    assert [[(top["label"], top["probability"]) for top in row["top"]] for row in good] == [
        list(each.top) for each in expected
    ]
    bad = {row["file"]: row["error"] for row in rows if row["error"] is not None}
    assert bad.keys() == faults.keys() and all(str(photos) not in text for text in bad.values())
    assert all(row["label"] is None and row["top"] is None for row in rows if row["error"] is not None)


def test_the_manifest_names_every_part_and_comes_last(done: Path) -> None:
    told = json.loads((done / "_predictions.json").read_text())
    assert (told["images"], told["unreadable"], told["devices"]) == (70, 2, {"cpu": 3})
    assert [part["images"] for part in told["parts"]] == [32, 32, 6]
    assert {part["file"] for part in told["parts"]} == {path.name for path in done.glob("part-*")}
    assert {path.name[0] for path in done.iterdir() if path.suffix != ".parquet"} == {"_"}


def test_the_same_call_again_computes_what_is_missing_with_the_same_bytes(
    artefact: Path, photos: Path, kept: Path
) -> None:
    before = bytes_of(kept)
    again = zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
    assert again.computed == 0 and bytes_of(kept) == before
    lost = sorted(kept.glob("part-*"))[1]
    lost.unlink()
    (kept / "_predictions.json").unlink()
    mended = zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
    assert mended.computed == 1
    assert (
        rows_of(kept)[32:64]
        and parquet.read_table(lost).to_pylist() == parquet.read_table(pa.BufferReader(before[lost.name])).to_pylist()
    )
    assert bytes_of(kept)["_predictions.json"] == before["_predictions.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"top": 1}, "holds parts of another job: top 2 there, 1 asked"),
        ({"views": "flip"}, "views None there, flip asked"),
        ({"part_size": 16}, "part_size 32 there, 16 asked"),
    ],
)
def test_parts_of_another_job_are_refused_before_anything_runs(
    change: dict[str, Any], told: str, artefact: Path, photos: Path, kept: Path
) -> None:
    before = bytes_of(kept)
    with pytest.raises(Refused, match=told):
        zoo.predict_files(artefact, photos, out=kept, **{"part_size": 32, **change}, verbose=False)
    assert bytes_of(kept) == before


def test_a_part_of_other_files_is_refused(artefact: Path, photos: Path, kept: Path, tmp_path: Path) -> None:
    fewer = Path(shutil.copytree(photos, tmp_path / "photos"))
    (fewer / "a" / "001.jpg").unlink()
    before = bytes_of(kept)
    with pytest.raises(Refused, match="is of other files than those that are listed now"):
        zoo.predict_files(artefact, fewer, out=kept, part_size=32, verbose=False)
    assert bytes_of(kept) == before


def test_a_part_with_other_content_is_refused(artefact: Path, photos: Path, kept: Path) -> None:
    first, second, _ = sorted(kept.glob("part-*"))
    (kept / "_predictions.json").unlink()
    whole = first.read_bytes()
    for content, told in (
        (second.read_bytes(), "has the name of a part of this job, and other content"),
        (whole[:-20], "is damaged"),
        (b"", "is damaged"),
    ):
        first.write_bytes(content)
        with pytest.raises(Refused, match=told):
            zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
    table = parquet.read_table(pa.BufferReader(whole))
    changed = table.set_column(1, "label", pa.array(["x"] * table.num_rows)).replace_schema_metadata(
        table.schema.metadata
    )
    parquet.write_table(changed, first)
    with pytest.raises(Refused, match="rows are not those that it was written with"):
        zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
    first.unlink()  # as the message says
    assert zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False).computed == 1


def test_a_folder_of_other_things_and_a_file_are_refused(artefact: Path, photos: Path, tmp_path: Path) -> None:
    for place in (photos, photos / "a"):
        before = sorted(photos.rglob("*"))
        with pytest.raises(Refused, match="it is no folder of such parts"):
            zoo.predict_files(artefact, photos, out=place, verbose=False)
        assert sorted(photos.rglob("*")) == before
    with pytest.raises(Refused, match="is a file, and parts go into a folder"):
        zoo.predict_files(artefact, photos, out=photos / "a" / "001.jpg", verbose=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no image"):
        zoo.predict_files(artefact, empty, out=tmp_path / "out", verbose=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["_job.json", "_predictions.json"])
def test_what_a_killed_command_left_half_written_is_no_other_thing(
    name: str, artefact: Path, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    draft = out / f".{name}-of-a-killed-process"
    draft.mkdir(parents=True)
    (draft / name).write_bytes(b"{")
    assert zoo.predict_files(artefact, few, out=out, verbose=False).computed == 1
    assert not draft.exists()


def test_a_mistyped_path_leaves_nothing_behind(artefact: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="photoss does not exist"):
        zoo.predict_files(artefact, f"{photos}/photoss", out=tmp_path / "out", verbose=False)
    assert not (tmp_path / "out").exists()


def test_files_are_read_under_the_names_that_are_listed(
    artefact: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    for name in ("~nobody.jpg", "s3:/shop.jpg", "x~.jpg"):
        shutil.copy(photos / "a" / "001.jpg", name)
    made = zoo.predict_files(artefact, ".", out="out", verbose=False)
    assert (made.images, made.unreadable) == (3, 0)
    assert {row["file"] for row in rows_of(tmp_path / "out")} == {"~nobody.jpg", "s3:/shop.jpg", "x~.jpg"}


@pytest.mark.long
def test_a_folder_is_written_by_one_command_at_a_time(artefact: Path, photos: Path, kept: Path, tmp_path: Path) -> None:
    lost = sorted(kept.glob("part-*"))[1]
    lost.unlink()
    (kept / "_predictions.json").unlink()
    draft = kept / f".{lost.name}-of-the-other"
    draft.mkdir()
    other = tmp_path / "other.py"  # the same command, stopped in the middle of its part
    other.write_text(
        "import sys, time, zoo\n"
        "from zoo.events import Progress\n"
        "def told(event):\n"
        "    if isinstance(event, Progress) and event.task == 'predict':\n"
        "        print('computing', flush=True); time.sleep(60)\n"
        "zoo.predict_files(*sys.argv[1:3], out=sys.argv[3], part_size=32, on_event=told, verbose=False)"
    )
    words = [sys.executable, other, artefact, photos, kept]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "computing\n"
            with pytest.raises(RunError, match=rf"parts is being written by another process: {holder.pid} on .*\nNext"):
                zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
            assert draft.exists() and not (kept / "_predictions.json").exists()
        finally:
            holder.kill()
    # The system released the lock with its process; what it left half-written goes with the lock at the end.
    zoo.predict_files(artefact, photos, out=kept, part_size=32, verbose=False)
    assert len(rows_of(kept)) == 70
    assert {path.name for path in kept.iterdir() if path.suffix != ".parquet"} == {"_job.json", "_predictions.json"}


def test_nothing_but_bad_files_is_refused_at_the_end(artefact: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"None of 3 files can be read; the column `error`.*\n.*another --out"):
        zoo.predict_files(artefact, tmp_path / "*.jpg", out=tmp_path / "out", verbose=False)
    assert not (tmp_path / "out" / "_predictions.json").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on": "rya"}, "Did you mean 'ray'"),
        ({"precision": "auto"}, "is measured on each machine"),
        ({"part_size": 0}, "part_size must be at least 1"),
        ({"processes": 2}, "processes is for the workers of a Ray"),
        ({"out": "s4://bucket/x"}, "Did you mean 's3://bucket/x'"),
        ({"on": "ray", "device": "cuda:1"}, "a Ray gives each worker its GPU"),
    ],
)
def test_bad_input_is_answered_first(
    given: dict[str, Any], told: str, artefact: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=told):
        zoo.predict_files(artefact, photos, **{"out": tmp_path / "out", "verbose": False, **given})
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_are_those_of_embed(dtype: str, artefact: Path, photos: Path, tmp_path: Path) -> None:
    whole = zoo.embed(artefact, photos, normalise=True, dtype=dtype, verbose=False)
    made = zoo.embed_files(
        artefact, photos, out=tmp_path / "out", normalise=True, dtype=dtype, part_size=30, verbose=False
    )
    assert (made.images, made.unreadable) == (70, 2) and made.manifest == "_vectors.json"
    rows = {row["file"]: row for row in rows_of(tmp_path / "out")}
    by_digest = {row["sha256"]: row["vector"] for row in rows.values() if row["error"] is None}
    assert len(rows) == 70
    for digest, vector in zip(whole.sha256, whole.vectors, strict=True):
        assert [float(number) for number in by_digest[digest]] == [float(number) for number in vector]
    assert rows[str(photos / "b" / "040.jpg")]["error"] == "it is empty"


def test_what_changes_no_vector_makes_no_other_job(photos: Path, tmp_path: Path) -> None:
    few = sorted(photos.rglob("*.jpg"))[:6]
    asked: dict[str, Any] = {"out": tmp_path / "out", "part_size": 3, "weights": "random", "verbose": False}
    first = zoo.embed_files("timm/test_resnet", few, **asked)
    before = bytes_of(tmp_path / "out")
    # The network switched off, the size that it has by itself, the precision that `auto` stands for.
    size = zoo.create_model("timm/test_resnet", classes=2, weights="random").preprocessing.input_size[1:]
    for same in ({"offline": True}, {"input_size": size}, {"precision": "float32"}):
        again = zoo.embed_files("timm/test_resnet", few, **asked, **same)
        assert again.computed == 0 and again.parts == first.parts
    assert bytes_of(tmp_path / "out") == before
    for other in ({"seed": 1}, {"normalise": True}, {"dtype": "float16"}, {"input_size": 32}):
        told = rf"holds parts of another job: .*{next(iter(other))} .* there, .* asked"
        with pytest.raises(Refused, match=told):
            zoo.embed_files("timm/test_resnet", few, **asked, **other)


def test_a_folder_of_before_an_update_says_what_was_updated(photos: Path, tmp_path: Path) -> None:
    few = sorted(photos.rglob("*.jpg"))[:2]
    asked: dict[str, Any] = {"out": tmp_path / "out", "weights": "random", "verbose": False}
    zoo.embed_files("timm/test_resnet", few, **asked)
    file = tmp_path / "out" / "_job.json"
    now = json.loads(file.read_text())
    distribution, version = now["provider"].split()
    # As the same command wrote it with the package that provided the backbone then.
    then = {**now, "digest": "0" * 64, "model": "1" * 64, "provider": f"{distribution} 0.0.9"}
    file.write_text(json.dumps(then))
    with pytest.raises(Refused) as refused:
        zoo.embed_files("timm/test_resnet", few, **asked)
    assert f"model 111111111111... there, {now['model'][:12]}... asked" in str(refused.value)
    assert f"provider {distribution} 0.0.9 there, {distribution} {version} asked." in str(refused.value)
    assert f"Next: --out with a new folder, or install {distribution} 0.0.9 again" in str(refused.value)
    # An older zoo did not tell the provider.
    file.write_text(json.dumps({name: value for name, value in then.items() if name not in ("provider", "backbone")}))
    with pytest.raises(Refused, match="another version of the package that provides the backbone"):
        zoo.embed_files("timm/test_resnet", few, **asked)
    file.write_text(json.dumps(now))
    with pytest.raises(Refused, match=r"backbone timm/test_resnet\S* there, timm/test_vit\S* asked"):
        zoo.embed_files("timm/test_vit", few, **asked)


def test_the_precision_of_training_by_its_name_is_the_same_job(artefact: Path, photos: Path, kept: Path) -> None:
    made = zoo.predict_files(artefact, photos, out=kept, part_size=32, precision="float32", verbose=False)
    assert made.computed == 0
    with pytest.raises(Refused, match="precision float32 there, bfloat16 asked"):
        zoo.predict_files(artefact, photos, out=kept, part_size=32, precision="bfloat16", verbose=False)
