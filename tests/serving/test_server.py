"""A real server, asked over the network of this machine: what it answers, what it refuses, how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import queue
import re
import shutil
import signal
import socket
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import zoo
from benchmarks import load
from PIL import Image
from tests.conftest import Zoo
from tests.serving.conftest import Served, serving
from zoo.artefact.config import CONFIG, SEAL
from zoo.data.decode import decode
from zoo.serving.batcher import Batch
from zoo.serving.engine import Engine, Job
from zoo.serving.limits import RequestLimits
from zoo.serving.pictures import PictureRefused, Upload
from zoo.serving.unsure import UnsureRule

CUT = "multipart/form-data; boundary=cut"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: Any


def ask(
    served: Served, path: str, body: bytes | None = None, kind: str = "image/jpeg", method: str = "", **headers: str
) -> Answer:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
    given = {"Content-Type": kind, **headers} if body is not None else headers
    connection.request(method or ("GET" if body is None else "POST"), path, body, given)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    media = answer.headers["Content-Type"]
    return Answer(answer.status, answer.headers, json.loads(text) if media.endswith("json") else text.decode())


def form(*files: tuple[str, bytes], end: bytes = b"--cut--\r\n") -> bytes:
    parts = [
        b'--cut\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in files
    ]
    return b"".join(parts) + end


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def many_scans(side: int, scans: int, *, before: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan comes so often, with `before` before each."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    return content[:-2] + (before + content[content.rindex(b"\xff\xda") : -2]) * scans + content[-2:]


def icon(width: int, height: int) -> bytes:
    """An icon of 16 x 16 pixels, as its header says, whose picture is a PNG of any size."""
    picture = png(width, height)
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def photo_of_the_press(picture: bytes) -> bytes:
    """An IPTC file, which holds another one of any format."""
    facts = {60: b"\1\0", 65: b"\0", 20: b"\0\x09", 30: b"\0\x09", 120: b"\5"}
    fields = [(3, key, value) for key, value in facts.items()] + [(8, 10, picture)]
    return b"".join(struct.pack(">3BH", 0x1C, part, key, len(value)) + value for part, key, value in fields)


def one_tile(side: int) -> bytes:
    """A TIFF of 10 x 10 pixels in a tile that is larger."""
    pixels = zlib.compress(bytes(side * side), 9)
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: len(pixels)}
    entries = b"".join(struct.pack("<2H2I", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels


def test_answers_are_those_of_predict_to_the_bit_of_their_batch(served: Served, pictures: list[Path]) -> None:
    files = {path.name: path for path in pictures}
    contents = {name: path.read_bytes() for name, path in files.items()}

    def one(number: int) -> list[Any]:
        names = [list(files)[(number + step) % len(files)] for step in range(1 + number % 3)]
        answer = ask(served, "/predict?top=3", form(*((name, contents[name]) for name in names)), CUT)
        assert answer.status == 200 and [each["source"] for each in answer.body["predictions"]] == names
        return list(answer.body["predictions"])

    with ThreadPoolExecutor(8) as pool:
        answers = [each for several in pool.map(one, range(24)) for each in several]
    batches: dict[int, dict[int, Any]] = defaultdict(dict)
    for each in answers:
        batches[each["batch"]["number"]][each["batch"]["index"]] = each
    assert len(batches) < len(answers), "requests were gathered"
    classifier = zoo.load(served.run)
    for batch in batches.values():
        members = [batch[index] for index in range(len(batch))]
        assert {each["batch"]["size"] for each in members} == {len(members)}
        again = classifier.predict([files[each["source"]] for each in members], batch_size=len(members), top=3)
        assert [[(each["label"], each["probability"]) for each in of["top"]] for of in members] == [
            list(prediction.top) for prediction in again
        ]


def test_one_image_as_it_is_and_how_many_classes_to_list(served: Served, pictures: list[Path]) -> None:
    content = pictures[0].read_bytes()
    digest = json.loads((served.run / "model" / CONFIG).read_text())["digest"]
    for kind in ("image/jpeg", "application/octet-stream", "IMAGE/JPEG; x=y"):
        answer = ask(served, "/predict", content, kind)
        (prediction,) = answer.body["predictions"]
        assert answer.status == 200 and prediction["source"] == "image 0" and len(prediction["top"]) == 3
        assert answer.body["digest"] == answer.headers["Zoo-Digest"] == digest
        assert prediction["unsure"] == (prediction["probability"] < 0.5)
    assert len(ask(served, "/predict?top=1", content).body["predictions"][0]["top"]) == 1
    for query in (
        "top=0",
        "top=4",
        "top=two",
        "top=",
        "tpo=1",
        "top=0000000019",
        "top=1&top=2",
        "url=http://localhost/",
    ):
        refused = ask(served, f"/predict?{query}", content)
        assert (refused.status, refused.body["code"]) == (422, "option"), query
    assert "Did you mean 'top'?" in ask(served, "/predict?tpo=1", content).body["detail"]


def test_it_explains_where_the_classifier_looked_and_what_it_saw(served: Served, pictures: list[Path]) -> None:
    classifier = zoo.load(served.run)
    files = [(path.name, path.read_bytes()) for path in pictures[:2]]
    answer = ask(served, "/explain", form(*files), CUT)
    assert answer.status == 200
    _, height, width = classifier.model.preprocessing.input_size
    for path, explained in zip(pictures, answer.body["explanations"], strict=False):
        assert explained["label"] == classifier.predict(path)[0].label and explained["reason"] == ""
        for name in ("seen", "overlay"):
            with Image.open(io.BytesIO(_address(explained[name]))) as picture:
                assert picture.size == (width, height)
        rows = explained["heat"]
        assert max(map(max, rows)) == pytest.approx(1) and min(map(min, rows)) >= 0
    # The next prediction is as before: explaining leaves nothing behind.
    (prediction,) = ask(served, "/predict", files[0][1]).body["predictions"]
    assert prediction["probability"] == classifier.predict(pictures[0])[0].probability


def _address(text: str) -> bytes:
    import base64

    return base64.b64decode(text.partition(",")[2])


BAD: dict[str, tuple[Callable[[bytes], tuple[bytes, str]], int, str]] = {
    "0 bytes": (lambda _: (form(("empty.jpg", b"")), CUT), 422, "empty.jpg: the file is empty"),
    "no body": (lambda _: (b"", "image/jpeg"), 422, "no body"),
    "HTML": (lambda _: (b"<html><body>", "image/jpeg"), 422, "not an image that can be read"),
    "half an image": (lambda good: (good[: len(good) // 2], "image/jpeg"), 422, "image 0: "),
    "a bomb": (lambda _: (load.bomb(30_000), "image/png"), 413, "at most 2 million pixels"),
    "too many pixels": (lambda _: (png(2000, 1001), "image/png"), 413, "at most 2 million pixels"),
    "too narrow": (lambda _: (png(1, 60_000), "image/png"), 413, "too narrow"),
    "too many bytes": (lambda good: (good + bytes(500_000), "image/jpeg"), 413, "at most 0.5 MB"),
    "too many bytes of a part": (
        lambda good: (form(("a.jpg", good), ("b.jpg", bytes(500_001))), CUT),
        413,
        "b.jpg: an image file may have at most 0.5 MB",
    ),
    "many pixels": (lambda _: (load.bomb(9_000), "image/png"), 413, "9,000 x 9,000 pixels"),
    "a large request": (lambda _: (form(*[("a.jpg", bytes(400_000))] * 7), CUT), 413, "at most 2.5 MB"),
    "1,000 images": (lambda _: (form(*[("a.jpg", b"x")] * 1000), CUT), 413, "at most 8 images"),
    "no file": (lambda _: (form(), CUT), 422, "The form has no file"),
    "nothing chosen": (lambda _: (form(("", b"")), CUT), 422, "The form has no file"),
    "many fields without a file": (lambda _: (form(*[("", b"")] * 101), CUT), 413, "more than 100 fields"),
    "an address": (lambda _: (b'{"url": "http://localhost/"}', "application/json"), 415, "never fetched"),
    "an address in a form": (
        lambda _: (b'--cut\r\nContent-Disposition: form-data; name="url"\r\n\r\nhttp://localhost/\r\n--cut--\r\n', CUT),
        422,
        "The form field 'url' is no file",
    ),
    "a form of a browser": (lambda _: (b"image=photo.jpg", "application/x-www-form-urlencoded"), 415, "Next: curl -F"),
    "no boundary": (lambda good: (form(("a.jpg", good)), "multipart/form-data"), 400, "names no boundary"),
    "another boundary": (lambda good: (form(("a.jpg", good)), CUT.replace("cut", "other")), 400, "is not multipart"),
    "a form that does not end": (lambda good: (form(("a.jpg", good), end=b""), CUT), 400, "before the last boundary"),
    "many scans": (lambda _: (many_scans(64, 200), "image/jpeg"), 422, "more than 100 scans"),
    "many scans after a thumbnail": (
        lambda _: (
            many_scans(64, 200).replace(b"\xff\xd8", b"\xff\xd8\xff\xfe\0\x06\xff\xd9\xff\xd9", 1),
            "image/jpeg",
        ),
        422,
        "more than 100 scans",
    ),
    "many scans after a mark that nothing belongs to": (
        lambda _: (many_scans(64, 200, before=b"\xff\x01"), "image/jpeg"),
        422,
        "more than 100 scans",
    ),
    "many parts": (
        lambda _: (many_scans(64, 1, before=b"\xff\xc0\0\0" * 20_000), "image/jpeg"),
        422,
        "or 10,000 parts",
    ),
    "an EPS": (lambda _: (EPS, ""), 422, "A server reads JPEG, PNG"),
    "an EPS in another file": (lambda _: (photo_of_the_press(EPS), ""), 422, "A server reads JPEG, PNG"),
    "an icon with many pixels": (lambda _: (icon(4_000, 4_000), ""), 422, "A server reads JPEG, PNG"),
    "a tile with many pixels": (lambda _: (one_tile(1_600), "image/tiff"), 413, "a tile of it has 2,560,000 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_as_rfc_9457_says(name: str, served: Served, pictures: list[Path]) -> None:
    make, status, text = BAD[name]
    body, kind = make(pictures[0].read_bytes())
    for path in ("/predict", "/explain"):
        if name in ("1,000 images", "a large request") and path == "/explain":
            continue
        answer = ask(served, path, body, kind)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (answer.status, answer.body["status"]) == (status, status) and text in answer.body["detail"]
        assert answer.body["type"] == "about:blank" and answer.body["title"] and answer.body["code"]
    assert ask(served, "/predict", pictures[0].read_bytes()).status == 200, "the next one is answered"


def test_of_a_request_with_one_bad_image_none_is_classified_and_all_bad_ones_are_named(
    served: Served, pictures: list[Path]
) -> None:
    good = pictures[0].read_bytes()
    answer = ask(served, "/predict", form(("a.jpg", good), ("b.jpg", b"no"), ("c.png", load.bomb(9000))), CUT)
    assert answer.status == 422 and "predictions" not in answer.body
    assert [(each["index"], each["source"], each["code"]) for each in answer.body["errors"]] == [
        (1, "b.jpg", "unreadable"),
        (2, "c.png", "too_many_pixels"),
    ]
    assert "No image of the request was classified" in answer.body["detail"]


def test_an_image_whose_logits_are_not_finite_is_refused_and_the_others_of_its_batch_are_answered(
    run: Path, pictures: list[Path]
) -> None:
    def not_finite_for_one_colour(module: Any, images: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill((images[0].std(dim=(2, 3)).amax(1) == 0)[:, None], torch.nan)

    classifier = zoo.load(run)
    classifier.model.register_forward_hook(not_finite_for_one_colour)
    jobs = [Job(Upload("white.png", png(9, 9)), 1), Job(Upload("a.jpg", pictures[0].read_bytes()), 1)]
    engine = Engine(classifier, UnsureRule(0.5, ""), RequestLimits())
    try:
        for kind in ("predict", "explain"):
            bad, good = engine.compute(Batch(1, kind, jobs))
            assert isinstance(bad, PictureRefused) and (bad.status, bad.code) == (422, "no_class")
            assert bad.detail.startswith("white.png: ") and not isinstance(good, Exception)
    finally:
        engine.close()


def test_a_progressive_jpeg_and_one_with_a_film_behind_it_are_images_as_any_other(served: Served) -> None:
    for scans in (0, 20):
        assert ask(served, "/predict", many_scans(64, scans)).status == 200
    mark = b"\xff\xda\0\0" * 4000
    assert ask(served, "/predict", many_scans(64, 0) + mark).status == 200
    noted = io.BytesIO()
    Image.new("RGB", (64, 64)).save(noted, "JPEG", comment=mark)
    assert ask(served, "/predict", noted.getvalue()).status == 200


def test_names_are_kept_as_they_were_sent(served: Served, pictures: list[Path]) -> None:
    names = ["Käfer 猫.jpg", "a;b=c.jpg", "../../etc/passwd", "<script>.jpg"]
    answer = ask(served, "/predict", form(*((name, pictures[0].read_bytes()) for name in names)), CUT)
    assert [each["source"] for each in answer.body["predictions"]] == names


def test_other_addresses_and_methods_are_refused_with_the_nearest(served: Served) -> None:
    answer = ask(served, "/predcit", b"")
    assert answer.status == 404 and "Did you mean '/predict'?" in answer.body["detail"]
    answer = ask(served, "/predict")
    assert answer.status == 405 and answer.headers["Allow"] == "POST" and answer.body["code"] == "method"
    assert ask(served, "/classes", b"", method="DELETE").status == 405


def test_pages_of_other_sites_are_refused(served: Served, run: Path, pictures: list[Path]) -> None:
    content = pictures[0].read_bytes()
    crossing = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    answer = ask(served, "/predict", form(("a.jpg", content)), CUT, **crossing)
    assert (answer.status, answer.body["code"]) == (403, "other_site") and "Zoo-Digest" in answer.headers
    for path, body in (("/predict", content), ("/classes", None), ("/", None)):
        answer = ask(served, path, body, Host="evil.example")  # DNS rebinding
        assert (answer.status, answer.body["code"]) == (403, "host") and "Next: zoo serve --allow-host" in str(answer)
    assert ask(served, "/predict", content, Host=f"localhost:{served.port}").status == 200


@pytest.mark.long
def test_the_name_of_a_proxy_can_be_allowed(run: Path) -> None:
    with serving(run, "--allow-host", "flowers.example", "--allow-host", "other.example") as served:
        assert ask(served, "/classes", Host="other.example").status == 200
        assert ask(served, "/classes", Host="evil.example").status == 403


def test_what_is_no_http_is_answered_and_the_connection_closed(served: Served) -> None:
    for nonsense in (b"GIVE ME\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"POST / HTTP/1.1\r\nA: " + b"x" * 70_000):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(nonsense)
            answer = b""
            while came := connection.recv(65536):
                answer += came
        assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer
        json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_request_with_two_lengths_is_answered_once_and_what_follows_it_is_not(served: Served) -> None:
    first = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(first + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while came := connection.recv(65536):
            answer += came
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "malformed"


def test_a_client_that_leaves_or_announces_too_much_harms_nobody(served: Served, pictures: list[Path]) -> None:
    content = pictures[0].read_bytes()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(load.raw(content)[:-100])
    client = load.Client(served.port)
    client.send(load.raw(content[:100], length=10**12))
    assert client.read().status == 413
    client.close()
    answer = client.ask(load.raw(content))
    assert answer.status == 200
    client.close()


def test_what_a_client_asked_for_that_leaves_is_given_up(served: Served, pictures: list[Path]) -> None:
    def left() -> float:
        return _counted(served, 'zoo_requests_total{path="/predict",status="499"}')

    before, content = left(), pictures[0].read_bytes()
    with ThreadPoolExecutor(1) as pool:
        # Takes long, as each scan goes through all pixels, and the others wait for it.
        slow = pool.submit(ask, served, "/predict", form(*[("a.jpg", many_scans(1_400, 90))] * 4), CUT)
        time.sleep(0.2)
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", served.port)) as connection:
                connection.sendall(load.raw(content))
        until = time.monotonic() + 10
        while left() < before + 10:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert not slow.done(), "they were given up while they waited"
        assert slow.result().status == 200


def test_it_says_what_it_is_and_how_it_is(served: Served, pictures: list[Path]) -> None:
    about = ask(served, "/classes").body
    assert about["name"] == "shapes" and sorted(about["classes"]) == ["blue", "green", "red"]
    assert about["unsure"]["below"] == 0.5 and about["limits"]["images"] == 8 and about["limits"]["pixels"] == 2_000_000
    for path in ("/healthz", "/readyz"):
        assert ask(served, path).body == {"status": "ok", "digest": about["digest"]}
    before = _counted(served, 'zoo_requests_total{path="/predict",status="200"}')
    ask(served, "/predict", pictures[0].read_bytes())
    assert _counted(served, 'zoo_requests_total{path="/predict",status="200"}') == before + 1
    ask(served, "/made/up")
    assert "made" not in ask(served, "/metrics").body
    assert _counted(served, "zoo_requests_under_way") == 0 and _counted(served, "zoo_request_bytes_held") == 0


def _counted(served: Served, name: str) -> float:
    line = re.search(rf"^{re.escape(name)} (\S+)$", ask(served, "/metrics").body, re.MULTILINE)
    return float(line[1]) if line else 0.0


def test_the_openapi_document_describes_what_is_answered(served: Served, pictures: list[Path]) -> None:
    document = ask(served, "/openapi.json").body
    assert document["openapi"].startswith("3.1") and set(document["paths"]) == {
        *("/", "/predict", "/explain", "/classes", "/healthz", "/readyz", "/metrics", "/openapi.json")
    }
    (top,) = document["paths"]["/predict"]["post"]["parameters"]
    # A program that sends the default must not be refused, however few classes there are.
    assert top["schema"]["default"] == top["schema"]["maximum"] == 3
    good = pictures[0].read_bytes()
    for path, methods in document["paths"].items():
        ((method, operation),) = methods.items()
        answer = ask(served, path, good if method == "post" else None)
        (media,) = operation["responses"][str(answer.status)]["content"].items()
        assert answer.headers["Content-Type"].startswith(media[0])
        if "schema" in media[1]:
            assert _faults(answer.body, media[1]["schema"], document) == []
    problem = ask(served, "/predict", b"no")
    content = document["paths"]["/predict"]["post"]["responses"][str(problem.status)]["content"]
    assert _faults(problem.body, content["application/problem+json"]["schema"], document) == []
    assert _faults({"digest": 3}, {"$ref": "#/components/schemas/HealthAnswer"}, document) != [], "it would notice"


def _faults(value: Any, schema: Any, document: Any) -> list[str]:
    """How a value differs from a schema, of the kinds that the document has."""
    if "$ref" in schema:
        return _faults(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "anyOf" in schema:
        several = [_faults(value, each, document) for each in schema["anyOf"]]
        return [] if [] in several else several[0]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    kinds["null"] = type(None)
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{value!r} is no {schema['type']}"]
    if schema["type"] == "array":
        return [fault for each in value for fault in _faults(each, schema["items"], document)]
    if schema["type"] == "object":
        properties = schema.get("properties", {})
        faults = [f"no {name}" for name in schema.get("required", []) if name not in value]
        faults += [f"{name} is not described" for name in value if name not in properties]
        return faults + [
            fault for name in value if name in properties for fault in _faults(value[name], properties[name], document)
        ]
    return []


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded_and_a_free_one_is_named(zoo_inside: Zoo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = zoo_inside("serve", "no/such/run", "--port", str(port))
        assert done.returncode == 2 and f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
        free = re.search(r"Next: zoo serve no/such/run --port (\d+)", done.stderr)
        assert free is not None and int(free[1]) != port
        # The next step gets further: to the run that does not exist.
        again = zoo_inside("serve", "no/such/run", "--port", free[1])
    assert again.returncode == 1 and "There is no 'no/such/run'" in again.stderr


def test_hosts(zoo_inside: Zoo) -> None:
    # The second is an address that no machine has; the others are no names.
    for host in ("no.such.host.invalid", "192.0.2.1", "a..b", "a" * 70):
        done = zoo_inside("serve", "run", "--port", "0", "--host", host)
        assert done.returncode == 2 and host in done.stderr and "Next: --host 127.0.0.1" in done.stderr
    for host in ("0.0.0.0", "0"):
        exposed = zoo_inside("serve", "run", "--port", "0", "--host", host)
        assert "WARNING" in exposed.stderr and "There is no authentication" in exposed.stderr
    for host in ("127.0.0.1", "localhost"):
        assert "WARNING" not in zoo_inside("serve", "run", "--port", "0", "--host", host).stderr
    assert "from 0 (any free one) to 65535" in zoo_inside("serve", "run", "--port", "65536").stderr


def changed(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    artefact = shutil.copytree(run / "model", folder / "changed")
    config = json.loads((artefact / CONFIG).read_text())
    del config[SEAL]
    change(config)
    (artefact / CONFIG).write_text(json.dumps(config))
    return artefact


def test_an_artefact_whose_plugin_is_missing_names_it(run: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    def elsewhere(config: dict[str, Any]) -> None:
        config["head"] = {**config["head"], "name": "nowhere/head", "distribution": "nowhere-heads"}

    done = zoo_inside("serve", changed(run, tmp_path, elsewhere), "--port", "0")
    assert done.returncode == 1 and "Next: pip install 'nowhere-heads==" in done.stderr


def test_a_classifier_other_than_the_one_that_was_saved_does_not_answer(
    run: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    def darker(config: dict[str, Any]) -> None:
        config["preprocessing"]["mean"] = [0.1, 0.1, 0.1]

    artefact = changed(run, tmp_path, darker)
    done = zoo_inside("serve", artefact, "--port", "0")
    assert done.returncode == 3 and "golden_preprocessing" in done.stderr and "http://" not in done.stdout
    assert f"Next: zoo verify {artefact}" in done.stderr and zoo_inside("verify", artefact).returncode == 3


def test_without_its_packages_it_says_what_to_install(zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.serving.packages.PACKAGES", ("starlette", "no_such_package"))
    done = zoo_inside("serve", "run")
    assert done.returncode == 2 and "no-such-package, which is not installed" in done.stderr
    assert "pip install 'zoo-registry[serve]'" in done.stderr


@pytest.mark.long
def test_slow_clients_are_given_up_while_others_are_answered(run: Path, pictures: list[Path]) -> None:
    content = pictures[0].read_bytes()
    slow = [kind for kind in load.HOSTILE if kind.is_slow]
    assert len(slow) == 2
    with serving(run, "--timeout", "2") as served, ThreadPoolExecutor(9) as pool:
        attacks = [pool.submit(kind.attack, load.Client(served.port), content) for kind in slow * 4]
        for _ in range(20):
            began = time.monotonic()
            assert ask(served, "/predict", content).status == 200
            assert time.monotonic() - began < 2
            time.sleep(0.05)
        answers = [attack.result() for attack in attacks]
        assert [answer.status for answer in answers if answer is not None] == [408] * 8


@pytest.mark.long
def test_more_than_may_wait_is_answered_with_when_to_come_again(run: Path, pictures: list[Path]) -> None:
    files = form(*[("a.jpg", pictures[0].read_bytes())] * 32)
    with serving(run) as served, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: ask(served, "/predict", files, CUT), range(40)))
        refused = [answer for answer in answers if answer.status != 200]
        assert {answer.status for answer in refused} <= {503} and len(refused) < 40
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert ask(served, "/predict", files, CUT).status == 200


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_what_is_under_way_be_answered(
    number: signal.Signals, code: int, run: Path, pictures: list[Path]
) -> None:
    content = pictures[0].read_bytes()
    with serving(run) as served:
        client = load.Client(served.port)
        request = load.raw(content)
        client.send(request[:-100])
        time.sleep(0.3)
        served.process.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(OSError):
            ask(served, "/healthz")  # nobody new
        client.send(request[-100:])
        assert client.read().status == 200
        client.close()
        assert served.process.wait(15) == code
        assert served.process.stderr is not None and "Traceback" not in served.process.stderr.read()


@pytest.mark.long
def test_a_second_signal_ends_it_at_once(run: Path) -> None:
    with serving(run) as served, socket.create_connection(("127.0.0.1", served.port)) as held:
        held.sendall(load.raw(bytes(1000))[:-100])
        time.sleep(0.3)
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(15) == 130 and time.monotonic() - began < 2


def test_it_serves_in_a_thread_of_a_program(
    run: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready: list[Any] = []
    heard = threading.Event()

    def note(serving: Any) -> None:
        ready.append(serving)
        heard.set()

    threading.Thread(target=zoo.serve, args=(run,), kwargs={"port": 0, "on_ready": note}, daemon=True).start()
    assert heard.wait(30)
    assert ready[0].name == "shapes" and re.fullmatch(r"http://127\.0\.0\.1:\d+", ready[0].url)
    client = load.Client(int(ready[0].url.rpartition(":")[2]))
    good = pictures[0].read_bytes()
    assert client.ask(load.raw(good)).body["digest"] == ready[0].digest

    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    # A fault of the server's own is answered, too, is in the log, and costs nobody else an answer.
    with monkeypatch.context() as patch:
        patch.setattr("zoo.serving.engine.grad_cam", broken)
        answer = client.ask(load.raw(good, path="/explain"))
    assert (answer.status, answer.body["code"]) == (500, "internal")
    until = time.monotonic() + 10
    while "RuntimeError: a fault" not in caplog.text:  # the log is written after the answer
        assert time.monotonic() < until
        time.sleep(0.01)
    assert client.ask(load.raw(good)).status == 200
    # One image that breaks what nobody thought of is not the fault of those that are in its batch.
    with monkeypatch.context() as patch:
        whole = pictures[1].read_bytes()
        patch.setattr("zoo.serving.pictures.decode", lambda content, name, **_: _breaks(content, name, whole))
        with ThreadPoolExecutor(2) as pool:
            other = load.Client(int(ready[0].url.rpartition(":")[2]))
            answers = [pool.submit(client.ask, load.raw(good)), pool.submit(other.ask, load.raw(whole))]
            assert [each.result().status for each in answers] == [200, 500]
        other.close()
    # What is wrong with a request is answered; the log, which a stranger could fill, says nothing of it.
    kind = "multipart/form-data; boundary=other"
    assert client.ask(load.raw(form(("a.jpg", good)), kind)).status == 400
    assert not [each.name for each in caplog.records if each.name.startswith(("python_multipart", "uvicorn"))]
    # More connections than may be are told to come again, and harm nobody that is connected.
    with monkeypatch.context() as patch:
        patch.setattr("zoo.serving.protocol.MOST_CONNECTIONS", 1)
        for _ in range(3):
            one_more = load.Client(int(ready[0].url.rpartition(":")[2]))
            one_more.send(b"")
            answer = one_more.read()
            assert (answer.status, answer.body["code"]) == (503, "busy")
            one_more.close()
        assert client.ask(load.raw(good)).status == 200
    client.close()


def _asking_on_and_on(port: int) -> socket.socket:
    """A connection that has asked for more answers than the system has room for."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    return client


@pytest.mark.long
def test_a_client_that_reads_nothing_is_cut_off_and_one_that_reads_is_not(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=zoo.serve, args=(run,), kwargs={"port": 0, "on_ready": ready.put}, daemon=True).start()
    port = int(ready.get(timeout=30).url.rpartition(":")[2])
    monkeypatch.setattr("zoo.serving.protocol.STALLED_SECONDS", 0.4)
    with _asking_on_and_on(port) as idle, _asking_on_and_on(port) as reading:
        came, cut_off, until = 0, False, time.monotonic() + 10
        while not cut_off or time.monotonic() < until - 8.5:
            assert time.monotonic() < until
            time.sleep(0.02)
            with contextlib.suppress(BlockingIOError):
                came += len(reading.recv(1 << 16))
            try:
                idle.send(b"G")
            except BlockingIOError:
                continue
            except OSError:
                cut_off = True
        assert came > 300_000
        reading.setblocking(True)
        assert reading.recv(1), "it is answered on"


def test_it_serves_where_an_event_loop_runs_already_as_in_a_notebook(run: Path) -> None:
    answers: list[int] = []

    def asked_and_ended(serving: Any) -> None:
        def ask_and_end() -> None:
            client = load.Client(int(serving.url.rpartition(":")[2]))
            answers.append(client.ask(load.raw(b"no image")).status)
            client.close()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=ask_and_end).start()

    async def cell() -> None:
        zoo.serve(run, port=0, on_ready=asked_and_ended)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(cell())
    assert answers == [422]


def _breaks(content: bytes, name: str, on: bytes) -> Image.Image:
    if content == on:
        raise ZeroDivisionError
    return decode(content, name=name)
