"""`zoo data labels` on small sets: what is suspected, what is left out, what is written, and what is refused."""

from __future__ import annotations

import csv
import html
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from zoo.advice.labels import judged_rows, out_of_fold
from zoo.advice.labels_page import NEIGHBOURS, directions, nearest_of_class
from zoo.data.sample import sample_image
from zoo.display.blocks import Line
from zoo.errors import DataError, OptionError, Refused, WeightsError
from zoo.events import Event, Note, Progress
from zoo.probes.confident_learning import label_margins
from zoo.probes.cross_validation import cross_validate
from zoo.probes.folds import make_folds
from zoo.probes.strength import STRENGTHS

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "precision": "float32"}
EXCHANGED = ("train/red/moved.jpg", "val/blue/moved.jpg")
MEASURED = """<!doctype html><title>pending</title>
<iframe id="f" width="{width}" height="1200" srcdoc="{page}"></iframe>
<script>onload = () => {{ const d = document.getElementById("f").contentDocument;
document.title = JSON.stringify([d.documentElement.clientWidth, d.documentElement.scrollWidth,
[...d.images].filter(i => !i.complete || !i.naturalWidth).length,
[...d.querySelectorAll("[src],[href]")].map(e => e.getAttribute("src") || e.getAttribute("href"))
.filter(e => !/^(data:|#)/.test(e)).length,
d.images.length]); }};</script>"""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """`shapes` with two pictures under a wrong class, and a class of four pictures."""
    root = tmp_path_factory.mktemp("noisy") / "photos & more"
    shutil.copytree(shapes, root)
    sample_image(1, 3, "train", 77).save(root / EXCHANGED[0], quality=90)
    sample_image(0, 3, "train", 78).save(root / EXCHANGED[1], quality=90)
    for split, numbers in (("train", range(3)), ("val", range(3, 4))):
        (root / split / "rare").mkdir()
        for number in numbers:
            sample_image(2, 3, "other", number).save(root / split / "rare" / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def check(noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.LabelCheck:
    return zoo.check_labels(noisy, **TINY, out=tmp_path_factory.mktemp("checks") / "new" / "labels")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_check_whose_folder_another_made_meanwhile_is_written_beside_it(
    noisy: Path, check: zoo.LabelCheck, tmp_path: Path
) -> None:
    """Two commands at once want `labels/`: the work of the later one is not lost, and neither is the other's."""
    out, said = tmp_path / "labels", list[str]()

    def meanwhile(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Note) else [])
        if isinstance(event, Progress) and event.task == "judge labels" and not out.exists():
            out.mkdir()
            (out / "suspects.csv").write_text("of the other", "utf-8")

    late = zoo.check_labels(noisy, **TINY, out=out, on_event=meanwhile)
    assert late.csv == tmp_path / "labels-2" / "suspects.csv" and late.page == late.csv.with_name("labels.html")
    assert check.csv is not None and late.csv.read_bytes() == check.csv.read_bytes()
    assert [path.read_text("utf-8") for path in out.iterdir()] == ["of the other"]
    assert f"{out} was made by another process meanwhile, so this check is in {tmp_path / 'labels-2'}." in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "labels-2"]


def edited(check: zoo.LabelCheck, place: Path, change: Callable[[list[dict[str, str]]], None]) -> Path:
    """suspects.csv as a user changed it."""
    assert check.csv is not None
    rows = rows_of(check.csv)
    change(rows)
    with place.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows_of(check.csv)[0]))
        writer.writeheader()
        writer.writerows(rows)
    return place


def accepting(*files: str, word: str = "yes") -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["accept"] = word if row["file"] in files else ""

    return change


def test_pictures_under_a_wrong_class_are_suspected_in_every_split(check: zoo.LabelCheck, noisy: Path) -> None:
    found = {suspect.file: suspect for suspect in check.suspects}
    assert set(EXCHANGED) <= set(found)
    assert (found[EXCHANGED[0]].given, found[EXCHANGED[0]].suggested) == ("red", "green")
    assert (found[EXCHANGED[1]].given, found[EXCHANGED[1]].split) == ("blue", "val")
    margins = [suspect.margin for suspect in check.suspects]
    assert margins == sorted(margins) and max(margins) < 0
    assert check.images == 3 * (12 + 6 + 4) + 2
    assert check.left_out == (("rare", 4),) and "rare" not in check.classes


def test_many_classes_that_were_left_out_are_one_line(check: zoo.LabelCheck) -> None:
    many = replace(check, left_out=tuple((f"class {number}", 3) for number in range(2000)))
    lines = [block.text for block in many.blocks() if isinstance(block, Line) and "left out" in block.text]
    assert len(lines) == 1 and "2,000 classes" in lines[0]
    assert lines[0].endswith("class 8 (3), class 9 (3) and 1,990 more")
    assert any(isinstance(each, Line) and "class 1999 (3)" in each.text for each in many.blocks(whole=True))
    one = [block.text for block in check.blocks() if isinstance(block, Line) and "left out" in block.text]
    assert one == ["rare was left out: fewer than five different images (4 in all)"]


def test_progress_is_told_within_a_draw() -> None:
    """With thousands of classes a draw takes minutes."""
    labels = torch.arange(30) % 3
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    said: list[tuple[int, int]] = []
    out_of_fold(features, labels, 3, range(30), draws=2, progress=lambda done, total: said.append((done, total)))
    assert [done for done, _ in said] == sorted(done for done, _ in said) and len(said) > 2 * 2
    assert said[-1] == (2 * len(STRENGTHS), 2 * len(STRENGTHS))


def test_the_table_says_what_the_record_says_and_leaves_the_decision_empty(check: zoo.LabelCheck) -> None:
    assert check.csv is not None and check.csv.name == "suspects.csv"
    rows = rows_of(check.csv)
    assert list(rows[0]) == [
        *("file", "split", "given", "suggested", "probability_given", "probability_suggested", "margin", "issue"),
        *("accept", "sha256"),
    ]
    assert [row["file"] for row in rows] == [suspect.file for suspect in check.suspects]
    assert {row["accept"] for row in rows} == {""}
    assert json.loads(json.dumps(check.to_dict()))["suspects"][0]["file"] == rows[0]["file"]


def test_a_second_check_gives_the_same_bytes_whatever_the_workers(
    check: zoo.LabelCheck, noisy: Path, tmp_path: Path
) -> None:
    again = zoo.check_labels(noisy, **TINY, out=tmp_path / "again", workers=1)
    for one, other in ((check.csv, again.csv), (check.page, again.page)):
        assert one is not None and other is not None
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(Refused, match="overwrites nothing"):
        zoo.check_labels(noisy, **TINY, out=tmp_path / "again")


def test_the_page_shows_each_suspect_beside_neighbours_of_both_classes(check: zoo.LabelCheck) -> None:
    assert check.page is not None
    page = check.page.read_text("utf-8")
    assert f"{len(check.suspects)} of {len(check.suspects)} are shown" in page
    assert page.count('src="data:image/jpeg') == len(check.suspects) * (1 + 2 * NEIGHBOURS)
    assert "photos &amp; more" in page and "rare" in page


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [pytest.param(400, marks=pytest.mark.long), 1400])
def test_a_real_browser_shows_it_without_errors(width: int, check: zoo.LabelCheck, tmp_path: Path) -> None:
    assert check.page is not None
    framed = tmp_path / "framed.html"
    framed.write_text(MEASURED.format(width=width, page=html.escape(check.page.read_text("utf-8"))), "utf-8")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    shown = subprocess.run(
        [CHROMIUM, *options, "--enable-logging=stderr", "--window-size=1500,1300", "--dump-dom", framed.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    title = re.search(r"<title>(\[.*?\])</title>", shown.stdout)
    assert title is not None, shown.stdout[:500] + shown.stderr
    across, needed, broken, outside, images = json.loads(title.group(1))
    assert needed <= across and broken == 0 and outside == 0 and images >= 5


def test_neighbours_are_of_the_class_and_neither_the_image_nor_its_copies() -> None:
    from zoo.advice.label_check import JudgedLabels

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 4, generator=generator)
    features[1] = features[0]  # a copy
    judged = JudgedLabels(
        files=(),
        features=features,
        labels=torch.tensor([0] * 6 + [1] * 6),
        classes=("a", "b"),
        groups=(0, 0, *range(1, 11)),
        suggested=torch.zeros(12, dtype=torch.long),
        issues=torch.zeros(12, dtype=torch.bool),
        ranked=(0,),
    )
    near = directions(features) @ directions(features)[0]
    of_given = nearest_of_class(judged, directions(features), 0, 0)
    assert of_given == sorted(range(2, 6), key=lambda row: -float(near[row]))[:2]
    judged.issues[of_given[0]] = True
    assert nearest_of_class(judged, directions(features), 0, 0)[0] == of_given[1]
    assert (
        nearest_of_class(judged, directions(features), 0, 1) == sorted(range(6, 12), key=lambda r: -float(near[r]))[:2]
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_can_be_judged_is_judged_and_by_fits_that_have_not_seen_it(seed: int) -> None:
    drawn = random.Random(seed)
    classes = drawn.randint(2, 6)
    labels = [drawn.randrange(classes) for _ in range(60)]
    groups = [drawn.randrange(45) for _ in labels]
    rows, kept = judged_rows(labels, groups, classes)
    assert {labels[row] for row in rows} <= set(kept)
    if len(kept) < 2:
        return
    number = {label: index for index, label in enumerate(kept)}
    targets = torch.tensor([number[labels[row]] for row in rows])
    features = torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(seed))
    of_rows = [groups[row] for row in rows]
    said = out_of_fold(features, targets, len(kept), of_rows, draws=1)
    assert bool(said.isfinite().all())
    assert torch.allclose(said.sum(1), torch.ones(len(rows), dtype=torch.float64))


def test_several_draws_of_folds_are_averaged() -> None:
    generator = torch.Generator().manual_seed(4)
    features, labels = torch.randn(40, 6, generator=generator), torch.arange(40) % 2
    draws = [
        cross_validate(features, labels, 2, make_folds(labels.tolist(), list(range(40)), seed=seed)).probabilities()
        for seed in (0, 1)
    ]
    said = out_of_fold(features, labels, 2, list(range(40)), draws=2)
    assert torch.allclose(said, (draws[0] + draws[1]) / 2) and not torch.allclose(draws[0], draws[1], atol=1e-3)


def test_labels_that_carry_no_information_are_not_learned_from_the_image_itself() -> None:
    """With pure noise as features, the own label must not be the likelier one: a leak of one image would show."""
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(80, 100, generator=generator), torch.arange(80) % 2
    groups = list(range(80))
    honest = label_margins(out_of_fold(features, labels, 2, groups), labels)
    assert float((honest > 0).double().mean()) < 0.65
    # The check of this check: copies of every image in other folds let each fit see it.
    leaking = label_margins(
        out_of_fold(torch.cat([features, features]), torch.cat([labels, labels]), 2, list(range(160))),
        torch.cat([labels, labels]),
    )
    assert float((leaking > 0).double().mean()) > 0.7
    together = out_of_fold(torch.cat([features, features]), torch.cat([labels, labels]), 2, groups + groups)
    assert float((label_margins(together, torch.cat([labels, labels])) > 0).double().mean()) < 0.65


def test_a_run_on_an_accepted_table_trains_on_the_suggested_labels(
    check: zoo.LabelCheck, noisy: Path, tmp_path: Path
) -> None:
    dropped = next(suspect.file for suspect in check.suspects if suspect.file not in EXCHANGED)

    def decide(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["accept"] = {EXCHANGED[0]: "Yes", dropped: "drop"}.get(row["file"], "no")

    before = {path: path.read_bytes() for path in noisy.rglob("*.jpg")}
    made = zoo.apply_suspects(noisy, edited(check, tmp_path / "mine.csv", decide), tmp_path / "new" / "table.csv")
    assert made.changes == ((EXCHANGED[0], "red", "green"),)
    assert [file for file, _ in made.dropped] == [dropped]
    assert {path: path.read_bytes() for path in noisy.rglob("*.jpg")} == before
    rows = {row["path"]: row for row in rows_of(made.table)}
    assert len(rows) == made.images == len(before) - 1
    assert rows[str(noisy / EXCHANGED[0])] == {"path": str(noisy / EXCHANGED[0]), "label": "green", "split": "train"}
    assert str(noisy / dropped) not in rows
    result = zoo.finetune(
        data=made.table, backbone="timm/test_resnet", weights="random", recipe="head_only", out=tmp_path / "run"
    )
    assert result.proof == "passed"
    images = json.loads((result.path / "plan.json").read_text("utf-8"))["data"]["images"]
    assert sum(sum(counts) for counts in images.values()) == len(before) - 1


@pytest.mark.long
def test_data_without_splits_get_a_table_without_splits_and_relative_paths(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes / "train", tmp_path / "photos")
    sample_image(1, 3, "train", 77).save(tmp_path / "photos" / "red" / "moved.jpg", quality=90)
    check = zoo.check_labels(tmp_path / "photos", **TINY, out=tmp_path / "labels")
    mine = edited(check, tmp_path / "mine.csv", accepting("red/moved.jpg"))
    made = zoo.apply_suspects(tmp_path / "photos", mine, tmp_path / "table.csv")
    rows = rows_of(made.table)
    assert list(rows[0]) == ["path", "label"]
    assert {"path": "photos/red/moved.jpg", "label": "green"} in rows


def changing(**cells: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        rows[0].update({"accept": "yes", **cells})

    return change


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (accepting(), Refused, "write yes into the column accept"),
        (changing(accept="yse"), DataError, "Did you mean 'yes'"),
        (changing(suggested="gren"), Refused, "Did you mean 'green'"),
        (changing(file="train/red/none.jpg"), DataError, "about other data"),
        (changing(given="rare"), DataError, "the labels have changed since the check"),
        (changing(sha256="0" * 64), DataError, "about another picture"),
        (lambda rows: rows.append(dict(rows[0])), DataError, "again, after line 2"),
    ],
)
def test_a_table_of_suspects_that_does_not_fit_the_data_is_refused(
    change: Callable[[list[dict[str, str]]], None],
    error: type[Exception],
    says: str,
    check: zoo.LabelCheck,
    noisy: Path,
    tmp_path: Path,
) -> None:
    mine = edited(check, tmp_path / "mine.csv", change)
    with pytest.raises(error, match=re.escape(says)):
        zoo.apply_suspects(noisy, mine, tmp_path / "table.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv"]


def test_a_line_that_ends_early_names_the_columns_that_it_lacks(
    check: zoo.LabelCheck, noisy: Path, tmp_path: Path
) -> None:
    assert check.csv is not None
    cut = tmp_path / "cut.csv"
    cut.write_text(check.csv.read_text("utf-8").rstrip().rpartition(",")[0] + "\n", "utf-8")
    with pytest.raises(DataError, match=r"ends before the last columns of the header: \w+\.\nNext: put their cells"):
        zoo.apply_suspects(noisy, cut, tmp_path / "table.csv")


def test_a_table_is_not_written_over_a_file_nor_for_a_class_that_would_be_empty(
    check: zoo.LabelCheck, noisy: Path, shapes: Path, tmp_path: Path
) -> None:
    mine = edited(check, tmp_path / "mine.csv", accepting(EXCHANGED[0]))
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(Refused, match="overwrites nothing"):
        zoo.apply_suspects(noisy, mine, tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(Refused, match=r"Next: --out table\.txt\.csv"):
        zoo.apply_suspects(noisy, mine, tmp_path / "table.txt")
    with pytest.raises(DataError, match=r"is not a suspects\.csv"):
        (tmp_path / "other.csv").write_text("path,label\na.jpg,cat\n")
        zoo.apply_suspects(noisy, tmp_path / "other.csv", tmp_path / "table.csv")
    with pytest.raises(DataError, match="about other data"):
        zoo.apply_suspects(shapes, mine, tmp_path / "table.csv")


def test_images_in_an_archive_cannot_be_named_by_a_table(check: zoo.LabelCheck, noisy: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", noisy))
    mine = edited(check, tmp_path / "mine.csv", accepting(EXCHANGED[0]))
    with pytest.raises(Refused, match="inside an archive"):
        zoo.apply_suspects(archive, mine, tmp_path / "table.csv")


@pytest.mark.long
@pytest.mark.parametrize("own_val", [False, True])
def test_a_class_without_an_image_for_val_is_left_out_like_any_small_class(
    own_val: bool, shapes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    train = data / "train" if own_val else data
    shutil.copytree(shapes if own_val else shapes / "train", data)
    (train / "tulip").mkdir()
    sample_image(2, 3, "other", 0).save(train / "tulip" / "0.jpg")
    sample_image(1, 3, "train", 77).save(train / "red" / "moved.jpg", quality=90)
    found = zoo.check_labels(data, **TINY, out=tmp_path / "labels")
    assert found.left_out == (("tulip", 1),) and len(found.classes) == 3
    # What is judged can be applied as well.
    moved = (train / "red" / "moved.jpg").relative_to(data).as_posix()
    mine = edited(found, tmp_path / "mine.csv", accepting(moved))
    made = zoo.apply_suspects(data, mine, tmp_path / "table.csv")
    assert made.changes == ((moved, "red", "green"),)
    assert Counter(row["label"] for row in rows_of(made.table))["tulip"] == 1


def test_data_with_too_few_images_are_refused_before_any_backbone_runs(shapes: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("red", "green"):
            (tmp_path / split / name).mkdir(parents=True)
            shutil.copy(shapes / split / name / "0.jpg", tmp_path / split / name)
    with pytest.raises(DataError, match=r"of 2 classes, 0 have 5 images or more.*red 2, green 2|green 2, red 2"):
        zoo.check_labels(tmp_path, backbone="timm/test_resnet")
    for number in range(6):  # six copies are one picture
        shutil.copy(shapes / "train" / "red" / "0.jpg", tmp_path / "train" / "red" / f"copy{number}.jpg")
        shutil.copy(shapes / "train" / "green" / f"{number}.jpg", tmp_path / "train" / "green")
    with pytest.raises(DataError, match="1 has 5 different images or more"):
        zoo.check_labels(tmp_path, **TINY)


@pytest.fixture(scope="module")
def head_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return zoo.finetune(
        data=shapes,
        backbone="timm/test_resnet",
        weights="random",
        recipe="head_only",
        seed=3,
        out=tmp_path_factory.mktemp("head") / "run",
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which `noisy` has none."""
    root = tmp_path_factory.mktemp("others") / "data"
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate(("red", "green")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                sample_image(index, 3, f"others {split}", number).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def trained_run(others: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return zoo.finetune(
        data=others,
        backbone="timm/test_resnet",
        weights="random",
        recipe="full",
        epochs=1,
        out=tmp_path_factory.mktemp("trained") / "run",
    )


@pytest.mark.long
def test_a_run_that_trained_its_head_alone_lends_its_pretrained_backbone(
    head_run: zoo.Result, noisy: Path, tmp_path: Path
) -> None:
    by_run = zoo.check_labels(noisy, head_run.artefact)
    by_name = zoo.check_labels(noisy, "timm/test_resnet", weights="random", seed=3)
    assert by_run.suspects == by_name.suspects and by_run.backbone == by_name.backbone
    with pytest.raises(OptionError, match="a run brings its own weights"):
        zoo.check_labels(noisy, head_run.path, weights="random")
    shutil.copytree(head_run.artefact, tmp_path / "alone")
    with pytest.raises(Refused, match="--backbone timm/test_resnet"):
        zoo.check_labels(noisy, tmp_path / "alone")


def test_a_backbone_that_was_trained_on_these_images_is_refused_and_on_others_used(
    trained_run: zoo.Result, others: Path, noisy: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(noisy, mixed)
    seen = others / "train" / "red" / "0.jpg"
    shutil.copy(seen, mixed / "train" / "red" / "seen.jpg")
    with pytest.raises(Refused, match=r"on 1 of these .* images: its features know their labels"):
        zoo.check_labels(mixed, trained_run.path)
    assert zoo.check_labels(noisy, trained_run.path).weights == "file:model.safetensors"
    # The learning curve takes a run in the same way.
    with pytest.raises(Refused, match=r"on 1 of these .* images: its features know their labels"):
        zoo.learning_curve(mixed, str(trained_run.path))
    assert zoo.learning_curve(noisy, str(trained_run.path)).weights == "file:model.safetensors"


def test_a_trained_backbone_whose_images_are_gone_is_refused(
    trained_run: zoo.Result, noisy: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(trained_run.path, moved)
    plan = json.loads((moved / "plan.json").read_text("utf-8"))
    plan["data"]["path"] = str(tmp_path / "gone")
    (moved / "plan.json").write_text(json.dumps(plan), "utf-8")
    with pytest.raises(Refused, match="which images it saw is unknown"):
        zoo.check_labels(noisy, moved)


def test_a_run_whose_weights_file_changed_is_refused(head_run: zoo.Result, noisy: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(head_run.path, moved)
    plan = json.loads((moved / "plan.json").read_text("utf-8"))
    plan["weights"] |= {"kind": "file", "label": "file:w.pth", "path": str(tmp_path / "w.pth"), "digest": "0"}
    (moved / "plan.json").write_text(json.dumps(plan), "utf-8")
    with pytest.raises(WeightsError, match="is gone"):
        zoo.check_labels(noisy, moved)


@pytest.mark.long
def test_near_duplicates_under_two_labels_are_told(noisy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(noisy, data)
    shutil.copy(data / "train" / "red" / "3.jpg", data / "train" / "green" / "twin.jpg")
    check = zoo.check_labels(data, **TINY)
    assert any(
        {("train/red/3.jpg", "red"), ("train/green/twin.jpg", "green")} <= set(group) for group in check.conflicts
    )
