"""Mutated artefacts, runs, archives and images thrown at everything that reads them.

    python -m tests.fuzz [--cases N] [--seed S] [--only KIND] [--case K]

Each case is a function of (seed, number): a kind of file, one or more mutations of it, one reader. The reader must come
back within seconds, in bounded memory, with what was written or with a ZooError; a classifier that loads must give the
logits and class names that it was saved with. Cases run in a process of their own, so that a crash is one case's.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 30.0
"""In which a case must end; most take milliseconds."""
GROWTH = 1_000_000_000
"""Bytes by which a case may raise the peak of its process: about the largest picture that is read."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `read`, `refused`, or what is wrong with the reader."""

    case: int
    kind: str
    verdict: str
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.verdict not in ("read", "refused")


# --- Mutations --------------------------------------------------------------------------------------------------------


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Bits flipped, cut off, added, moved, zeroed, repeated: what disks, networks and editors do."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 5, 40))):
        if not data:
            break
        at, end = sorted((generator.randrange(len(data)), generator.randrange(len(data) + 1)))
        match generator.randrange(8):
            case 0:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data += generator.randbytes(generator.choice((1, 8, 4096)))
            case 3:
                data[at:end] = bytes(end - at)
            case 4:
                del data[at : min(end, at + 64)]
            case 5:
                data[at:at] = data[at : min(end, at + 256)]
            case 6:
                data[at : at + 4] = generator.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            case 7:
                # Near the beginning, where headers are.
                data[generator.randrange(min(64, len(data)))] = generator.randrange(256)
    return bytes(data)


_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 100_000, "../../etc", "\ud800", [], {},
    [[]], ["a"] * 3, {"a": {"a": {}}},
)  # fmt: skip


def mutate_json(content: bytes, generator: random.Random) -> bytes:
    """Another value, type, key or depth somewhere inside; or the text itself."""
    choice = generator.randrange(10)
    if choice == 0:
        return mutate_bytes(content, generator)
    if choice == 1:
        depth = generator.choice((10, 1_000, 200_000))
        return b"[" * depth + b"]" * depth
    value = json.loads(content)
    holder, key = _somewhere(value, generator)
    if choice == 2 and isinstance(holder, dict):
        del holder[key]
    elif choice == 3 and isinstance(holder, dict):
        holder[generator.choice(("format", "extra", "__class__", "seal"))] = generator.choice(_ODD)
    elif choice == 4 and isinstance(holder[key], list):
        generator.shuffle(holder[key])
    elif choice == 5 and isinstance(holder[key], list) and holder[key]:
        holder[key].append(holder[key][0])
    elif choice == 6 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * generator.choice((-1, 2, 1000)) + generator.choice((0, 1))
    else:
        holder[key] = generator.choice(_ODD)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _somewhere(value: Any, generator: random.Random) -> tuple[Any, Any]:
    places = list(_places(value))
    return generator.choice(places)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutate_safetensors(content: bytes, generator: random.Random) -> bytes:
    """A header that lies: about its length, names, types, shapes, places."""
    length = struct.unpack("<Q", content[:8])[0]
    header, rest = content[8 : 8 + length], content[8 + length :]
    match generator.randrange(6):
        case 0:
            wrong = generator.choice((0, 1, length - 1, length + 1, 100_000_000, 2**63, 2**64 - 1, len(content)))
            return struct.pack("<Q", wrong % 2**64) + header + rest
        case 1:
            return mutate_bytes(content, generator)
    value = json.loads(header)
    names = [name for name in value if name != "__metadata__"]
    entry = value[generator.choice(names)]
    begin, end = entry["data_offsets"]
    match generator.randrange(6):
        case 0:
            entry["dtype"] = generator.choice(("F64", "I64", "BF16", "U8", "F9", 3))
        case 1:
            entry["shape"] = generator.choice(([], [-1], [2**62, 2], [0], entry["shape"][::-1], "x", [10**9]))
        case 2:
            move = generator.choice((-begin, 8, len(rest), 2**40))
            entry["data_offsets"] = [begin + move, end + move]
        case 3:
            entry["data_offsets"] = generator.choice(([end, begin], [0, 0], [begin], [begin, 2**64], None))
        case 4:
            other = value[generator.choice(names)]
            entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
        case 5:
            value[generator.choice(("again", "__metadata__", names[0] + " "))] = entry
    encoded = json.dumps(value).encode()
    if generator.random() < 0.1:  # a key twice
        encoded = encoded[:-1] + b", " + json.dumps({names[0]: entry}).encode()[1:]
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + rest


def bombs(generator: random.Random) -> tuple[str, bytes]:
    """Pictures that claim to be huge, or unpack to much -> (suffix, content)."""
    size = generator.choice(
        ((100_000, 100_000), (60_000, 60_000), (1, 2**31 - 1), (2**31 - 1, 1), (65_535, 65_535), (0, 0))
    )
    match generator.randrange(5):
        case 0:
            body = zlib.compress(bytes(1_000_000) * generator.choice((1, 20)))
            chunks = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) + _chunk(b"IDAT", body)
            return ".png", b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")
        case 1:
            profile = b"p\0\0" + zlib.compress(bytes(50_000_000))
            kind = generator.choice((b"iCCP", b"zTXt"))
            chunks = _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)) + _chunk(kind, profile)
            chunks += _chunk(b"IDAT", zlib.compress(bytes(14)))
            return ".png", b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")
        case 2:
            return ".bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
        case 3:
            return ".ppm", f"P6 {size[0]} {size[1]} 255\n".encode() + bytes(100)
        case _:
            # A TIFF whose directory leads to itself.
            return ".tif", b"II*\0\x08\0\0\0" + struct.pack("<HHHIIHHIII", 2, 256, 4, 1, size[0], 257, 4, 1, size[1], 8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# --- What is there before ---------------------------------------------------------------------------------------------


class Originals:
    """Whole files of every kind, made once, and what they mean."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def make(cls, folder: Path) -> Originals:
        import zoo
        from PIL import Image
        from safetensors.torch import save_file

        pictures = _pictures(folder / "data")
        made = zoo.finetune(
            backbone="timm/test_resnet", weights="random", data=folder / "data", recipe="head_only", epochs=1,
            tune=False, out=folder / "run",
        )  # fmt: skip
        assert made.proof == "passed"
        state = zoo.create_model("timm/test_resnet", classes=2, weights="random").backbone.state_dict()
        save_file(state, folder / "weights.safetensors")
        with Image.open(pictures[0]) as picture:
            for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm"):
                picture.save(folder / f"picture{suffix}")
            exif = picture.getexif()
            exif[0x0112] = 6
            picture.save(folder / "turned.jpg", exif=exif)
            picture.convert("CMYK").save(folder / "print.jpg")
            picture.quantize(8).save(folder / "few.png")
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for path in pictures:
                archive.write(path, path.relative_to(folder / "data"))
        shutil.make_archive(str(folder / "data"), "tar", folder / "data")
        rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in pictures]
        (folder / "data.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        return cls(folder)


def _pictures(folder: Path) -> list[Path]:
    from zoo.data.sample import sample_image

    found = []
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                found.append(folder / split / name / f"{number}.jpg")
                sample_image(index, 2, split, number).resize((48, 40)).save(found[-1])
    return found


# --- Readers ----------------------------------------------------------------------------------------------------------


class Reader:
    """Carries out cases; one for a process."""

    def __init__(self, originals: Originals, seed: int) -> None:
        import torch
        import zoo

        self._from, self._seed = originals.folder, seed
        whole = zoo.load(originals.folder / "run")
        generator = torch.Generator().manual_seed(0)
        self._images = torch.rand(2, *whole.model.preprocessing.input_size, generator=generator)
        self._meant = whole.classes, whole.model.preprocessing, whole.logits(self._images)
        self._kinds: dict[str, Callable[[random.Random, Path], None]] = {
            "image": self._image,
            "bomb": self._bomb,
            "artefact": self._artefact,
            "weights": self._weights,
            "run": self._run,
            "recipe": self._recipe,
            "source": self._source,
            "bundle": self._bundle,
        }
        self._shares = (45, 5, 20, 5, 8, 5, 8, 4)

    def carry_out(self, case: int, only: str | None) -> Outcome:
        """One case, from the beginning."""
        from zoo.errors import ZooError

        generator = random.Random(f"{self._seed}/{case}")
        (kind,) = generator.choices(tuple(self._kinds), self._shares)
        kind = only or kind
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with tempfile.TemporaryDirectory() as place:
            try:
                self._kinds[kind](generator, Path(place))
                verdict, detail = "read", ""
            except ZooError as error:
                verdict, detail = "refused", str(error).partition("\n")[0][:200]
            except Wrong as error:
                verdict, detail = "WRONG", str(error)
            except BaseException:  # what nobody foresaw is what is looked for
                verdict, detail = "ERROR", traceback.format_exc(limit=-4)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > GROWTH:
            return Outcome(case, kind, "MEMORY", f"peak memory grew by {grown / 1e6:.0f} MB ({verdict}: {detail})")
        return Outcome(case, kind, verdict, detail)

    def _image(self, generator: random.Random, place: Path) -> None:
        from zoo.data.check.facts import read_facts
        from zoo.data.dataset import ImageFile
        from zoo.data.decode import read_image

        names = sorted(each.name for each in self._from.iterdir() if each.suffix in _SUFFIXES)
        name = generator.choice(names)
        path = place / f"case{generator.choice((Path(name).suffix, '.jpg', '.png'))}"
        path.write_bytes(mutate_bytes((self._from / name).read_bytes(), generator))
        read_facts(ImageFile(path, path.name, 0))
        assert read_image(path).mode == "RGB"

    def _bomb(self, generator: random.Random, place: Path) -> None:
        from zoo.data.decode import read_image

        suffix, content = bombs(generator)
        path = place / f"bomb{suffix}"
        path.write_bytes(content)
        read_image(path)

    def _artefact(self, generator: random.Random, place: Path) -> None:
        import torch
        import zoo

        copy = Path(shutil.copytree(self._from / "run" / "model", place / "model"))
        name = generator.choice(("config.json", "config.json", "model.safetensors", "golden.safetensors"))
        mutation = mutate_json if name == "config.json" else mutate_safetensors
        path = copy / name
        path.write_bytes(mutation(path.read_bytes(), generator))
        classifier = zoo.load(copy)
        classes, preprocessing, logits = self._meant
        if (classifier.classes, classifier.model.preprocessing) != (classes, preprocessing):
            raise Wrong(f"loaded with {classifier.classes} and {classifier.model.preprocessing}")
        if not torch.equal(classifier.logits(self._images), logits):
            raise Wrong("loaded, and gives other logits")
        if name == "golden.safetensors":
            zoo.verify(copy)

    def _weights(self, generator: random.Random, place: Path) -> None:
        import zoo

        path = place / "weights.safetensors"
        path.write_bytes(mutate_safetensors((self._from / "weights.safetensors").read_bytes(), generator))
        zoo.create_model("timm/test_resnet", classes=2, weights=str(path))

    def _run(self, generator: random.Random, place: Path) -> None:
        from zoo.reporting.record import read_run
        from zoo.training.stored_plan import read_plan

        copy = place / "run"
        copy.mkdir()
        files = ("plan.json", "result.json", "proof.json", "evaluation.json", "history.jsonl", "predictions.csv")
        for name in files:
            shutil.copyfile(self._from / "run" / name, copy / name)
        path = copy / generator.choice(files)
        mutation = mutate_json if path.suffix == ".json" else mutate_bytes
        path.write_bytes(mutation(path.read_bytes(), generator))
        read_plan(copy)
        read_run(copy)

    def _recipe(self, generator: random.Random, place: Path) -> None:
        from zoo.specs.recipe import recipe_from_file

        recipes = sorted((Path(__file__).parent.parent / "recipes" / "zoo_recipes").glob("*.toml"))
        path = place / "recipe.toml"
        path.write_bytes(mutate_bytes(generator.choice(recipes).read_bytes(), generator))
        recipe_from_file(path)

    def _source(self, generator: random.Random, place: Path) -> None:
        import zoo

        name = generator.choice(("data.zip", "data.tar", "data.csv"))
        (place / "data").symlink_to(self._from / "data")
        (place / name).write_bytes(mutate_bytes((self._from / name).read_bytes(), generator))
        zoo.check_data(place / name, workers=1)

    def _bundle(self, generator: random.Random, place: Path) -> None:
        from zoo.weights.manifest import ManifestEntry, manifest_text, read_manifest

        entry = ManifestEntry(
            name="timm/a.b", tag="b", source={"url": "x"}, address="x", file="a.safetensors", digest="0" * 64, size=1,
            licence=None,
        )  # fmt: skip
        path = place / "weights.json"
        path.write_bytes(mutate_json(manifest_text([entry]).encode(), generator))
        for found in read_manifest(path):
            assert (place / found.file).parent == place


_SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm")


class Wrong(Exception):
    """Something was read that is not what was written."""


# --- Carrying out -----------------------------------------------------------------------------------------------------


def fuzz(
    cases: int,
    *,
    seed: int = 0,
    first: int = 0,
    only: str | None = None,
    each: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Carry out so many cases -> what is bad."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ZOO_CACHE_DIR"] = str(Path(folder) / "cache")
        return carry_out(Originals.make(Path(folder)), cases, seed=seed, first=first, only=only, each=each)


def carry_out(
    originals: Originals,
    cases: int,
    *,
    seed: int,
    first: int = 0,
    only: str | None = None,
    each: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """The same to files that are there -> what is bad."""
    bad = []
    context = multiprocessing.get_context("spawn")
    worker: _Worker | None = None
    for case in range(first, first + cases):
        worker = worker or _Worker(context, originals, seed, only)
        outcome = worker.carry_out(case)
        if outcome.verdict in ("CRASH", "HANG"):
            worker = None
        if outcome.bad:
            bad.append(outcome)
        each(outcome)
    if worker:
        worker.end()
    return bad


class _Worker:
    def __init__(self, context: Any, originals: Originals, seed: int, only: str | None) -> None:
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, originals.folder, seed, only), daemon=True)
        self._process.start()
        theirs.close()
        assert self._ours.recv() == "ready"

    def carry_out(self, case: int) -> Outcome:
        self._ours.send(case)
        try:
            if self._ours.poll(SECONDS):
                outcome: Outcome = self._ours.recv()
                return outcome
        except EOFError:
            self._process.join()
            return Outcome(case, "?", "CRASH", f"the process ended with {self._process.exitcode}")
        self._process.kill()
        return Outcome(case, "?", "HANG", f"not back after {SECONDS:.0f} s")

    def end(self) -> None:
        self._ours.close()
        self._process.join()


def _work(pipe: Connection, folder: Path, seed: int, only: str | None) -> None:
    import warnings

    warnings.simplefilter("ignore")
    # Decoders complain on stderr about what they get.
    sys.stderr = io.StringIO()
    reader = Reader(Originals(folder), seed)
    _inject(os.environ.get("ZOO_FUZZ_FAULT", ""))
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(reader.carry_out(case, only))


def _inject(fault: str) -> None:
    """Inject the fault that `tests.test_fuzz` asks for, so that it sees each verdict."""
    import zoo
    from zoo.artefact import read

    broken_loads: dict[str, Callable[..., Any]] = {
        "crash": lambda *_: os.abort(),
        "hang": lambda *_: time.sleep(600),
        "error": lambda *_: 1 / 0,
    }
    if fault == "seal":
        read.seal_broken = lambda content: False
    elif fault:
        zoo.load = broken_loads[fault]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind: image, bomb, artefact, weights, run, recipe, source, bundle")
    parser.add_argument("--case", type=int, help="this one alone")
    asked = parser.parse_args()
    seen: Counter[tuple[str, str]] = Counter()
    began = time.perf_counter()

    def count(outcome: Outcome) -> None:
        seen[outcome.kind, outcome.verdict] += 1
        done = sum(seen.values())
        if outcome.bad:
            print(f"case {outcome.case}, {outcome.kind}: {outcome.verdict}\n{outcome.detail}", flush=True)
        if done % 500 == 0:
            print(f"{done:,} cases, {done / (time.perf_counter() - began):.0f}/s", flush=True)

    first, cases = (0, asked.cases) if asked.case is None else (asked.case, 1)
    bad = fuzz(cases, seed=asked.seed, first=first, only=asked.only, each=count)
    for (kind, verdict), number in sorted(seen.items()):
        print(f"{kind:10} {verdict:8} {number:,}")
    print(f"{len(bad)} of {cases:,} cases are bad, {time.perf_counter() - began:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
