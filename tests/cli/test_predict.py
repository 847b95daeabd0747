"""A finished classifier on many files: found, read, computed and written as a stream."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zoo
from PIL import Image
from tests.conftest import Zoo
from zoo.artefact.classifier import Prediction
from zoo.artefact.config import sealed
from zoo.cli.display import RunDisplay
from zoo.cli.predict import TableWriter
from zoo.data.paths import count_images, images_of
from zoo.display.console import Verbosity
from zoo.errors import DataError, OptionError
from zoo.events import Event, Note, Progress
from zoo.planning.pass_times import Measured
from zoo.specs.data import IMAGE_SUFFIXES
from zoo.specs.plan import Compute


@pytest.fixture(scope="module")
def run_folder(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    tiny = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 1}
    return zoo.finetune(data=shapes, out=out, tune=False, **tiny).path


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """`photos/` with nine pictures, three of them a folder deeper, and a text file."""
    folder = Path(shutil.copytree(shapes / "val" / "red", tmp_path / "photos"))
    (folder / "more").mkdir()
    for number in range(3):
        shutil.copy(shapes / "val" / "blue" / f"{number}.jpg", folder / "more" / f"{number}.JPG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def sources(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [each["source"] for each in json.loads(done.stdout)]


# Finding


def test_images_of_a_folder_come_in_the_order_of_sorted_paths(tmp_path: Path) -> None:
    for name in (
        "b.jpg",
        "a/2.png",
        "a/10.png",
        "a.jpg",
        "a b/1.JPEG",
        "a/.hidden/x.webp",
        "c/d/e.txt",
        "B.tif",
        "ä.bmp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    every = sorted(
        each
        for each in tmp_path.rglob("*")
        if each.suffix.lower() in IMAGE_SUFFIXES
        and (each.is_file() or each.is_symlink())
        and ".hidden" not in each.parts
    )
    assert list(images_of([tmp_path])) == every
    count = count_images([tmp_path])
    assert (count.images, count.hidden) == (len(every), 1) and len(every) == 9
    assert [file.relative for file in count.unused.first] == [f"{tmp_path}/c/d/e.txt"]


def test_files_of_a_folder_that_are_no_images_by_name_are_told_and_taken_by_their_paths(
    zoo_inside: Zoo, run_folder: Path, photos: Path
) -> None:
    for number in range(6):
        Image.open(photos / "0.jpg").save(photos / f"{number}.gif")
    shutil.copy(photos / "0.jpg", photos / "noext")
    (photos / ".DS_Store").touch()
    done = zoo_inside("predict", run_folder, "photos", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 9
    assert "8 files not used: photos/0.gif: not an image (.gif extension); photos/1.gif: " in done.stderr
    assert "; and 3 more. Next: if they are pictures, give their own paths." in done.stderr
    whole = zoo_inside("-v", "predict", run_folder, "photos").stderr
    assert "photos/noext: not an image (no extension); photos/notes.txt: not an image (.txt extension). Next" in whole
    assert ".DS_Store" not in whole
    named = zoo_inside("predict", run_folder, "photos/0.gif", "photos/noext", "--json")
    assert sources(named) == ["photos/0.gif", "photos/noext"] and "not used" not in named.stderr
    both = zoo_inside("predict", run_folder, "photos", "photos/*.gif", "photos/noext", "--json")
    assert len(json.loads(both.stdout)) == 16
    assert "1 file not used: photos/notes.txt: not an image" in both.stderr


def test_a_file_is_told_as_not_used_once_and_only_where_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("0.jpg", "more/1.jpg", "more/a.gif", "more/notes.txt"):
        (tmp_path / name).touch()

    def told(*arguments: Path) -> list[str]:
        unused = count_images(arguments).unused
        assert unused.count == len(unused.first)
        return [Path(file.relative).name for file in unused.first]

    assert told(tmp_path) == told(tmp_path, tmp_path / "more") == told(tmp_path / "more", tmp_path / "more")
    assert told(tmp_path) == ["a.gif", "notes.txt"] and told(tmp_path, tmp_path / "**" / "*.gif") == ["notes.txt"]
    # This takes all, the folders as well as each file in them.
    assert told(tmp_path / "**") == []


def test_patterns_and_files_are_taken_in_the_order_given(photos: Path) -> None:
    found = list(images_of([photos / "[45].jpg", photos / "gone.jpg", photos / "m*", photos / "0.jpg"]))
    more = [photos / "more" / f"{number}.JPG" for number in range(3)]
    assert found == [photos / "4.jpg", photos / "5.jpg", photos / "gone.jpg", *more, photos / "0.jpg"]
    assert list(images_of([photos / "**" / "*.JPG"])) == more


def test_a_file_that_several_arguments_name_comes_once_and_it_is_said(
    zoo_inside: Zoo, run_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos / ".kept").mkdir()
    hidden = shutil.copy(photos / "0.jpg", photos / ".kept" / "h.jpg")
    every = sorted(photos.glob("*.jpg")) + sorted(photos.glob("more/*"))
    for arguments in (
        [photos / "1*.jpg", photos],
        [photos, photos / "more", photos / "0.jpg"],
        [photos, Path("photos"), Path("photos/../photos/2.jpg")],
        [photos / "**", photos],
    ):
        found = [path for path in images_of(arguments) if path.suffix != ".txt"]  # which a pattern takes
        assert sorted(found) == sorted(every), arguments
        assert count_images(arguments).images == len(list(images_of(arguments))) and count_images(arguments).again > 0
    # A folder does not stand for what it passes over, nor for files without an image's name.
    apart = [photos, Path(hidden), photos / "notes.txt", photos.parent / "photos2.jpg"]
    assert list(images_of(apart)) == [*images_of([photos]), *apart[1:]]
    done = zoo_inside("predict", run_folder, "photos/[01].jpg", "photos", "--json")
    assert sources(done)[:2] == ["photos/0.jpg", "photos/1.jpg"] and len(set(sources(done))) == len(sources(done)) == 9
    assert "2 images were named more than once" in done.stderr


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos: Path) -> None:
    (photos / "0.jpg").rename(photos / "[1].jpg")
    assert list(images_of([photos / "[1].jpg"])) == [photos / "[1].jpg"]


def test_what_names_no_image_is_refused_before_the_classifier_is_opened(zoo_inside: Zoo, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = zoo_inside("predict", "nowhere", "empty")
    assert done.returncode == 1 and "There are no images in empty" in done.stderr
    done = zoo_inside("predict", "nowhere", "empty/*.jpg")
    assert done.returncode == 1 and "No file matches 'empty/*.jpg'" in done.stderr


# Streaming


def test_predictions_come_while_files_are_still_being_named(run_folder: Path, photos: Path) -> None:
    drawn = 0

    def endless() -> Iterator[Path]:
        nonlocal drawn
        for name in itertools.cycle(["0.jpg", "1.jpg"]):
            drawn += 1
            yield photos / name

    stream = zoo.load(run_folder).stream(endless(), batch_size=2, workers=2)
    first = list(itertools.islice(stream, 4))
    assert [Path(each.source).name for each in first] == ["0.jpg", "1.jpg"] * 2
    assert drawn <= 2 * (2 + 1 + 2)
    stream.close()  # type: ignore[attr-defined]


def test_workers_change_no_bit_and_no_order(run_folder: Path, photos: Path) -> None:
    classifier = zoo.load(run_folder)
    files = [photos / "notes.txt", *images_of([photos]), photos / "gone.jpg"]
    seen = []
    for workers in (1, 4):
        bad: list[str] = []
        found = classifier.predict(files, batch_size=4, workers=workers, on_error=lambda source, _: bad.append(source))  # noqa: B023
        seen.append((found, bad))
    assert seen[0] == seen[1] and seen[0][1] == [str(files[0]), str(files[-1])] and len(seen[0][0]) == 9


def test_an_opened_picture_may_come_several_times(run_folder: Path, photos: Path) -> None:
    with Image.open(photos / "0.jpg") as picture:
        found = zoo.load(run_folder).predict([picture] * 6, batch_size=2)
    assert len({each.top for each in found}) == 1 and found[5].source == "image 5"


def test_what_cannot_be_is_refused_before_anything_is_drawn(run_folder: Path) -> None:
    with pytest.raises(OptionError, match="top and batch_size"):
        zoo.load(run_folder).stream([], top=0)


def test_json_csv_and_table_hold_the_same_predictions(zoo_inside: Zoo, run_folder: Path, photos: Path) -> None:
    done = zoo_inside("predict", run_folder, "photos", "--json", "--csv", "p.csv")
    predicted = json.loads(done.stdout)
    assert done.stdout == json.dumps(predicted, indent=2, ensure_ascii=False) + "\n"
    assert [each["source"] for each in predicted] == [str(each) for each in images_of([Path("photos")])]
    with (photos.parent / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["label"]) for row in rows] == [(each["source"], each["label"]) for each in predicted]
    table = zoo_inside("predict", run_folder, "photos").stdout.splitlines()
    assert table[0].split() == ["image", "label", "probability", "then"]
    assert [line.split()[:2] for line in table[1:]] == [[each["source"], each["label"]] for each in predicted]


def test_a_long_table_is_printed_in_parts_under_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = [
        Prediction(source=f"{number}.jpg", label="red", probability=0.9, top=(("red", 0.9), ("blue", 0.1)))
        for number in range(5)
    ]
    lines = []
    with RunDisplay(Verbosity(), as_json=True) as display:
        table = TableWriter(display, rows=2)
        for prediction in predictions:
            table.write([prediction])
            lines.append(len(capsys.readouterr().out.splitlines()))
        table.close()
    assert lines == [0, 3, 0, 2, 0] and capsys.readouterr().out.split() == ["4.jpg", "red", "0.900", "blue", "0.100"]


def test_nothing_readable_is_an_empty_list_and_a_csv_of_its_title(
    zoo_inside: Zoo, run_folder: Path, photos: Path
) -> None:
    done = zoo_inside("predict", run_folder, "photos/notes.txt", "--json", "--csv", "p.csv")
    assert done.returncode == 1 and json.loads(done.stdout) == []
    assert "1 file of 1 could not be classified" in done.stderr
    assert (photos.parent / "p.csv").read_text() == "source,label,probability\n"


def test_an_older_csv_stays_where_the_work_breaks_off(zoo_inside: Zoo, photos: Path) -> None:
    older = "source,label,probability\n0.jpg,red,0.5\n"
    (photos.parent / "p.csv").write_text(older)
    assert zoo_inside("predict", "nowhere", "photos", "--csv", "p.csv").returncode == 1
    assert (photos.parent / "p.csv").read_text() == older and not list(photos.parent.glob(".p.csv*"))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_csv_replaces_what_zoo_wrote_and_nothing_else(
    command: str, zoo_inside: Zoo, run_folder: Path, shapes: Path, photos: Path
) -> None:
    """A pattern without quotes gives --csv the first photograph."""
    what = ["photos"] if command == "predict" else ["--data", shapes]
    before = (photos / "0.jpg").read_bytes()
    done = zoo_inside(command, run_folder, *what, "--csv", "photos/0.jpg")
    assert done.returncode == 2 and "is no list of predictions that zoo wrote" in done.stderr
    assert (photos / "0.jpg").read_bytes() == before
    table = photos.parent / "p.csv"
    of_other = "source,label,probability\n"
    if command == "predict":
        of_other = "split,file,label,predicted,probability,probability_of_label\n"
    for content in (of_other, "", None):  # what the other command wrote; nothing; what this one wrote just now
        if content is not None:
            table.write_text(content)
        assert zoo_inside(command, run_folder, *what, "--csv", table).returncode == 0
        assert len(table.read_text().splitlines()) == (10 if command == "predict" else 13)


@pytest.mark.long
def test_a_reader_that_leaves_does_not_cost_the_csv(run_folder: Path, photos: Path) -> None:
    """`zoo predict RUN photos --csv p.csv | head -n 1`"""
    words = [sys.executable, "-m", "zoo", "predict", run_folder, photos, "--csv", photos.parent / "p.csv"]
    for more in ([], ["--json"]):
        with subprocess.Popen([*words, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
            assert command.stdout is not None and command.stderr is not None
            command.stdout.close()
            said = command.stderr.read().decode()
        assert command.returncode == 0, said
        assert len((photos.parent / "p.csv").read_text().splitlines()) == 10
        (photos.parent / "p.csv").unlink()
    # Closed from the start.
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0 and len((photos.parent / "p.csv").read_text().splitlines()) == 10, done.stderr


@pytest.mark.long
def test_a_reader_of_stderr_that_leaves_costs_only_what_is_said_to_people(run_folder: Path, photos: Path) -> None:
    """`zoo predict RUN photos --csv p.csv 2>&1 | head -n 1`"""
    (photos / "broken.jpg").write_bytes(b"nothing")
    words = [sys.executable, "-m", "zoo", "predict", run_folder, photos, "--csv", photos.parent / "p.csv"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*words, "--json"], stdout=subprocess.PIPE, stderr=writing, check=False)
        # The exit code still tells of the file that could not be read.
        assert done.returncode == 1 and len(json.loads(done.stdout)) == 9
        assert len((photos.parent / "p.csv").read_text().splitlines()) == 10
        (photos.parent / "p.csv").unlink()
        (photos / "broken.jpg").unlink()
        assert subprocess.run(words, stdout=writing, stderr=writing, check=False).returncode == 0
        assert len((photos.parent / "p.csv").read_text().splitlines()) == 10
    finally:
        os.close(writing)


def test_zero_bytes_on_standard_input_are_no_paths(
    zoo_inside: Zoo, run_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with io.TextIOWrapper(io.BytesIO(b"photos/0.jpg\0photos/1.jpg\0")) as given:
        monkeypatch.setattr(sys, "stdin", given)
        done = zoo_inside("predict", run_folder, "-")
    assert done.returncode == 2 and "Standard input holds zero bytes" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(DataError, match="holds a zero byte"):
        zoo.load(run_folder).predict("photos/0.jpg\0")


def test_paths_come_from_standard_input(
    zoo_inside: Zoo, run_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = io.BytesIO(b"photos/0.jpg\n\nphotos/gone.jpg\r\nphotos/more/1.JPG")
    with io.TextIOWrapper(names) as given:
        monkeypatch.setattr(sys, "stdin", given)
        done = zoo_inside("predict", run_folder, "-", "--json")
    assert sources(done) == ["photos/0.jpg", "photos/more/1.JPG"]
    assert done.returncode == 1 and "photos/gone.jpg" in done.stderr and "1 file of 3" in done.stderr


def test_nothing_on_standard_input_is_said(zoo_inside: Zoo, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(b"")) as given:
        monkeypatch.setattr(sys, "stdin", given)
        done = zoo_inside("predict", run_folder, "-", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == [] and "No path came on standard input" in done.stderr


def test_standard_input_goes_alone(zoo_inside: Zoo, run_folder: Path, photos: Path) -> None:
    done = zoo_inside("predict", run_folder, "-", "photos")
    assert done.returncode == 2 and "cannot be combined with other images" in done.stderr


def test_progress_without_a_total_is_said_with_its_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 11.0])
    monkeypatch.setattr("zoo.display.terminal.time.monotonic", lambda: next(times))
    with RunDisplay(Verbosity(), as_json=True) as display:
        for done in (0, 55):
            display.report(Progress(task="predict", done=done, total=None))
    assert capsys.readouterr().err == "  predict: 55 images, 5/s\n"


# Evaluating


def test_evaluating_decodes_each_file_once_and_accounts_for_all(
    run_folder: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(shapes / "val", tmp_path / "val"))
    for folder in ("blue", "red"):
        (data / folder / "bad.jpg").write_text("no picture")
    decoded: list[str] = []
    from zoo.data import store

    original = store.decode_closely
    monkeypatch.setattr(
        store,
        "decode_closely",
        lambda content, *, name, **more: (decoded.append(name), original(content, name=name, **more))[1],
    )
    events: list[Event] = []
    found = zoo.evaluate(run_folder, data=data, on_event=events.append)
    assert len(decoded) == len(set(decoded)) == 20
    assert found.images == 18 and set(found.unreadable) == {"blue/bad.jpg", "red/bad.jpg"}
    assert sum("Left out, unreadable" in each.text for each in events if isinstance(each, Note)) == 2
    (*_, last) = (each for each in events if isinstance(each, Progress))
    assert (last.done, last.total) == (20, 20)
    assert found.scores == zoo.evaluate(run_folder, data=shapes / "val").scores


def test_a_folder_without_a_readable_image_is_refused(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "bad.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"No image in .* can be read"):
        zoo.evaluate(run_folder, data=tmp_path)


# Precision


@pytest.fixture
def half(run_folder: Path, tmp_path: Path) -> Path:
    """The same classifier, trained in bfloat16 as far as its config says."""
    folder = Path(shutil.copytree(run_folder / "model", tmp_path / "half"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"precision": "bfloat16", "memory_format": "channels_last"}
    (folder / "config.json").write_text(json.dumps(sealed(config)))
    return folder


def test_the_stored_precision_stands_unless_another_is_asked_for(half: Path) -> None:
    assert zoo.load(half).model.compute == Compute("bfloat16", "channels_last")
    assert zoo.load(half, precision="float32").model.compute == Compute("float32", "channels_last")
    assert zoo.load(half, precision="bfloat16").model.compute == Compute("bfloat16", "channels_last")


def test_auto_takes_what_is_faster_here(half: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoo.planning.precision.read_table", lambda: ())
    simple, fast = Compute(), Compute("bfloat16", "channels_last")
    for number, found in enumerate((simple, fast)):
        monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / str(number)))
        measured = Measured(found, certain=True, turns=3, rates={})
        monkeypatch.setattr("zoo.planning.precision.time_candidates", lambda *_, found=measured, **__: found)
        assert zoo.load(half, precision="auto").model.compute == found


def test_auto_asks_the_table(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.planning.precision.processor_kind", lambda: "AMD avx512_bf16")
    monkeypatch.setattr("zoo.planning.precision.time_candidates", None)
    assert zoo.load(half, precision="auto").model.compute == Compute("bfloat16", "channels_last")


def test_both_commands_take_a_precision(zoo_inside: Zoo, half: Path, run_folder: Path, shapes: Path) -> None:
    for command in (("predict", shapes / "val"), ("evaluate", "--data", shapes / "val")):
        word, *rest = command
        asked = zoo_inside(word, half, *rest, "--precision", "float32", "--json")
        assert asked.returncode == 0, asked.stderr
        stored = zoo_inside(word, half, *rest, "--json")
        assert stored.returncode == 0 and stored.stdout != asked.stdout
    done = zoo_inside("predict", half, shapes / "val", "--precision", "half")
    assert done.returncode == 2 and "--precision 'half' is not one of auto, float32, bfloat16" in done.stderr


def test_no_threads_at_all_are_refused(run_folder: Path, shapes: Path, zoo_inside: Zoo) -> None:
    for command in (("predict", run_folder, shapes / "val"), ("evaluate", run_folder, "--data", shapes / "val")):
        ended = zoo_inside(*command, "--workers", "0")
        assert ended.returncode == 2 and "--workers must be at least 1, got 0" in ended.stderr
