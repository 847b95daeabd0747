"""The page, used in a real Chromium as people use it: files dropped, pasted, chosen, photographed; by keyboard."""

from __future__ import annotations

import csv
import io
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zoo
from PIL import Image, ImageChops
from tests.browser import CHROMIUM, Browser, browser
from tests.serving.conftest import Served, serving
from tests.serving.screenshot import HEIGHT, WIDTH, take
from tests.serving.test_server import ask

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
ROOT = Path(__file__).parents[2]
READY = "document.querySelectorAll('#bars li').length > 0 && !document.getElementById('views').hidden"
EVIL = "<script>document.title='broken'<"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(chromium: Browser, served: Served) -> Browser:
    chromium.look(width=1280)
    chromium.messages.clear()
    chromium.requests.clear()
    chromium.open(served.url)
    return chromium


def text(page: Browser, selector: str) -> str:
    return str(page.js(f"document.querySelector({selector!r}).innerText"))


def test_a_dropped_image_is_classified_and_explained(page: Browser, served: Served, pictures: list[Path]) -> None:
    page.drop([pictures[0]])
    page.wait(READY)
    said = zoo.load(served.run).predict(pictures[0])[0]
    assert text(page, "#answer") == said.label and text(page, "#source") == pictures[0].name
    shown = page.js("[...document.querySelectorAll('#bars li')].map(e => e.innerText.replace(/\\s+/g, ' '))")
    assert shown == [f"{name} {100 * probability:.1f} %" for name, probability in said.top]
    widths = page.js("[...document.querySelectorAll('#bars i')].map(e => e.offsetWidth / e.parentNode.offsetWidth)")
    assert widths == pytest.approx([probability for _, probability in said.top], abs=0.01)
    unsure = page.js("!document.getElementById('unsure').hidden")
    assert unsure == (said.probability < 0.5)
    loaded = page.js("['picture', 'seen', 'overlay'].map(name => document.getElementById(name).naturalWidth)")
    with Image.open(pictures[0]) as picture:
        assert loaded[0] == picture.width and loaded[1] == loaded[2] > 0
    assert page.messages == [], "nothing was refused by the policy, nothing broke"
    assert all(each.startswith((served.url, "blob:", "data:")) for each in page.requests), "nothing from other hosts"


@contextmanager
def proxied(served: Served) -> Iterator[str]:
    """The address of a proxy that has the server below a folder, as docs/deploy.md shows it for nginx."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/flowers/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = HTTPConnection("127.0.0.1", served.port)
            kept = {
                name: self.headers[name]
                for name in ("Content-Type", "Origin", "Sec-Fetch-Site")
                if name in self.headers
            }
            connection.request(self.command, self.path.removeprefix("/flowers"), body or None, kept)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())
            connection.close()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}/flowers/"
        proxy.shutdown()


def test_it_works_below_a_folder_of_a_proxy(page: Browser, served: Served, pictures: list[Path]) -> None:
    with proxied(served) as address:
        page.open(address)
        page.drop([pictures[0]])
        page.wait(READY)
        assert text(page, "#answer") == zoo.load(served.run).predict(pictures[0])[0].label
        assert f"{address}predict" in text(page, "#about") and page.messages == []
        assert page.js("document.querySelector('#about a').href") == f"{address}openapi.json"
    # The link to all classes is there only where there are many.
    assert not re.search(r'(href|src)="/', (ROOT / "zoo/serving/templates/serve.html").read_text("utf-8"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_sticks_out_and_it_is_dark_where_people_want_it(
    width: int, dark: bool, page: Browser, pictures: list[Path], tmp_path: Path
) -> None:
    page.look(width=width, dark=dark, phone=width == 400)
    long_name = shutil.copy(pictures[1], tmp_path / f"{'IMG_20260101' * 12}.jpg")
    page.drop([pictures[0], Path(long_name)])
    page.wait(READY)
    page.wait("/2 images, 0 could not/.test(document.getElementById('status').textContent)")
    assert page.js("document.documentElement.scrollWidth") == width and page.sticks_out() == []
    with Image.open(page.picture(tmp_path / "page.png")) as picture:
        corner = picture.convert("RGB").crop((0, 0, 1, 1)).tobytes()
    assert (max(corner) < 60) == dark


def test_several_images_become_a_table_and_the_table_a_csv(
    page: Browser, served: Served, pictures: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / 'a, "bad" one.jpg'
    bad.write_text("<html>")
    page.drop([*pictures[:5], bad])
    page.wait("/6 images, 1 could not/.test(document.getElementById('status').textContent)")
    rows = list(csv.DictReader(io.StringIO(page.js("csv()"), newline="")))
    predicted = zoo.load(served.run).predict(pictures[:5])
    assert [row["source"] for row in rows] == [*(path.name for path in pictures[:5]), bad.name]
    assert [row["label"] for row in rows] == [*(each.label for each in predicted), ""]
    assert [float(row["probability"]) for row in rows[:5]] == pytest.approx(
        [each.probability for each in predicted], abs=1e-5
    )
    assert "not an image that can be read" in rows[5]["error"]
    assert len(page.js("[...document.querySelectorAll('#rows .error')].map(e => e.innerText)")) == 1
    page.js("document.querySelectorAll('#rows button')[5].click()")
    assert text(page, "#answer") == "No answer" and "not an image" in text(page, "#fault")
    assert page.js("document.querySelectorAll('#rows tr')[5].getAttribute('aria-current')") == "true"
    page.js("document.getElementById('clear').click()")
    assert page.js("document.getElementById('one').hidden && document.getElementById('many').hidden")


def test_it_works_with_a_keyboard(page: Browser, pictures: list[Path]) -> None:
    page.drop(pictures[:3])
    page.wait("/3 images, 0 could not/.test(document.getElementById('status').textContent)")
    seen = []
    for _ in range(12):
        page.press("Tab")
        seen.append(page.js("document.activeElement.id || document.activeElement.innerText"))
    assert [name for name in dict.fromkeys(seen) if name in ("choose", "photograph", "save", "clear")] == [
        *("choose", "photograph", "save", "clear")
    ]
    page.js("document.querySelectorAll('#rows button')[1].focus()")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.press("Tab")
    assert page.js(outline) == "solid", "where the keyboard is can be seen"
    page.press("Enter")
    assert text(page, "#source") == pictures[2].name
    assert page.js("document.activeElement.id") == "answer", "and where the answer is, is said"


@pytest.mark.long
def test_images_are_chosen_pasted_and_photographed(page: Browser, pictures: list[Path]) -> None:
    page.choose("#files", [pictures[0]])
    page.wait(READY)
    page.js(
        """(async () => {
            const canvas = Object.assign(document.createElement('canvas'), {width: 30, height: 20});
            const blob = await new Promise(done => canvas.toBlob(done));
            const data = new DataTransfer();
            data.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}));
        })()"""
    )
    page.wait("/2 images, 0 could not/.test(document.getElementById('status').textContent)")
    page.js("document.getElementById('photograph').click()")
    page.wait("document.getElementById('camera').open && document.getElementById('video').videoWidth > 0")
    page.js("document.getElementById('shoot').click()")
    page.wait("/3 images, 0 could not/.test(document.getElementById('status').textContent)")
    assert page.js("document.getElementById('video').srcObject === null"), "the camera is off again"
    assert text(page, "#source") == "photo.png" and page.messages == []


@pytest.mark.long
def test_names_of_classes_and_files_stay_text(chromium: Browser, tmp_path: Path, pictures: list[Path]) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate((EVIL, "plain")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                shutil.copy(pictures[index + 3 * (number % 3)], folder / f"{split}{number}.jpg")
    out = tmp_path / "<b>run"
    zoo.finetune(
        "timm/test_resnet", weights="random", data=tmp_path / "data", recipe="head_only", epochs=1, out=out, tune=False
    )
    evil = shutil.copy(pictures[0], tmp_path / "<img src=x onerror=alert(1)>.jpg")
    with serving(out) as served:
        chromium.messages.clear()
        chromium.open(served.url)
        chromium.drop([Path(evil)])
        chromium.wait(READY)
        assert chromium.js("document.title") == "<b>run: zoo serve" and chromium.messages == []
        assert EVIL in text(chromium, ".lead") and text(chromium, "#source") == "<img src=x onerror=alert(1)>.jpg"


@pytest.mark.long
def test_the_picture_in_the_documents_is_one_that_the_script_takes(
    run: Path, pictures: list[Path], tmp_path: Path
) -> None:
    taken = take(run, pictures[0], tmp_path / "serve.png", tmp_path)
    with Image.open(taken) as new, Image.open(ROOT / "docs" / "images" / "serve.png") as shown:
        assert new.size == shown.size == (WIDTH, HEIGHT)
        # The page around the pictures is the same: the field to drop images on, its border included.
        field = (0, 165, WIDTH, 355)
        differing = ImageChops.difference(new.convert("L").crop(field), shown.convert("L").crop(field))
        assert sum(differing.point(lambda level: int(level > 40)).histogram()[1:]) < 0.01 * WIDTH * 190


def test_a_browser_is_told_to_run_nothing_else(served: Served) -> None:
    answer = ask(served, "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.findall(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:)|<img[^>]+src=", answer.body)
    assert ask(served, "/classes").headers["Content-Security-Policy"].startswith("default-src 'none'")
