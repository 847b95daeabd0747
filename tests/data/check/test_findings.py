"""`zoo data check`: every fault injected into a data set has a finding of its own, and a clean set has none."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zoo
from PIL import ExifTags, Image
from tests.conftest import Zoo
from zoo.data.check.duplicates import fingerprint
from zoo.data.check.report import DataReport, Finding
from zoo.data.check.shortcut import find_shortcuts
from zoo.errors import DataError, OptionError

Fault = Callable[[Path], object]
CLASSES = ("ant", "bee")
IN_TRAIN, IN_VAL = 12, 6


def picture(number: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A coarse pattern of its own for every number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures that have nothing in common but their size."""
    root = tmp_path_factory.mktemp("check") / "clean"
    number = 0
    for split, count in (("train", IN_TRAIN), ("val", IN_VAL)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture(number).save(root / split / name / f"{index}.jpg", quality=90)
                number += 1
    return root


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def unsplit(data: Path) -> Path:
    shutil.rmtree(data / "val")
    for name in CLASSES:
        (data / "train" / name).rename(data / name)
    (data / "train").rmdir()
    return data


def finding_of(report: DataReport, code: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return finding


def files_of(finding: Finding) -> set[str]:
    return {file for case in finding.cases for file in case.files}


def test_a_clean_folder_has_no_findings(clean: Path, zoo_inside: Zoo) -> None:
    report = zoo.check_data(clean)
    assert report.findings == () and report.passed
    assert report.images == {"train": (IN_TRAIN,) * 2, "val": (IN_VAL,) * 2} and report.classes == CLASSES
    done = zoo_inside("data", "check", clean)
    assert done.returncode == 0 and done.stdout.startswith("36 images, 2 classes, 2 splits: nothing found\n")


def save(data: Path, where: str, image: Image.Image, **options: object) -> None:
    image.save(data / where, **options)  # type: ignore[arg-type]


def save_in(folder: Path) -> None:
    folder.mkdir(parents=True)
    save(folder, "x.png", picture(1))


def copy(data: Path, one: str, other: str) -> None:
    shutil.copy(data / one, data / other)


def save_again(data: Path, one: str, other: str, **options: object) -> None:
    """The same picture in another file."""
    with Image.open(data / one) as image:
        image.save(data / other, **options)  # type: ignore[arg-type]


def rotated(data: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save(data, "train/ant/new.jpg", picture(99), exif=exif)


def cut(data: Path, where: str) -> None:
    content = (data / where).read_bytes()
    (data / where).write_bytes(content[: len(content) // 2])


def small_pictures_of(data: Path, name: str, *, size: tuple[int, int]) -> None:
    for split in ("train", "val"):
        for number, file in enumerate(sorted((data / split / name).iterdir())):
            picture(1000 + 100 * (split == "val") + number, size).save(file)


def deep(data: Path, *, below: int = 65536) -> None:
    values = np.random.default_rng(5).integers(0, below, (8, 8), np.uint16).repeat(8, 0).repeat(8, 1)
    save(data, "train/ant/new.png", Image.fromarray(values))


def only_ants_to_test(data: Path) -> None:
    (data / "test" / "ant").mkdir(parents=True)
    for number in range(5):
        picture(4000 + number).save(data / "test" / "ant" / f"{number}.jpg")


def few(data: Path) -> None:
    for file in sorted((data / "val" / "bee").iterdir())[2:]:
        file.unlink()


def many(data: Path) -> None:
    for number in range(130):
        picture(2000 + number).save(data / "train" / "ant" / f"more{number}.jpg")


def like_ant(data: Path, name: str) -> None:
    for number, split in enumerate(["train"] * 6 + ["val"] * 6):
        (data / split / name).mkdir(exist_ok=True)
        picture(5000 + number).save(data / split / name / f"{number}.jpg")


FAULTS: list[tuple[str, bool, Fault, set[str]]] = [
    ("unreadable", True, lambda data: cut(data, "train/ant/3.jpg"), {"train/ant/3.jpg"}),
    ("unreadable", True, lambda data: (data / "val/bee/new.png").write_bytes(b""), {"val/bee/new.png"}),
    ("unreadable", True, lambda data: (data / "val/bee/new.png").write_text("no image"), {"val/bee/new.png"}),
    (
        "leak",
        True,
        lambda data: copy(data, "train/ant/0.jpg", "val/ant/new.jpg"),
        {"train/ant/0.jpg", "val/ant/new.jpg"},
    ),
    (
        "leak",
        True,
        lambda data: save_again(data, "train/ant/0.jpg", "val/ant/x.png"),
        {"train/ant/0.jpg", "val/ant/x.png"},
    ),
    ("two_labels", True, lambda data: copy(data, "val/ant/0.jpg", "val/bee/x.jpg"), {"val/ant/0.jpg", "val/bee/x.jpg"}),
    ("class_without_images", True, lambda data: (data / "train/wasp").mkdir(), set()),
    ("class_without_images", True, lambda data: [file.unlink() for file in (data / "val/bee").iterdir()], set()),
    ("class_without_images", True, lambda data: (data / "val/bee").rename(data / "val/wasp"), set()),
    ("class_without_test_images", False, only_ants_to_test, set()),
    ("shortcut", True, lambda data: small_pictures_of(data, "bee", size=(60, 50)), set()),
    ("shortcut", True, lambda data: small_pictures_of(data, "bee", size=(80, 96)), set()),
    (
        "duplicates",
        False,
        lambda data: copy(data, "val/ant/0.jpg", "val/ant/x.jpg"),
        {"val/ant/0.jpg", "val/ant/x.jpg"},
    ),
    (
        "near_leak",
        False,
        lambda data: save_again(data, "train/bee/0.jpg", "val/bee/x.jpg", quality=40),
        {"train/bee/0.jpg", "val/bee/x.jpg"},
    ),
    (
        "near_duplicates",
        False,
        lambda data: save(data, "val/bee/x.jpg", picture(30).resize((48, 40))),
        {"val/bee/0.jpg", "val/bee/x.jpg"},
    ),
    ("wrong_extension", False, lambda data: save(data, "train/ant/new.gif", picture(99)), {"train/ant/new.gif"}),
    (
        "wrong_extension",
        False,
        lambda data: save(data, "train/ant/new.jpg", picture(99), format="PNG"),
        {"train/ant/new.jpg"},
    ),
    ("not_used", False, lambda data: (data / "train/ant/notes.txt").write_text("seen"), {"train/ant/notes.txt"}),
    ("not_used", False, lambda data: save(data, "train/new.jpg", picture(99)), {"train/new.jpg"}),
    ("hidden_images", False, lambda data: save(data, "train/ant/.new.jpg", picture(99)), {"train/ant/.new.jpg"}),
    ("similar_names", False, lambda data: like_ant(data, "Ant"), set()),
    ("similar_names", False, lambda data: like_ant(data, "ant "), set()),
    ("cmyk", False, lambda data: save(data, "train/ant/new.jpg", picture(99).convert("CMYK")), {"train/ant/new.jpg"}),
    ("alpha", False, lambda data: save(data, "train/ant/new.png", picture(99).convert("RGBA")), {"train/ant/new.png"}),
    ("deep", False, deep, {"train/ant/new.png"}),
    ("lost_values", True, lambda data: deep(data, below=256), {"train/ant/new.png"}),
    ("few_levels", False, lambda data: deep(data, below=4096), {"train/ant/new.png"}),
    ("palette", False, lambda data: save(data, "train/ant/new.png", picture(99).convert("P")), {"train/ant/new.png"}),
    ("rotated", False, rotated, {"train/ant/new.jpg"}),
    ("tiny", False, lambda data: save(data, "train/ant/new.png", picture(99, (31, 200))), {"train/ant/new.png"}),
    (
        "huge",
        False,
        lambda data: save(data, "train/ant/new.png", Image.new("L", (8000, 6300)), compress_level=1),
        {"train/ant/new.png"},
    ),
    ("few_images", False, few, set()),
    ("imbalance", False, many, set()),
]


@pytest.mark.parametrize(("code", "is_fault", "inject", "files"), FAULTS)
def test_every_fault_is_found(
    data: Path, zoo_inside: Zoo, code: str, is_fault: bool, inject: Fault, files: set[str]
) -> None:
    inject(data)
    done = zoo_inside("data", "check", data, "--json")
    report = json.loads(done.stdout)
    findings = [finding for finding in report["findings"] if finding["code"] == code]
    assert findings and done.returncode == (3 if is_fault else 0), report["findings"]
    assert all(finding["severity"] == ("fault" if is_fault else "warning") for finding in findings)
    assert {file for finding in findings for case in finding["cases"] for file in case["files"]} == files
    assert report["passed"] is not is_fault
    # Nothing else but what the fault causes besides.
    deep_too = {"lost_values": {"deep"}, "few_levels": {"deep"}}
    side_effects = {"class_without_images": {"not_used"}, **deep_too}.get(code, set())
    assert {finding["code"] for finding in report["findings"]} <= {code, *side_effects}


def test_the_faults_cover_every_finding_and_the_documentation_lists_them_all() -> None:
    import inspect
    import re

    from zoo.data.check import file_findings, findings

    source = inspect.getsource(findings) + inspect.getsource(file_findings)
    codes = set(re.findall(r'code="(\w+)"', source)) | set(re.findall(r'^        \("(\w+)", ', source, re.MULTILINE))
    codes |= {"class_without_images", "class_without_test_images", "lost_values", "few_levels"}
    assert codes == {code for code, *_ in FAULTS}
    documented = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)`", documented, re.MULTILINE)) == codes


def test_one_unreadable_file_in_a_hundred_is_a_warning(data: Path) -> None:
    for number in range(70):
        picture(3000 + number).save(data / "train" / CLASSES[number % 2] / f"more{number}.jpg")
    cut(data, "train/ant/3.jpg")
    report = zoo.check_data(data)
    finding = finding_of(report, "unreadable")
    assert report.passed and finding.severity == "warning" and "truncated" in finding.cases[0].detail
    assert report.images["train"] == (IN_TRAIN + 34, IN_TRAIN + 35) and report.files == 106


def test_copies_in_a_folder_without_val_leak_where_finetune_draws_them_apart(data: Path) -> None:
    unsplit(data)
    for number in range(4):
        copy(data, f"ant/{number}.jpg", f"ant/copy{number}.jpg")
    dealt = {}
    for seed in range(6):
        report = zoo.check_data(data, seed=seed)
        assert f"drawn from train with seed {seed}" in report.split_note
        leaks = [file for finding in report.findings if finding.code == "leak" for file in files_of(finding)]
        repeated = [file for finding in report.findings if finding.code == "duplicates" for file in files_of(finding)]
        assert sorted(leaks + repeated) == sorted(f"ant/{kind}{n}.jpg" for kind in ("", "copy") for n in range(4))
        if leaks:
            assert "keep one copy" in finding_of(report, "leak").next_step
        if repeated:
            assert "with another seed" in finding_of(report, "duplicates").sentence
        dealt[len(leaks) // 2] = seed
    assert len(dealt) > 1
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", data=data, seed=dealt[max(dealt)], tune=False)
    assert any(warning.startswith(f"{max(dealt)} pictures are in more than one split") for warning in plan.warnings)


def test_a_class_of_one_picture_leaves_nothing_to_draw(data: Path) -> None:
    unsplit(data)
    for file in sorted((data / "bee").iterdir())[1:]:
        file.unlink()
    report = zoo.check_data(data)
    finding = finding_of(report, "class_without_images")
    assert finding.classes == ("bee",) and "at least 2" in finding.sentence and not report.passed


def test_the_plan_warns_of_copies_and_goes_on(data: Path, zoo_inside: Zoo) -> None:
    usual = ("--backbone", "timm/test_resnet", "--weights", "random", "--no-tune", "--data", data)
    warnings = json.loads(zoo_inside("plan", *usual, "--json").stdout)["warnings"]
    assert not [warning for warning in warnings if "zoo data check" in warning]
    copy(data, "train/ant/0.jpg", "val/ant/x.jpg")
    copy(data, "train/ant/0.jpg", "train/bee/x.jpg")
    done = zoo_inside("plan", *usual, "--json")
    leak, conflict, *_ = json.loads(done.stdout)["warnings"]
    assert done.returncode == 0
    assert leak == (
        "1 picture is in more than one split, so scores are too good: train/ant/0.jpg (train) and "
        f"val/ant/x.jpg (val). Next: keep one copy of each, which zoo data check {data} lists; or --folds 5, which "
        "keeps copies together."
    )
    assert "under more than one label" in conflict and "train/ant/0.jpg and train/bee/x.jpg" in conflict


def test_ten_files_are_shown_and_verbose_shows_all(data: Path, zoo_inside: Zoo) -> None:
    for number in range(12):
        (data / "train" / f"{number:02}.txt").write_text("no image")
    done = zoo_inside("data", "check", data)
    assert done.returncode == 0 and "09.txt" in done.stdout and "10.txt" not in done.stdout
    assert "and 2 more" in done.stdout and "36 images, 2 classes, 2 splits: 1 warning" in done.stdout
    assert "11.txt" in zoo_inside("-v", "data", "check", data).stdout
    assert len(json.loads(zoo_inside("data", "check", data, "--json").stdout)["findings"][0]["cases"]) == 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no folder"),
        (lambda root: root.write_text("a file"), "is a file"),
        (lambda root: root.mkdir(), "no images below"),
        (lambda root: save_in(root / "val" / "a"), "no train/"),
        (lambda root: save((root / "a"), "x.png", picture(1)) if (root / "a").mkdir(parents=True) else 0, "no images"),
    ],
)
def test_what_is_no_data_set_is_one_clear_error(
    tmp_path: Path, zoo_inside: Zoo, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "data")
    if message == "no images":
        save(tmp_path / "data" / "a", "x.png", picture(1))
        message = "only the class 'a'"
    done = zoo_inside("data", "check", "data")
    assert done.returncode == 1 and message in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
    with pytest.raises(DataError):
        zoo.check_data(tmp_path / "data")


def test_a_name_nearly_right_is_suggested(data: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("data", "check", "dat")
    assert done.returncode == 1 and "Did you mean 'data'?" in done.stderr
    done = zoo_inside("data", "chekc", data)
    assert done.returncode == 2 and "No such command 'chekc'" in done.stderr
    assert "check" in zoo_inside("data").stderr + zoo_inside("data", "--help").stdout
    with pytest.raises(OptionError, match="workers must be at least 1"):
        zoo.check_data(data, workers=0)


def test_pipes_and_dangling_links_are_not_waited_for(data: Path) -> None:
    os.mkfifo(data / "train" / "ant" / "pipe.jpg")
    os.mkfifo(data / "pipe")
    (data / "train" / "ant" / "gone.jpg").symlink_to("nowhere.jpg")
    report = zoo.check_data(data)
    assert files_of(finding_of(report, "not_used")) == {"train/ant/pipe.jpg", "pipe"}
    assert files_of(finding_of(report, "unreadable")) == {"train/ant/gone.jpg"}


def test_copies_under_other_labels_and_of_other_sizes_are_told_apart(data: Path) -> None:
    """Near-duplicates under two labels are a warning that says so; identical pixels under two labels are a fault."""
    save(data, "val/bee/half.png", picture(0).resize((48, 40)))
    finding = finding_of(zoo.check_data(data), "near_leak")
    assert files_of(finding) == {"train/ant/0.jpg", "val/bee/half.png"}
    assert finding.severity == "warning" and finding.cases[0].detail.endswith("under ant and bee")
    save_again(data, "train/ant/0.jpg", "val/bee/same.png")
    report = zoo.check_data(data)
    same = {"train/ant/0.jpg", "val/bee/same.png"}
    assert files_of(finding_of(report, "leak")) == files_of(finding_of(report, "two_labels")) == same
    assert finding_of(report, "two_labels").classes == CLASSES


def test_checking_does_without_torch(clean: Path) -> None:
    program = (
        "import sys, zoo\n"
        f"assert zoo.check_data({str(clean)!r}).passed\n"
        "print({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_number_of_threads_changes_nothing(data: Path) -> None:
    copy(data, "train/ant/0.jpg", "val/ant/x.jpg")
    cut(data, "train/bee/3.jpg")
    assert zoo.check_data(data, workers=1) == zoo.check_data(data, workers=5)


def test_flat_pictures_have_no_fingerprint() -> None:
    assert fingerprint(Image.new("RGB", (50, 50), "red")) is None and fingerprint(picture(0)) is not None


def test_size_is_a_shortcut_only_where_it_tells_the_label() -> None:
    generator = random.Random(0)

    def sizes(count: int, low: int, high: int) -> list[tuple[int, int]]:
        return [(generator.randint(low, high), generator.randint(low, high)) for _ in range(count)]

    labels = [0] * 100 + [1] * 100
    assert find_shortcuts(sizes(200, 100, 600), labels, 2) == []
    assert find_shortcuts([(500, 375)] * 200, labels, 2) == []
    (only,) = find_shortcuts(sizes(300, 300, 600) + sizes(20, 1000, 1600), [0] * 150 + [1] * 150 + [2] * 20, 3)
    assert only.label == 2 and only.cue == "size" and only.accuracy > 0.9
    # Four pictures a class may differ by chance.
    assert find_shortcuts([(100, 100)] * 4 + [(300, 300)] * 4, [0] * 4 + [1] * 4, 2) == []


def test_chance_is_rarely_taken_for_a_shortcut() -> None:
    generator = np.random.default_rng(1)
    flagged = 0
    for _ in range(300):
        sizes = [(int(width), int(height)) for width, height in generator.integers(100, 600, (60, 2))]
        flagged += bool(find_shortcuts(sizes, generator.integers(0, 3, 60).tolist(), 3))
    assert flagged <= 1


@pytest.mark.data
@pytest.mark.long
def test_the_placeholder_among_the_ants_is_named(real_data: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("data", "check", real_data / "data" / "hymenoptera")
    assert done.returncode == 0 and "397 images, 2 classes, 2 splits: 1 warning" in done.stdout
    assert "wrong_extension" in done.stdout and "train/ants/imageNotFound.gif" in done.stdout


@pytest.mark.long
@pytest.mark.data
def test_flowers_have_no_faults(real_data: Path) -> None:
    report = zoo.check_data(real_data / "data" / "flowers5")
    assert report.passed and [finding.code for finding in report.findings] == ["near_duplicates"]


def test_one_image_has_a_sentence_in_the_singular(data: Path) -> None:
    copy(data, "train/ant/0.jpg", "train/ant/copy.jpg")
    save(data, "train/ant/new.png", picture(99).convert("RGBA"))
    report = zoo.check_data(data)
    assert "1 image has transparency: composited on white." in finding_of(report, "alpha").sentence
    assert "1 image appears more than once in one split, with identical pixels, and so counts more" in (
        finding_of(report, "duplicates").sentence
    )
    for number in range(1, 3):
        copy(data, f"train/ant/{number}.jpg", f"train/ant/copy{number}.jpg")
    assert "3 images appear more than once in one split, with identical pixels, and so count more" in (
        finding_of(zoo.check_data(data), "duplicates").sentence
    )
