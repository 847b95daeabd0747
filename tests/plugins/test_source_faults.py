"""Damaged, unsuitable or hostile data: each gives one clear message, and nothing is extracted."""

from __future__ import annotations

import io
import re
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.packing import pack, write_tar, write_zip
from zoo.data.dataset import Dataset
from zoo.data.sources import find_data, read_dataset
from zoo.errors import Refused
from zoo.registry.registry import default_registry

from zoo_sources import zoo_data_sources
from zoo_sources.shards import Shard
from zoo_sources.tar_labels import SampleClasses

BOMB = 300 << 20


def read(path: Path) -> Dataset:
    return read_dataset(find_data(path, default_registry(), lambda event: None), seed=0)


def refusal(path: Path, pattern: str, error: type[Exception] = zoo.DataError) -> str:
    with pytest.raises(error, match=f"(?s){pattern}") as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 4 and path.name in message
    return message


def faults(path: Path) -> dict[str, str]:
    """What is wrong with the images that cannot be read, by name."""
    dataset = read(path)
    errors = {}
    for file in (file for files in dataset.splits.values() for file in files):
        try:
            file.content()
        except zoo.DataError as error:
            fault, _, step = str(error).partition("\n")
            assert step.startswith("Next: ")
            errors[file.relative] = fault
    return errors


# Paths that cannot be looked at


def test_no_path_is_too_odd_for_a_source_to_say_whether_it_reads_it(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "loop").symlink_to("loop")
    names = ("loop", "loop/below", "x" * 300, "folder", "nul\0", "y/" * 2100)
    for source in zoo_data_sources():
        for name in names:
            for end in ("", ".csv", ".parquet", ".tar", ".zip"):
                assert source.recognises(tmp_path / (name + end)) is False


def test_a_named_source_refuses_such_a_path_in_its_own_words(tmp_path: Path) -> None:
    for name in ("zip:{}.zip", "tar:{}.tar", "table:{}.csv", "table:{}.parquet", "hf:{}"):
        with pytest.raises((zoo.DataError, Refused)):
            read(Path(name.format(tmp_path / ("x" * 300))))


def test_a_list_of_shards_may_be_longer_than_a_name(tmp_path: Path) -> None:
    names = [f"part-{number:04d}" for number in range(40)]
    for number, name in enumerate(names):
        label = "ab"[number % 2]
        write_tar(tmp_path / f"{name}.tar", {f"{label}/{number}.jpg": b"image"})
    dataset = read(tmp_path / f"{{{','.join(names)}}}.tar")
    assert sum(map(len, dataset.splits.values())) == 40


def test_a_link_to_itself_beside_parquet_files_is_no_reason_to_fail(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = {"path": [f"{number}.jpg" for number in range(6)], "label": ["a", "b"] * 3}
    parquet.write_table(pyarrow.table(rows), tmp_path / "train.parquet")
    (tmp_path / "loop").symlink_to("loop")
    assert "table" in find_data(tmp_path, default_registry(), lambda event: None).reader


# Tables


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A table with these rows, and files for `a1.jpg` to `b3.jpg`."""
    for label in "ab":
        for number in (1, 2, 3):
            (tmp_path / f"{label}{number}.jpg").touch()

    def write(*rows: str, header: str = "path,label,split") -> Path:
        (tmp_path / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return tmp_path / "table.csv"

    return write


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("path,labl", ["a1.jpg,a"], r"has no column 'label'; it has: path, labl\. Did you mean 'labl'\?\nNext: name"),
        ("file;klass", ["a1.jpg;a"], r"has no column 'path' and no column 'label'; it has: file, klass\."),
        ("a1.jpg,a", ["a2.jpg,a"], r"has no column 'path'"),
        ("path,label,label", ["a1.jpg,a,b"], "has the column 'label' more than once"),
        ("path,label", [], r"has a header and no rows\.\nNext: add a row"),
        ("path,label", ["", ",", " , "], "has a header and no rows"),
        ("path,label", ["a1.jpg,a", "a2.jpg"], r"Line 3 .* 1 cell, .* 2\.\nNext: give .* \(path, label\)"),
        ("path,label", ["a1.jpg,a", "my,pictures.jpg,a"], r"Line 3 of .* has 3 cells.*\nNext: .* double quotes"),
        ("path,label", ["a1.jpg,"], r"Line 2 of .* has no label\.\nNext: fill it in"),
        ("path,label", [",a"], r"Line 2 of .* has no path"),
        ("path,label", ['"a1.jpg,a'], r"cannot be read as CSV: unexpected end of data"),
        (
            "path,label", ["a1.jpg,a", "b4.jpg,b", "x/b5.jpg,b", "b6.jpg,b", "b7.jpg,b"],
            r"4 of the 5 files listed in .* do not exist: b4\.jpg, x/b5\.jpg, b6\.jpg and 1 more\. "
            r"Did you mean 'b\d\.jpg'\?\nNext: correct the paths, which are relative to the table's folder ",
        ),
        ("path,label", ["x/a1.jpg,a", "b1.jpg,b"], r"1 of the 2 files .* x/a1\.jpg\. There is no folder .*x\."),
        (
            "path,label,split", ["a1.jpg,a,train", "b1.jpg,b,train", "a2.jpg,a,val", "b2.jpg,bb,val"],
            r"val of .* has classes that train lacks: bb\.",
        ),
        (
            "path,label,split", ["a1.jpg,ants,train", "b1.jpg,b,train", "a2.jpg,ant,val"],
            r"lacks: ant\. Did you mean 'ants'\?\nThe classes of train: ants, b\.",
        ),
        (
            "path,label,split", ["a1.jpg,a,train", "b1.jpg,b,train", "a2.jpg,a,val"],
            r"val of .* has no images of 1 class: b\.\nNext: move some of its images from train to val, or remove val",
        ),
        ("path,label,split", ["a1.jpg,a,trian"], r"the split 'trian' \(of a1\.jpg\)\. Did you mean 'train'\?\nNext"),
        ("path,label,split", ["a1.jpg,a,holdout"], r"the split 'holdout' \(of a1\.jpg\)\.\nNext: name it train, val"),
        (
            "path,label,split", ["a1.jpg,a,train", "b1.jpg,b,"],
            r"has images with a split and others without one, such as b1\.jpg",
        ),
        (
            "path,label,split", ["a1.jpg,a,val", "b1.jpg,b,valid"],
            r"has two names of the split val: val and valid\.\nNext: keep one",
        ),
        ("path,label,split", ["a1.jpg,a,val", "b1.jpg,b,val"], r"has val but no train"),
        ("path,label", ["a1.jpg,a", "b1.jpg,b", "./a1.jpg,a"], r"a1\.jpg is listed twice in .*\nNext: keep it once"),
        ("path,label", ["a1.jpg,a", "b1.jpg,b", "a1.jpg,b"], r"a1\.jpg is under two labels in .*, a and b\."),
        (
            "path,label,split", ["a1.jpg,a,train", "b1.jpg,b,train", "./a1.jpg,a,val"],
            r"a1\.jpg is in two splits of .*, train and val\.\nNext: keep it in one: what was trained on",
        ),
        ("path,label", ["a1.jpg,a", "a2.jpg,a"], r"has only the class 'a'; a classifier needs at least two classes"),
        ("path,label", ["a1.jpg,a", "b1.jpg,b", "b2.jpg,b"], r"The class 'a' has 1 image; drawing .*or make the split"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused(
    table: Callable[..., Path], header: str, rows: list[str], said: str
) -> None:
    with pytest.raises(zoo.DataError, match=f"(?s){said}") as caught:
        read(table(*rows, header=header))
    assert len(str(caught.value).splitlines()) <= 3


def test_a_table_in_another_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\nkäfer.jpg,käfer\n".encode("latin1"))
    refusal(
        tmp_path / "t.csv", r"is not UTF-8: byte 0xe4 in line 2\. That line reads: as cp1252 .*\nNext: save it as UTF-8"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.zip", "t.tar"])
def test_a_file_of_0_bytes_is_said_to_be_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refusal(tmp_path / name, r"is empty: it has 0 bytes\.\nNext: ")


def test_a_column_that_is_not_used_is_said(table: Callable[..., Path]) -> None:
    dataset = read(table("a1.jpg,a,ann", "a2.jpg,a,bob", "b1.jpg,b,ann", "b2.jpg,b,bob", header="path,label,by"))
    assert dataset.notes[0] == "columns not used: by"


@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_what_needs_a_package_that_is_missing_names_its_extra(
    kind: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(few, kind, tmp_path)
    for name in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    package = "pyarrow" if kind == "parquet" else "datasets"
    message = refusal(path, f"cannot be read here: a .* needs the package {package}", Refused)
    assert "pip install 'zoo-registry[hf]'" in message


def test_a_parquet_table_that_cannot_be_used_is_refused(few: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = pack(few, "parquet", tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    refusal(path, "cannot be read as Parquet")
    for columns, said in (
        ({"path": ["a.jpg"], "lable": ["a"]}, r"has no column 'label'; it has: path, lable\. Did you mean 'lable'\?"),
        (
            {"path": ["a.jpg"], "label": [1.5]},
            r"Row 1 of .* has float 1\.5 as its label\.\nNext: path and split must be",
        ),
        ({"path": [None], "label": ["a"]}, r"Row 1 of .* has no path"),
        ({"path": pyarrow.array([], "string"), "label": pyarrow.array([], "string")}, "has a header and no rows"),
    ):
        parquet.write_table(pyarrow.table(columns), path)
        refusal(path, said)


# Archives


MEMBERS = {f"{label}/{number}.jpg": b"%d" % number for label in "ab" for number in range(3)}
HOSTILE = [
    ("../../etc/cron.d/x.jpg", "points outside the archive"),
    ("a/../../x.jpg", "points outside the archive"),
    ("/etc/passwd.jpg", "has an absolute path"),
    ("C:/windows/x.jpg", "has an absolute path"),
    ("..\\x.txt", "points outside the archive"),
]


@pytest.mark.parametrize(("name", "said"), HOSTILE)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_points_elsewhere_is_refused_by_name(kind: str, name: str, said: str, tmp_path: Path) -> None:
    path = (write_tar if kind == "tar" else write_zip)(tmp_path / f"photos.{kind}", {**MEMBERS, name: b"x"})
    before = sorted(tmp_path.rglob("*"))
    refusal(path, rf"the member {re.escape(repr(name))} {said}\.\nNext: check where the archive comes from")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_is_there_twice_is_refused(kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / f"photos.{kind}"
    if kind == "tar":
        write_tar(path, MEMBERS)
        with tarfile.open(path, "a") as tar:
            tar.addfile(tarfile.TarInfo("./a/1.jpg"), io.BytesIO())
    else:
        write_zip(path, {**MEMBERS, "./a/1.jpg": b""})
    refusal(path, r"the member '\./a/1\.jpg' is in the archive more than once")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "is a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "is a link to '/etc/passwd'"),
        (tarfile.CHRTYPE, "is a device or a pipe"),
        (tarfile.FIFOTYPE, "is a device or a pipe"),
        (b"Q", "is a device or a pipe"),
    ],
)
def test_a_tar_with_links_or_devices_is_refused(kind: bytes, said: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "photos.tar", MEMBERS)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a/9.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    refusal(path, rf"the member 'a/9\.jpg' {said}")


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "photos.zip", MEMBERS)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("a/9.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refusal(path, r"the member 'a/9\.jpg' is a link, not a file")


def test_a_zip_bomb_is_refused_whether_or_not_it_states_its_size(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
        with archive.open("a/bomb.jpg", "w") as member:
            for _ in range(BOMB >> 20):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    refusal(path, rf"the member 'a/bomb\.jpg' has {BOMB:,} bytes by its header; an image may have 268,435,456")
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", BOMB), struct.pack("<I", 100)))
    assert faults(path) == {"a/bomb.jpg": "a/bomb.jpg: its size differs from the 100 bytes in the archive's directory"}


def test_a_tar_that_says_that_a_member_is_huge_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "photos.tar", MEMBERS)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a/9.jpg")
        info.size = BOMB
        tar.addfile(info)
    refusal(path, rf"the member 'a/9\.jpg' has {BOMB:,} bytes by its header")


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "photos.zip", MEMBERS)
    with zipfile.ZipFile(path) as archive:
        first, second, *_ = archive.infolist()
    content = bytearray(path.read_bytes())
    place = content.rindex(second.filename.encode()) - 4
    content[place : place + 4] = struct.pack("<I", first.header_offset)
    path.write_bytes(bytes(content))
    refusal(path, r"overlaps another one, as in a zip bomb")


def test_an_image_that_says_that_it_has_too_many_pixels_is_unreadable(few: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    content = {f"{each.parent.name}/{each.name}": each.read_bytes() for each in (few / "train").rglob("*.jpg")}
    report = zoo.check_data(write_zip(tmp_path / "photos.zip", {**content, "a/9.png": bomb}))
    (unreadable,) = [each for each in report.faults if each.code == "unreadable"]
    assert [(case.files, "too many pixels" in case.detail) for case in unreadable.cases] == [(("a/9.png",), True)]


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "photos.zip", MEMBERS)
    content = bytearray(path.read_bytes())
    for match in re.finditer(b"PK\x01\x02", bytes(content)):
        content[match.start() + 8] |= 1
    path.write_bytes(bytes(content))
    refusal(path, r"the member 'a/0\.jpg' is encrypted\.\nNext: pack it again without a password")


def test_a_zip_packed_by_an_unusual_method_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    refusal(
        tmp_path / "photos.zip",
        r"the member 'a/0\.jpg' is packed with method 14; zoo reads stored and deflated members",
    )


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_was_cut_off_is_refused(kind: str, share: float, few: Path, tmp_path: Path) -> None:
    path = pack(few, kind, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path, "may be truncated")


def test_a_tar_that_was_cut_off_between_two_members_or_is_damaged_there_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "photos.tar", MEMBERS)
    content = path.read_bytes()
    path.write_bytes(content[: 4 * 1024])  # the end of the fourth member
    refusal(path, "may be truncated: after 4,096 bytes there is neither a file nor the end mark")
    path.write_bytes(content[: 4 * 1024] + b"\xff" * 512 + content[4 * 1024 + 512 :])
    refusal(path, "after 4,096 bytes there is neither")


def test_a_member_that_is_damaged_is_unreadable_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "photos.zip", {**MEMBERS, "a/9.jpg": b"some content that is long enough"})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("a/9.jpg").header_offset + 30 + len("a/9.jpg")
    path.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    assert list(faults(path)) == ["a/9.jpg"] and "damaged" in faults(path)["a/9.jpg"]


def test_an_archive_that_shrinks_while_in_use_gives_an_error(tmp_path: Path) -> None:
    for kind, write in (("tar", write_tar), ("zip", write_zip)):
        path = write(tmp_path / f"photos.{kind}", MEMBERS)
        dataset = read(path)
        path.write_bytes(b"")
        for file in dataset.splits["train"]:
            with pytest.raises(zoo.DataError, match=r"ends within it|no file at the offset"):
                file.content()


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz"])
def test_a_compressed_tar_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / name, "w:gz"):
        pass
    refusal(tmp_path / name, r"is compressed, so .*\nNext: unpack it to a plain \.tar")
    (tmp_path / "photos.tar").write_bytes((tmp_path / name).read_bytes())
    refusal(tmp_path / "photos.tar", "cannot be read as a tar archive")


def test_shards_that_are_missing_are_counted_and_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", MEMBERS)
    refusal(
        tmp_path / "train-{000..005}.tar",
        r"5 of the 6 shards in .* do not exist: train-001\.tar, train-002\.tar, train-003\.tar and 2 more\.",
    )
    refusal(tmp_path / "val-*.tar", "No file matches '.*'")
    refusal(tmp_path / "{0..999}{0..999}.tar", "stands for more than 100,000 files")


@pytest.mark.parametrize(
    ("label", "said"),
    [(b"2", r"1\.jpg has the label '2', and classes\.txt has 2 classes, from 0 to 1"), (b"cta", "such as 'cat'")],
)
def test_a_label_that_the_list_of_classes_lacks_is_refused(label: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    refusal(write_tar(tmp_path / "s.tar", {"1.jpg": b"", "1.cls": label}), said)


def labelled(labels: Sequence[bytes], kind: str = "cls") -> dict[str, bytes]:
    """Two samples of each label."""
    samples = {f"{at}{copy}": label for at, label in enumerate(labels) for copy in ("", "-copy")}
    return {f"{key}.{end}": each for key, label in samples.items() for end, each in (("jpg", b""), (kind, label))}


def test_labels_that_are_names_and_numbers_of_lines_are_refused_and_both_ways_out_work(tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("1\n10\n2\n3\n")
    path = write_tar(tmp_path / "s.tar", labelled([b"1", b"2", b"3"]))
    said = r"0\.jpg has the label '1'.* name of a class, '1', .*counted from 0, which is the class '10'.*class-10"
    refusal(path, said)
    classes.write_text("".join(f"class-{name}\n" for name in classes.read_text().split()))
    assert read(path).classes == ("class-2", "class-3", "class-10")
    classes.unlink()
    assert read(path).classes == ("1", "2", "3")
    # `1` may be meant as the name `01`.
    classes.write_text("01\n10\n02\n03\n")
    refusal(path, r"name of a class, '01', .*counted from 0, which is the class '10'")
    # In order, both ways say the same.
    classes.write_text("0\n1\n2\n3\n")
    assert read(path).classes == ("1", "2", "3")


def test_very_many_classes_take_no_time_for_each_image() -> None:
    count = 20_000
    shard = Shard(Path("a.tar"), "", None)
    names = tuple(f"class {number}" for number in range(count))
    labels = {f"{number}.jpg": str(number) for number in range(count)}
    began = time.process_time()
    classes = SampleClasses(Path("a.tar"), {shard: names}, {shard: labels})
    assert [classes.of(shard, label) for label in labels.values()] == [*names]
    assert time.process_time() - began < 2, "going over all names for each image would take 10 s"


def test_a_number_that_is_only_a_name_beside_one_that_is_only_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    refusal(write_tar(tmp_path / "s.tar", labelled([b"0", b"3"])), r"'3', which can only be the name .*has '0', which")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (b"cat\n\ndog\n", "has a blank line, line 2"),
        (b"", "is empty"),
        ("käfer\nbiene\n".encode("latin-1"), "is no text in UTF-8"),
        (b"crane\nbird\ncrane\n", "the classes 0 and 2 .*have one name, 'crane'"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_list_of_classes_that_cannot_be_counted_is_refused(
    classes: bytes, said: str, inside: bool, tmp_path: Path
) -> None:
    if not inside:
        (tmp_path / "classes.txt").write_bytes(classes)
    path = write_tar(tmp_path / "s.tar", labelled([b"0", b"1"]) | ({"classes.txt": classes} if inside else {}))
    with pytest.raises(zoo.DataError, match=said):
        read(path)


def test_lists_of_classes_that_disagree_are_refused(tmp_path: Path) -> None:
    for name, classes in (("a", b"cat\ndog\n"), ("b", b"dog\ncat\n")):
        samples = {f"{name}{member}": content for member, content in labelled([b"0", b"1"]).items()}
        write_tar(tmp_path / f"{name}.tar", samples | {"classes.txt": classes})
    write_tar(tmp_path / "c.tar", labelled([b"0", b"1"]))
    refusal(tmp_path, r"c\.tar has no classes\.txt, and other shards have several")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")  # the next step
    refusal(tmp_path, r"classes\.txt and classes\.txt in .*b\.tar list other classes")


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([b"a", "é".encode("latin-1")], "cls", r"1\.cls is no text in UTF-8"),
        (["a".encode("utf-16"), "b".encode("utf-16")], "cls", r"0\.cls is no text in UTF-8"),
        ([b"a", b"b\nc"], "cls", r"1\.cls has several lines"),
        ([b"0", b"0.0"], "cls", r"1\.jpg of .*has the label 0\.0, 0\.jpg has 0: they would be two classes"),
        ([b"0", b"[0, 1]"], "cls", r"1\.jpg of .*has a list as its label"),
        ([b'{"label": 0}', b'{"label": 1.5}'], "json", r"1\.json has the label 1\.5, which is no text"),
        ([b'{"label": 0}', b'{"label": true}'], "json", r"1\.json has the label true, which is no text"),
        ([b'{"label": 0}', b'{"label": [1]}'], "json", r"1\.json has the label \[1\], which is no text"),
    ],
)
def test_a_label_of_a_sample_that_cannot_be_one_is_refused(
    labels: list[bytes], kind: str, said: str, tmp_path: Path
) -> None:
    refusal(write_tar(tmp_path / "s.tar", labelled(labels, kind)), said)


def test_whole_numbers_with_decimals_and_marks_of_utf_8_are_labels(tmp_path: Path) -> None:
    labels = [b'{"label": 0.0}', b'{"label": 1}', b'{"label": null}', b'{"label": NaN}']
    dataset = read(write_tar(tmp_path / "s.tar", labelled(labels, "json")))
    assert dataset.classes == ("0", "1")
    assert {each.relative: each.reason for each in dataset.skipped if each.relative.endswith("jpg")} == dict.fromkeys(
        ("2.jpg", "2-copy.jpg", "3.jpg", "3-copy.jpg"), "no label"
    )
    assert read(write_tar(tmp_path / "t.tar", labelled([b"\xef\xbb\xbf0", b"1"]))).classes == ("0", "1")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_without_an_image_that_can_be_used_says_why(kind: str, tmp_path: Path) -> None:
    write = write_tar if kind == "tar" else write_zip
    path = write(tmp_path / f"photos.{kind}", {"1.jpg": b"", "2.jpg": b"", "c/notes.txt": b""})
    refusal(
        path, r"No image in .* can be used: 1\.jpg \(not in a class folder\), and 2 more\.\nNext: see docs/data\.md"
    )
    refusal(write(path, {}), r"There are no images in ")
    refusal(
        write(path, {"val/a/1.jpg": b"", "valid/a/2.jpg": b"", "train/a/3.jpg": b""}), "has two val folders: val and"
    )


# Saved data sets


def test_a_saved_data_set_that_cannot_be_used_is_refused(few: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    files = sorted(map(str, (few / "train").rglob("*.jpg")))
    labels = [0, 1] * 4
    texts = list("ab") * 4
    kinds = {"image": Image(), "other": Image(), "label": ClassLabel(names=["a", "b"]), "text": Value("string")}
    columns = {"image": files, "other": files, "label": labels, "text": texts}

    def made(*names: str, **renamed: str) -> Dataset:
        features = Features({renamed.get(name, name): kinds[name] for name in names})
        return Dataset.from_dict({renamed.get(name, name): columns[name] for name in names}, features=features)

    for number, (data, said) in enumerate(
        [
            (made("label", "text"), r"has no image column; its columns: label \(ClassLabel\), text \(Value\)"),
            (made("image"), r"has no label column; its columns: image \(Image\)"),
            (made("image", "other", "label", image="one"), r"has several image columns, one, other.*rename_column"),
            (DatasetDict({"train": made("image", "label"), "unsupervised": made("image", "label")}),
             r"has the split 'unsupervised' \(of unsupervised/0000000\.jpg\)"),
        ]
    ):  # fmt: skip
        data.save_to_disk(str(tmp_path / str(number)))
        refusal(tmp_path / str(number), said)
    (damaged,) = (tmp_path / "2").glob("*.arrow")
    damaged.write_bytes(damaged.read_bytes()[:100])
    refusal(tmp_path / "2", r"cannot be read by datasets [\d.]+: ")


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([0, 1, 2, -1], "classes", r"set: the label of 0000002\.jpg is 2, and the data name 2 classes, 0 to 1\."),
        ([0.0, 1.0, 0.5, None], "float64", r"0000002\.jpg of .*set has float 0\.5 as its label"),
        ([[0], [1], [0], [1]], "lists", r"0000000\.jpg of .*set has list \[0\] as its label"),
        (["a", "b", "['a', 'b']", "a"], "string", r"0000002\.jpg of .*set has a list as its label"),
    ],
)
def test_a_label_of_a_saved_data_set_that_cannot_be_one_class_is_refused(
    labels: list[Any], kind: str, said: str, few: Path, tmp_path: Path
) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value

    stored = {"classes": Value("int64"), "lists": Sequence(Value("int64"))}.get(kind) or Value(kind)
    files = sorted(map(str, (few / "train").rglob("*.jpg")))[:4]
    features = Features({"image": Image(), "label": stored})
    data = Dataset.from_dict({"image": files, "label": labels}, features=features)
    if kind == "classes":  # as another program may write it: datasets itself refuses to
        data.info.features["label"] = ClassLabel(names=["a", "b"])
    data.save_to_disk(str(tmp_path / "set"))
    refusal(tmp_path / "set", said)


def test_a_row_without_an_image_is_unreadable(few: Path, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    files = [None, *sorted(map(str, (few / "train").rglob("*.jpg")))[1:]]
    features = Features({"image": Image(), "label": Value("string")})
    Dataset.from_dict({"image": files, "label": list("ab") * 4}, features=features).save_to_disk(str(tmp_path / "set"))
    assert faults(tmp_path / "set") == {"0000000": "0000000: the row holds no bytes of an image"}
