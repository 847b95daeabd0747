"""Tables as people have them: what Excel, pandas and Windows write is read, or refused with a next step that works.

Every test of a message does what its next step says, and reads the table then.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import zoo
from zoo.data.dataset import Dataset
from zoo.data.sources import find_data, read_dataset
from zoo.registry.registry import default_registry

ROWS = [(f"images/{label}{number}.jpg", label) for label in ("ants", "bees") for number in (1, 2, 3)]


def read(path: Path | str) -> Dataset:
    return read_dataset(find_data(Path(path), default_registry(), lambda event: None), seed=0)


def used(path: Path | str) -> dict[str, str]:
    """Name -> label of everything that a table lists."""
    dataset = read(path)
    return {file.relative: dataset.classes[file.label] for files in dataset.splits.values() for file in files}


def refusal(path: Path | str) -> str:
    with pytest.raises(zoo.DataError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 4 and "\nNext: " in message
    return message


def follow(message: str) -> Path:
    """Run the command that a message offers, and return the file that it wrote."""
    (line,) = [line for line in message.splitlines() if line.startswith("python -c ")]
    _, *arguments = shlex.split(line)
    subprocess.run([sys.executable, *arguments], check=True, timeout=60)
    return Path(arguments[-1])


def make_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def text_of(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ("path", "label"), sign: str = ",") -> str:
    return "".join(sign.join(row) + "\r\n" for row in (header, *rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of `ROWS`."""
    make_files(tmp_path, [name for name, _ in ROWS])
    return tmp_path


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-16-be-mark", "utf-32", "utf-8-sig"])
def test_a_table_in_unicode_is_read_whatever_its_form(encoding: str, tmp_path: Path) -> None:
    """Excel's "Unicode text" is UTF-16 with tabs."""
    make_files(tmp_path, ["café/1.jpg", "café/2.jpg", "дом/1.jpg", "дом/2.jpg"])
    text = text_of([(f"{name}/{n}.jpg", name) for name in ("café", "дом") for n in (1, 2)], sign="\t")
    mark = "\ufeff" if encoding.endswith("-mark") else ""
    (tmp_path / "t.csv").write_bytes((mark + text).encode(encoding.removesuffix("-mark")))
    dataset = read(tmp_path / "t.csv")
    assert dataset.classes == ("café", "дом")
    assert any("UTF-16" in note or "UTF-32" in note for note in dataset.notes) is (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("encoding", "label", "named"),
    [
        ("cp1252", "café", "cp1252"),
        ("cp1252", "Größe", "cp1252"),
        ("gb18030", "小狗", "gb18030"),
        ("shift_jis", "ねこ", "shift_jis"),
        ("cp1251", "кошка", "cp1251"),
    ],
)
def test_another_encoding_is_named_with_what_it_reads_and_the_command_converts_it(
    encoding: str, label: str, named: str, folder: Path
) -> None:
    rows = [(name, label if each == "ants" else each) for name, each in ROWS]
    (folder / "t.csv").write_bytes(text_of(rows).encode(encoding))
    message = refusal(folder / "t.csv")
    assert "is not UTF-8: byte 0x" in message and "in line 2." in message
    assert f"as {named} (" in message and f"images/ants1.jpg,{label}" in message
    assert set(used(follow(message)).values()) == {label, "bees"}


def test_a_line_that_is_utf_8_by_accident_does_not_make_a_table_a_mixed_one(folder: Path) -> None:
    rows = [(name, "猫" if label == "ants" else "狗") for name, label in ROWS]  # 猫 in GBK is è in UTF-8
    (folder / "t.csv").write_bytes(text_of(rows).encode("gb18030"))
    assert set(used(follow(refusal(folder / "t.csv"))).values()) == {"猫", "狗"}


@pytest.mark.parametrize("encoding", ["mac_roman", "cp850", "cp1250"])
def test_files_with_these_names_on_disk_decide_between_encodings(encoding: str, tmp_path: Path) -> None:
    names = [f"{label}{number}.jpg" for label in ("Käfer", "Hase") for number in (1, 2)]
    make_files(tmp_path, names)
    (tmp_path / "my table's.csv").write_bytes(text_of([(name, name[:4]) for name in names]).encode(encoding))
    message = refusal(tmp_path / "my table's.csv")
    assert "Käfer1.jpg,Käfe" in message and message.count("; as ") == 0
    assert set(used(follow(message))) == set(names)


def test_a_table_of_mixed_encodings_is_never_converted_as_a_whole(folder: Path) -> None:
    lines = (
        text_of(ROWS[:-1]).encode()
        + "images/bees3.jpg,cafés\r\n".encode()
        + "images/ants1.jpg,café\r\n".encode("cp1252")
    )
    (folder / "t.csv").write_bytes(lines)
    message = refusal(folder / "t.csv")
    assert "in line 8." in message and "line 7 is" in message and "python -c" not in message
    *kept, _ = (folder / "t.csv").read_bytes().splitlines(keepends=True)
    (folder / "t.csv").write_bytes(
        b"".join(kept) + "images/ants1.jpg,café\r\n".encode()
    )  # "write line 8 again in UTF-8"
    with pytest.raises(zoo.DataError, match="under two labels"):  # it is read
        read(folder / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_what_excel_puts_above_the_header_is_understood_in_utf_16_too(encoding: str, folder: Path) -> None:
    (folder / "t.csv").write_bytes(f"\r\nsep=;\r\n{text_of(ROWS, sign=';')}".encode(encoding))
    assert used(folder / "t.csv") == dict(ROWS)


def test_a_table_that_is_cut_off_or_no_text_is_refused(folder: Path) -> None:
    content = text_of(ROWS).encode("utf-16")
    (folder / "t.csv").write_bytes(content[:-1])
    assert "was cut off" in refusal(folder / "t.csv")
    (folder / "t.csv").write_bytes(b"path,label\nimages/ants1.jpg,\0\0\n")
    assert "is no text: it has bytes of zero, the first at 28" in refusal(folder / "t.csv")
    (folder / "t.csv").write_bytes(text_of(ROWS).encode())  # "save it again, as UTF-8"
    assert used(folder / "t.csv") == dict(ROWS)


# What programs put around the rows


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line", ["sep=;", "sep=\t", "SEP=|", '"sep=,"', "sep=\\t", "sep=~"])
def test_the_separator_that_excel_states_is_honoured(line: str, mark: str, folder: Path) -> None:
    sign = line.replace("\\t", "\t").strip('"')[-1]
    (folder / "t.csv").write_text(f"{mark}{line}\r\n{text_of(ROWS, sign=sign)}", encoding="utf-8", newline="")
    assert used(folder / "t.csv") == dict(ROWS)
    (folder / "t.csv").write_text(f"{mark}{line}\r\n{text_of([*ROWS, ('x.jpg', '')], sign=sign)}", encoding="utf-8")
    assert refusal(folder / "t.csv").startswith("Line 9 of ")  # counted from the first line of the file


@pytest.mark.parametrize(
    "text",
    [
        text_of([(*row, "", "") for row in ROWS], header=("path", "label", "", "")),
        text_of(ROWS, header=("path", "label", "", "")),
        text_of([(*row, "", "") for row in ROWS]),
        "\r\n\r\n" + text_of(ROWS).replace("images/bees1", "\r\n\r\nimages/bees1") + "\r\n,\r\n",
        text_of([(f'"{name}"', f'" {label} "') for name, label in ROWS], header=('"path"', '" label"'), sign="\t"),
        text_of(ROWS, header=(" Path ", "LABEL")),
        text_of([(str(at), *row) for at, row in enumerate(ROWS)], header=("", "path", "label")),  # pandas' to_csv
        text_of(ROWS, header=("file_name", "label")),  # metadata.csv of Hugging Face's ImageFolder
    ],
)
def test_empty_columns_blank_lines_quotes_and_capitals_change_nothing(text: str, folder: Path) -> None:
    (folder / "t.csv").write_text(text, encoding="utf-8", newline="")
    assert used(folder / "t.csv") == dict(ROWS)


def test_a_column_without_a_name_is_counted_among_those_that_are_not_used(folder: Path) -> None:
    rows = [(str(at), *row, "x") for at, row in enumerate(ROWS)]
    (folder / "t.csv").write_text(text_of(rows, header=("", "path", "label", "by")), encoding="utf-8")
    assert read(folder / "t.csv").notes[0] == "columns not used: by, 1 without a name"


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        (text_of([*ROWS, ("path", "label"), *ROWS]), "Line 8 of .* repeats the header", 8),
        (text_of([*ROWS, ('"images/bees9.jpg', "bees")]), "unexpected end of data, from line 8 on", 8),
        (text_of([*ROWS, ("images/bees9.jpg", "bees", "brown")]), "Line 8 of .* has 3 cells", 8),
        (text_of([*ROWS, ("images/bees9.jpg", "")]), "Line 8 of .* has no label", 8),
    ],
)
def test_a_faulty_line_is_named_and_without_it_the_table_is_read(text: str, said: str, line: int, folder: Path) -> None:
    (folder / "t.csv").write_text(text, encoding="utf-8", newline="")
    assert re.search(said, refusal(folder / "t.csv"))
    lines = text.splitlines(keepends=True)
    (folder / "t.csv").write_text("".join(lines[: line - 1]), encoding="utf-8", newline="")
    assert used(folder / "t.csv") == dict(ROWS)


@pytest.mark.parametrize("text", ["\ufeff", "\n\n\n", ",,,\n", "sep=;\n"])
def test_a_table_without_a_header_line_is_refused(text: str, folder: Path) -> None:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    assert "has no header." in refusal(folder / "t.csv")
    (folder / "t.csv").write_text("path,label\n" + text_of(ROWS).partition("\n")[2], encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


# Headers


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("filename,class", ","),
        ("file,label", ","),
        ("image,label", ","),
        ("Image Path;Class Name", ";"),
        ("img\tcategory", "\t"),
        ("path,labl", ","),
        ("id,species", ","),
        ("lable,pahts", ","),  # swapped on purpose: names decide, not places
    ],
)
def test_the_header_that_a_message_offers_is_the_right_one(header: str, sign: str, folder: Path) -> None:
    rows = [row[::-1] for row in ROWS] if header.startswith("lab") else ROWS
    (folder / "t.csv").write_text(text_of(rows, header=header.split(sign), sign=sign), encoding="utf-8")
    message = refusal(folder / "t.csv")
    assert "Did you mean " in message
    offered = message.rpartition("with the header ")[2]
    (folder / "t.csv").write_text(text_of(rows, header=offered.split(sign), sign=sign), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


@pytest.mark.parametrize(
    "rows", [ROWS, [row[::-1] for row in ROWS], [(*row, "train" if "1" in row[0] else "val") for row in ROWS]]
)
def test_a_table_without_names_of_columns_gets_the_line_to_put_above(rows: list[tuple[str, ...]], folder: Path) -> None:
    (folder / "t.csv").write_text(text_of(rows[1:], header=rows[0]), encoding="utf-8")
    message = refusal(folder / "t.csv")
    above = message.rpartition("put a header above it: ")[2]
    (folder / "t.csv").write_text(text_of(rows, header=above.split(",")), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


def test_a_column_that_is_there_in_two_spellings_is_refused(folder: Path) -> None:
    rows = [(*row, row[1]) for row in ROWS]
    (folder / "t.csv").write_text(text_of(rows, header=("path", "Label", "LABEL")), encoding="utf-8")
    assert "the column 'label' more than once, as 'Label' and as 'LABEL'" in refusal(folder / "t.csv")
    (folder / "t.csv").write_text(text_of(rows, header=("path", "label", "LABEL")), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


@pytest.mark.parametrize("name", ["set", "Subset", "spilt"])
def test_splits_in_a_column_of_another_name_are_not_passed_over(name: str, folder: Path) -> None:
    """Else the user's test images are trained on."""
    rows = [(*row, "Train" if "1" in row[0] else "test" if "2" in row[0] else "val") for row in ROWS]
    (folder / "t.csv").write_text(text_of(rows, header=("path", "label", name)), encoding="utf-8")
    assert f"The column {name!r} of " in refusal(folder / "t.csv")
    (folder / "t.csv").write_text(text_of(rows, header=("path", "label", "split")), encoding="utf-8")
    assert read(folder / "t.csv").counts() == {"train": [1, 1], "val": [1, 1], "test": [1, 1]}
    others = [(*row, "train" if "1" in row[0] else "street") for row in ROWS]  # a column that holds no splits
    (folder / "t.csv").write_text(text_of(others, header=("path", "label", "near")), encoding="utf-8")
    assert read(folder / "t.csv").notes[0] == "columns not used: near"


# Paths


def test_backslashes_are_read_as_slashes_where_the_file_is_not_there_as_it_stands(folder: Path) -> None:
    rows = [(name.replace("/", "\\"), label) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)
    assert "backslashes read as slashes in 6 paths" in read(folder / "t.csv").notes
    (folder / "images\\ants1.jpg").touch()  # on POSIX a backslash may be part of a name
    assert set(used(folder / "t.csv")) == {"images\\ants1.jpg", *(name for name, _ in ROWS[1:])}
    (folder / "images\\ants1.jpg").unlink()
    (folder / "t.csv").write_text(text_of([*rows, ROWS[0]]), encoding="utf-8")
    assert "images/ants1.jpg is listed twice" in refusal(folder / "t.csv")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("C:\\Users\\Ann\\photos\\", "absolute paths of a Windows machine"),
        ("\\\\server\\share\\", "absolute paths of a Windows machine"),
        ("D:/photos/", "absolute paths of a Windows machine"),
        ("/kaggle/input/photos/", "There is no folder "),
        ("photos/", "There is no folder "),
    ],
)
def test_the_beginning_of_a_path_of_another_machine_is_named_and_removed(start: str, said: str, folder: Path) -> None:
    sign = "\\" if "\\" in start else "/"
    rows = [(start + name.replace("/", sign), label) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    message = refusal(folder / "t.csv")
    cut = message.partition("Next: remove ")[2].partition(" from the beginning of these paths")[0]
    assert said in message and cut == start
    (folder / "t.csv").write_text(text_of([(name.removeprefix(cut), label) for name, label in rows]), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


@pytest.mark.parametrize(("before", "after"), [("images/", ""), ("", ".jpg")])
def test_what_is_to_be_put_before_or_after_the_paths_is_named(before: str, after: str, folder: Path) -> None:
    """Tables of Kaggle competitions have an id for a path."""
    rows = [(name.removeprefix(before).removesuffix(after or "-"), label) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    message = refusal(folder / "t.csv")
    assert f"Next: write {before or after} {'before' if before else 'at the end of'} these paths" in message
    rows = [(before + name + after, label) for name, label in rows]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert used(folder / "t.csv") == dict(ROWS)


def test_a_change_that_would_find_only_some_of_the_files_is_not_offered(folder: Path) -> None:
    rows = [(f"/data/{name}", label) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of([*rows, ("/data/images/bees9.jpg", "bees")]), encoding="utf-8")
    message = refusal(folder / "t.csv")
    assert "7 of the 7 files" in message and "Next: correct the paths" in message and "remove /data" not in message


def test_a_name_in_other_capitals_and_an_address_are_said(folder: Path) -> None:
    (folder / "t.csv").write_text(text_of([*ROWS[1:], ("images/ANTS1.JPG", "ants")]), encoding="utf-8")
    assert "Did you mean 'images/ants1.jpg'?" in refusal(folder / "t.csv")
    (folder / "t.csv").write_text(text_of([("https://a.example/1.jpg", "ants"), *ROWS]), encoding="utf-8")
    assert "These are addresses; zoo reads files" in refusal(folder / "t.csv")
    (folder / "t.csv").write_text(text_of([("x" * 300 + ".jpg", "ants"), *ROWS]), encoding="utf-8")
    assert "1 of the 7 files" in refusal(folder / "t.csv")
    make_files(folder, ["~old.jpg"])
    (folder / "t.csv").write_text(text_of([("~old.jpg", "ants"), *ROWS]), encoding="utf-8")
    assert "~old.jpg" in used(folder / "t.csv")


@pytest.mark.parametrize(("of_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_unicode_form(of_table: str, on_disk: str, tmp_path: Path) -> None:
    """Names from macOS are decomposed, names that people type are composed."""
    names = [f"{label}/ä{n}.jpg" for label in ("café", "crème", "dog") for n in (1, 2)]
    make_files(tmp_path, [unicodedata.normalize(on_disk, name) for name in names])
    rows = [(unicodedata.normalize(of_table, name), name.split("/")[0]) for name in names]
    (tmp_path / "t.csv").write_text(text_of(rows), encoding="utf-8")
    dataset = read(tmp_path / "t.csv")
    assert "6 file names found in another Unicode form (NFC, NFD)" in dataset.notes
    assert set(used(tmp_path / "t.csv")) == {unicodedata.normalize(on_disk, name) for name in names}
    rows.append((unicodedata.normalize(on_disk, names[0]), "café"))
    (tmp_path / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert "is listed twice" in refusal(tmp_path / "t.csv")


def test_a_file_that_is_there_as_it_stands_is_taken_and_a_choice_of_two_is_none(tmp_path: Path) -> None:
    names = ["\u1e69.jpg", "s\u0323\u0307.jpg"]  # composed, and decomposed; a third form has the dots in another order
    make_files(tmp_path, [*names, "a1.jpg", "a2.jpg"])
    rows = [*((name, "x") for name in names), ("a1.jpg", "a"), ("a2.jpg", "a")]
    (tmp_path / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert set(names) < set(used(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text(text_of([("s\u0307\u0323.jpg", "x"), *rows[2:]]), encoding="utf-8")
    assert "1 of the 3 files" in refusal(tmp_path / "t.csv")


# Labels


@pytest.mark.parametrize(("one", "other"), [("0", "0.0"), ("1.0", "1"), ("-1", "-1.")])
def test_a_whole_number_and_the_same_with_decimals_are_not_two_classes(one: str, other: str, folder: Path) -> None:
    """pandas makes decimals of a column in which one cell was empty."""
    rows = [(name, "7" if label == "bees" else one if "1" in name else other) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    message = refusal(folder / "t.csv")
    written = message.partition("Next: write ")[2].partition(" in both")[0]
    assert f"has the label {other}, line 2 has {one}" in message
    rows = [(name, written if label in (one, other) else label) for name, label in rows]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert set(used(folder / "t.csv").values()) == {written, "7"}


@pytest.mark.parametrize("labels", [("0.0", "1.0"), ("007", "7"), ("1.5", "1"), ("[other]", "(none)")])
def test_labels_that_are_no_such_pair_stay_as_they_are(labels: tuple[str, str], folder: Path) -> None:
    rows = [(name, labels[label == "bees"]) for name, label in ROWS]
    (folder / "t.csv").write_text(text_of(rows), encoding="utf-8")
    assert set(used(folder / "t.csv").values()) == set(labels)


@pytest.mark.parametrize("label", ['["ants", "bees"]', "['ants']", '{"name": "ants"}'])
def test_a_list_as_a_label_is_refused(label: str, folder: Path) -> None:
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *ROWS[1:], (ROWS[0][0], label)])
    message = refusal(folder / "t.csv")
    assert "Line 7 of " in message and "An image has one class here." in message
    (folder / "t.csv").write_text(text_of(ROWS), encoding="utf-8")  # "write one class in each row"
    assert used(folder / "t.csv") == dict(ROWS)


# Other formats


def write_spreadsheet(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return path


@pytest.mark.parametrize("name", ["table:t.xlsx", "t.csv"])
def test_a_spreadsheet_is_refused_and_saved_as_csv_it_is_read(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write_spreadsheet(Path(name.removeprefix("table:")))
    assert "open it and save it as CSV UTF-8, with the columns path and label" in refusal(name)
    Path("t.csv").write_bytes(text_of(ROWS, sign=";").encode("utf-8-sig"))  # as Excel does in Europe
    assert used("t.csv") == dict(ROWS)


def json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.json", "t.csv"])
def test_json_is_refused_with_the_command_that_makes_csv_of_it(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`metadata.jsonl` of Hugging Face's ImageFolder has the column file_name."""
    monkeypatch.chdir(folder)
    rows = [{"file_name": path, "label": f"{label}, é"} for path, label in ROWS]
    Path(name).write_text(json.dumps(rows, indent=1) if name.endswith("json") else json_lines(rows), encoding="utf-8")
    made = follow(refusal(f"table:{name}"))
    assert used(made) == {path: f"{label}, é" for path, label in ROWS}
    assert read(made).notes[0] == "path from column file_name"


def test_a_pointer_of_git_lfs_and_a_wrong_extension_are_said(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", encoding="utf-8"
    )
    assert "is only a pointer of Git LFS" in refusal(folder / "t.csv")
    (folder / "t.csv").write_text(text_of(ROWS), encoding="utf-8")  # "download the file"
    assert used(folder / "t.csv") == dict(ROWS)
