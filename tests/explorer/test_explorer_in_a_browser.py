"""The page in a real browser: every control once, on a phone and on a desk; no other host."""

import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.commands import app

pytestmark = pytest.mark.medium

# All that a person can operate, by a name: the id, or the label with its group.
_CONTROLS = """[...document.querySelectorAll(
  "#main button, #main input, #main select, #main summary, #main a[href], #main video")]
  .filter((each) => each.checkVisibility() && !each.disabled)"""
_NAME = """((each) => each.id || each.closest("[id]").id + ":" +
  (each.getAttribute("aria-label") || each.innerText.trim() || each.tagName)
  .replace(/[0-9]+/g, "#"))"""
_FOUND = f"({_CONTROLS}).map({_NAME})"
_PLACE = """(() => {{
  const each = ({controls}).find((each) => ({name})(each) === {wanted});
  if (!each) return null;
  each.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
  const box = each.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  const top = document.elementFromPoint(x, y);
  return {{x, y, isFree: each === top || each.contains(top), width: box.width, height: box.height}};
}})()"""


class Explored:
    """A page of a network, operated as a person would."""

    def __init__(self, browser: Any, url: str, folder: Path) -> None:
        self.browser, self.url, self.folder = browser, url, folder
        self.used: set[str] = set()
        self.known: set[str] = set()

    def show(self, width: int, words: str = "", *, dark: bool = False) -> None:
        height = 844 if width < 600 else 900
        self.browser.call(
            "Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.folder)
        )
        self.browser.show(self.url + words, width, height, dark=dark)
        self.settle()

    def settle(self) -> None:
        """Wait until the large picture is that of the controls."""
        self.browser.wait_for(
            "document.getElementById('main').getAttribute('aria-busy') === 'false' && "
            "!document.getElementById('main').hidden"
        )
        self.known |= set(self.browser.ask(_FOUND))

    def ask(self, expression: str) -> Any:
        return self.browser.ask(expression)

    def text(self, name: str) -> str:
        return str(self.ask(f"document.getElementById({json.dumps(name)}).textContent"))

    def click(self, name: str) -> None:
        """Press a control with the mouse where it is seen, and wait for the picture."""
        self.used.add(name)
        place = _PLACE.format(controls=_CONTROLS, name=_NAME, wanted=json.dumps(name))
        found = self.ask(place)
        assert found, f"no {name} among {self.ask(_FOUND)}"
        assert found["isFree"], f"{name} is covered"
        assert min(found["width"], found["height"]) >= 18, f"{name} is too small: {found}"
        self.browser.point(found["x"], found["y"])
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call(
                "Input.dispatchMouseEvent",
                type=kind,
                button="left",
                clickCount=1,
                x=found["x"],
                y=found["y"],
            )
        self.settle()

    def write(self, name: str, value: str) -> None:
        """Replace the content of a field."""
        self.used.add(name)
        self.ask(
            f"(() => {{ const each = ({_CONTROLS}).find((each) => {_NAME}(each) === "
            f"{json.dumps(name)}); each.focus(); each.value = {json.dumps(value)}; "
            "each.dispatchEvent(new Event('input', {bubbles: true})); "
            "each.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        self.settle()

    def slide(self, name: str) -> None:
        """Move a slider by the keyboard."""
        self.used.add(name)
        before = float(self.ask(f"document.getElementById({json.dumps(name)}).value"))
        self.ask(f"document.getElementById({json.dumps(name)}).focus()")
        for _ in range(3):
            self.browser.press("ArrowRight")
        self.settle()
        assert float(self.ask(f"document.getElementById({json.dumps(name)}).value")) > before

    def pixels(self) -> np.ndarray:
        """The large picture."""
        script = (
            "(() => { const img = document.getElementById('picture'), pen = "
            "new OffscreenCanvas(16, 16).getContext('2d'); pen.drawImage(img, 0, 0); "
            "return [...pen.getImageData(0, 0, 16, 16).data]; })()"
        )
        values = np.array(self.ask(script), np.uint8).reshape(16, 16, 4)
        return values[:, :, :3]

    def changed(self, before: np.ndarray) -> bool:
        return not np.array_equal(before, self.pixels())

    def saved(self, name: str) -> bytes:
        """The content of a download."""
        path, deadline = self.folder / name, time.monotonic() + 60
        while not path.exists() or path.stat().st_size == 0:
            assert time.monotonic() < deadline, list(self.folder.iterdir())
            time.sleep(0.02)
        content = path.read_bytes()
        path.unlink()
        return content

    def check(self) -> None:
        """Nothing failed, nothing came from elsewhere, and nothing is cut off."""
        # A picture that a newer one replaced is answered with 409, which Chromium also logs.
        errors = [each for each in self.browser.errors if "409 (Conflict)" not in each]
        assert errors == []
        assert self.text("problem") == ""
        fetched = self.ask("performance.getEntriesByType('resource').map((each) => each.name)")
        assert fetched and all(
            each.startswith((self.url, f"blob:{self.url}"[:20])) for each in fetched
        ), fetched
        root = "document.documentElement"
        assert self.ask(f"{root}.scrollWidth - {root}.clientWidth") == 0
        unnamed = self.ask(
            f"({_CONTROLS}).filter((each) => !(each.innerText || '').trim() && !each.ariaLabel && "
            "!(each.labels && each.labels.length) && each.tagName !== 'VIDEO')"
            ".map((each) => each.outerHTML)"
        )
        assert unnamed == []


@contextmanager
def exploring(arguments: list[str], log: Path) -> Iterator[str]:
    """The address of `sg3flow explore`, until the block ends."""
    command = [sys.executable, "-m", "sg3flow", "explore", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found, log.read_text()
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def url(package, tmp_path_factory) -> Iterator[str]:
    """The address of `sg3flow explore` with a file of directions."""
    folder = tmp_path_factory.mktemp("explore")
    made = [str(package()), "--num", "3", "--output", str(folder / "mine.npz")]
    done = CliRunner().invoke(app, ["directions", "--network", *made, "--method", "pca"])
    assert done.exit_code == 0, done.output
    arguments = [str(package()), "--directions", str(folder / "mine.npz")]
    with exploring(arguments, folder / "log") as found:
        yield found


@pytest.fixture
def explored(browser, url, tmp_path) -> Explored:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Explored(browser, url, folder)


def rendered(command: str, folder: Path) -> bytes:
    words = shlex.split(command)
    done = CliRunner().invoke(app, [*words[1:-1], str(folder / "pictures")])
    assert done.exit_code == 0, done.output
    (path,) = (folder / "pictures").iterdir()
    content = path.read_bytes()
    path.unlink()
    return content


def use_picture(page: Explored, folder: Path) -> None:
    """Seed, class, psi and placement; saving; the command."""
    before = page.pixels()
    page.write("seed", "7")
    assert page.changed(before)
    page.click("classes:dog")
    page.click("classes:wild")
    page.click("classes:cat")
    page.click("classes:dog")
    for name in ("psi", "translate_x", "translate_y", "rotate"):
        before = page.pixels()
        page.slide(name)
        assert page.changed(before), name
    page.ask("document.activeElement.blur()")
    page.write("main:Truncation psi, exactly", "0.5")
    page.write("moves:Rotate, exactly", "12.5")
    page.click("save-png")
    png = page.saved("seed0007.png")
    page.browser.wait_for("document.getElementById('command').textContent.includes('12.5')")
    command = page.text("command")
    assert "--seeds 7 --trunc=0.5 --class 1" in command and "--rotate=12.5" in command
    assert rendered(command, folder) == png
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), page.pixels())
    page.click("save-npz")
    with np.load(io.BytesIO(page.saved("seed0007.npz"))) as content:
        assert content["w"].ndim == 3
    page.click("main:Reset: Truncation psi")
    for label in ("Shift right", "Shift down", "Rotate"):
        page.click(f"moves:Reset: {label}")
    page.write("moves:Shift right, exactly", "0.25")
    page.write("moves:Shift down, exactly", "-0.25")
    for name in ("copy-command", "share", "random"):
        page.click(name)


def use_mixing(page: Explored) -> None:
    page.click("mixing:Mix styles")
    page.write("seed", "5")
    before = page.pixels()
    page.click("mix-on")
    assert page.changed(before)
    page.write("mix-seed", "3")
    for name in ("mixing:Coarse", "mixing:Middle", "mixing:Fine", "mixing:All", "layers:Layer #"):
        page.click(name)
    page.click("mix-random")
    page.click("mix-click")
    page.click("tiles:seed #")
    assert page.ask("document.getElementById('mix-seed').value") == "0"
    page.click("mix-click")
    page.click("mix-on")


def use_directions(page: Explored) -> None:
    page.click("directions:Directions")
    page.browser.wait_for("document.querySelectorAll('#edits .slider').length === 3")
    before = page.pixels()
    page.slide("edit-pca0")
    assert page.changed(before)
    page.slide("edit-pca1")
    page.slide("edit-pca2")
    page.write("edits:pca#, exactly", "1.5")
    page.click("edits:Reset: pca#")
    page.write("direction-set", "sefa:0-15")
    page.browser.wait_for("document.querySelectorAll('#edits .slider').length === 10")
    page.settle()
    page.slide("edit-sefa0")
    page.write("edits:sefa#, exactly", "0.5")
    page.click("edits:Reset: sefa#")
    page.slide("edit-sefa0")
    page.click("reset-edits")
    assert page.ask("document.getElementById('edit-sefa0').value") == "0"
    page.click("save-directions")
    with np.load(io.BytesIO(page.saved("directions.npz"))) as content:
        assert content["names"][0] == "sefa0"
    for number in range(10):
        page.slide(f"edit-sefa{number}")
    page.click("reset-edits")


def use_wall_and_film(page: Explored) -> None:
    page.click("wall-next")
    assert page.ask("document.getElementById('wall-from').value") == "24"
    page.click("wall-back")
    page.write("wall-from", "2")
    page.click("more")
    page.browser.wait_for("document.querySelectorAll('#tiles li').length === 48")
    page.click("tiles:seed #")
    assert page.ask("document.getElementById('seed').value") == "2"
    page.click("tiles:add seed # to the film")
    page.click("pick")
    page.click("pick")
    page.click("picks:show seed #")
    page.click("picks:remove seed # from the film")
    page.write("frames", "2")
    page.write("fps", "10")
    page.click("make-film")
    page.browser.wait_for("document.getElementById('film-video').readyState >= 1")
    page.settle()
    assert page.ask("document.getElementById('film-video').videoWidth") == 256
    page.click("film-download")
    assert page.saved("film.mp4")[4:8] == b"ftyp"
    page.click("film-keyframes")
    assert [each["index"] for each in json.loads(page.saved("keyframes.json"))] == [0, 1]
    page.click("film-w")
    page.saved("keyframes.npz")
    page.click("copy-film")
    page.used.add("film-video")
    page.write("frames", "600")
    page.click("make-film")
    page.browser.wait_for("!document.getElementById('stop-film').hidden")
    page.click("stop-film")
    page.browser.wait_for("document.getElementById('film-state').textContent === 'stopped'")
    page.settle()
    page.click("clear-picks")
    page.click("film:Film")


def use_photo(page: Explored, folder: Path) -> None:
    page.click("photo:Photo")
    photo = folder / "photo.jpg"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (30, 20, 3), np.uint8)).save(photo)
    root = page.browser.call("DOM.getDocument")["root"]["nodeId"]
    node = page.browser.call("DOM.querySelector", nodeId=root, selector="#photo-file")["nodeId"]
    page.browser.call("DOM.setFileInputFiles", files=[str(photo)], nodeId=node)
    page.used.add("photo-file")
    page.write("space", "w+")
    page.write("loss", "pixels")
    page.write("crop", "none")
    page.write("steps", "5")
    page.click("project")
    page.browser.wait_for("!document.getElementById('stored').hidden")
    page.settle()
    assert "dB" in page.text("photo-found-caption")
    assert page.ask("document.getElementById('photo-target').naturalWidth") == 16
    page.click("leave-stored")
    page.write("steps", "5000")
    page.click("project")
    page.browser.wait_for("document.getElementById('photo-state').textContent.includes('dB')")
    page.click("stop-photo")
    page.browser.wait_for("!document.getElementById('stored').hidden")
    page.settle()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_control_works_and_nothing_comes_from_elsewhere(explored, width, tmp_path):
    explored.show(width, dark=width == 390)
    explored.check()
    use_picture(explored, tmp_path)
    use_mixing(explored)
    use_directions(explored)
    use_wall_and_film(explored)
    use_photo(explored, tmp_path)
    explored.check()
    assert explored.known - explored.used == set()


def test_labels_and_noise_of_a_stylegan2(browser, package, tmp_path):
    """A network that neither moves nor has classes: other controls."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    source = str(package("stylegan2", 2, vectors=True))
    with exploring([source], tmp_path / "log") as url:
        page = Explored(browser, url, folder)
        page.show(1280)
        assert not {"translate_x", "rotate", "classes:cat"} & page.known
        before = page.pixels()
        page.write("noise_mode", "none")
        assert page.changed(before)
        page.write("noise_mode", "const")
        page.write("label", "0.25, -2")
        assert page.changed(before)
        page.check()
        page.browser.wait_for("document.getElementById('command').textContent.includes('=0.25,-2')")
        page.click("save-png")
        assert rendered(page.text("command"), tmp_path) == page.saved("seed0000.png")
        page.write("label", "1, x")
        words = "A label must be 2 numbers, separated by commas."
        assert page.text("problem") == words
        page.write("label", "0.5, 0.5")
        assert not page.changed(before) and page.text("problem") == ""
        page.show(1280, '#picture={"label":5}')
        assert page.ask("document.getElementById('label').value") == "0.5, 0.5"
        page.check()


def test_a_view_is_in_its_address(explored):
    explored.show(1280)
    explored.write("seed", "11")
    explored.click("mixing:Mix styles")
    explored.click("mixing:Coarse")
    explored.write("mix-seed", "3")
    explored.click("pick")
    before = explored.pixels()
    explored.browser.wait_for("location.hash.includes('film')")
    words = explored.ask("location.hash")
    explored.show(1280, words)
    assert not explored.changed(before)
    assert explored.ask("document.querySelectorAll('#picks li').length") == 1
    assert explored.ask("document.getElementById('mix-seed').value") == "3"
    explored.check()


@pytest.mark.parametrize(
    "words",
    [
        "#picture=%7B%22seed%22%3A-5%7D&wall=x&film=7",
        "#picture=[1]&mix=a:b&film={}",
        '#picture={"psi":"<b>","edits":5,"w":5}',
        '#picture={"label":5,"mix":{"layers":5}}',
        "#%%%",
    ],
)
def test_a_damaged_address_shows_the_usual_view(explored, words):
    explored.show(1280, words)
    explored.check()
    assert explored.ask("document.getElementById('seed').value") == "0"


def test_hostile_values_get_a_sentence_and_the_picture_stays(explored):
    explored.show(1280)
    before = explored.pixels()
    for name, value, words in (
        ("seed", "-1", "A seed must be a whole number from 0 to 4294967295."),
        ("seed", "4294967296", "A seed must be a whole number"),
        ("seed", "1.5", "A seed must be a whole number"),
        ("main:Truncation psi, exactly", "99", "psi must be a number from -2 to 2, not 99"),
        ("moves:Shift right, exactly", "1e300", "translate must be a number from -1000 to 1000"),
    ):
        explored.write(name, value)
        explored.browser.wait_for(
            f"document.getElementById('problem').textContent.includes({json.dumps(words)})"
        )
        assert not explored.changed(before)
    explored.click("main:Reset: Truncation psi")
    explored.click("moves:Reset: Shift right")
    explored.write("seed", "0")
    assert explored.text("problem") == ""
    photo = explored.folder / "photo.png"
    photo.write_bytes(b"<script>alert(1)</script>")
    explored.click("photo:Photo")
    root = explored.browser.call("DOM.getDocument")["root"]["nodeId"]
    node = explored.browser.call("DOM.querySelector", nodeId=root, selector="#photo-file")
    explored.browser.call("DOM.setFileInputFiles", files=[str(photo)], nodeId=node["nodeId"])
    explored.click("project")
    explored.browser.wait_for(
        "document.getElementById('problem').textContent.includes('not a picture in a format')"
    )


def test_dragging_moves_the_picture_and_a_double_click_puts_it_back(explored):
    explored.show(1280)
    before = explored.pixels()
    mouse = "Input.dispatchMouseEvent"
    explored.browser.call(mouse, type="mousePressed", button="left", clickCount=1, x=200, y=200)
    for x in range(200, 260, 3):
        explored.browser.call(mouse, type="mouseMoved", button="left", x=x, y=200)
    explored.browser.call(mouse, type="mouseReleased", button="left", clickCount=1, x=257, y=200)
    explored.settle()
    moved = float(explored.ask("document.getElementById('translate_x').value"))
    assert explored.changed(before) and 0.1 < moved < 0.2
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            explored.browser.call(mouse, type=kind, button="left", clickCount=clicks, x=200, y=200)
    explored.settle()
    assert not explored.changed(before)
    explored.check()
