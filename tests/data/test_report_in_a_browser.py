"""The validation report as a browser shows it: nothing fetched, nothing cut off, every picture."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sg3flow.config import PackConfig, ValidateConfig
from sg3flow.data.checks import validate_packed
from sg3flow.data.checks_report import html_page
from sg3flow.data.pack import pack_images

_BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-component-update --disable-background-networking"
).split()
# Looks at the page from inside once all of it is there; the result is read from its title.
_PROBE = """<script>
addEventListener("load", () => {
document.querySelectorAll("details").forEach((each) => each.open = true);
const images = [...document.images];
document.title = JSON.stringify({
  images: images.length,
  broken: images.filter((each) => !each.complete || !each.naturalWidth).length,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  width: document.documentElement.clientWidth,
  links: [...document.querySelectorAll("nav a")].map((each) => !!document.querySelector(each.hash)),
  verdict: document.querySelector(".verdict").innerText,
  fetched: performance.getEntriesByType("resource").map((each) => each.name),
  scripts: document.querySelectorAll("script").length,
});
});
</script>"""

pytestmark = pytest.mark.skipif(_BROWSER is None, reason="needs Chromium")


def soft(seed: int) -> Image.Image:
    small = np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A set with something of everything that a report shows."""
    folder = tmp_path_factory.mktemp("messy")
    for number in range(12):
        place = folder / "raw" / ("val" if number > 9 else "train") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        soft(number).save(place / f"{number}.png")
    train = folder / "raw" / "train" / "a"
    soft(0).save(train / ("a copy with a very long name " * 5 + "猫 <script>.png"))
    soft(10).save(train / "leak.png")
    soft(2).save(train / "near.jpg", quality=40)
    soft(3).filter(ImageFilter.GaussianBlur(9)).save(train / "blurred.png")
    Image.new("RGB", (64, 64), "red").save(train / "blank.png")
    (train / "<img src=x onerror=alert(1)>.png").write_bytes(b"")
    paths = (folder / name for name in ("manifest.parquet", "set.zip", "raw"))
    manifest, packed, raw = paths
    config = PackConfig(subset="train", labels="folders", max_rejects=1)
    pack_images(raw, packed, manifest, config, workers=1)
    return html_page(validate_packed(manifest, packed, raw, ValidateConfig(), workers=1))


def browse(folder: Path, page: str, width: int) -> dict[str, Any]:
    """What the probe found in the page."""
    assert _BROWSER is not None
    file = folder / "page.html"
    file.write_text(page.replace("</body>", _PROBE + "</body>"))
    arguments = (f"--user-data-dir={folder}", f"--window-size={width},900", "--dump-dom")
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"  # the browser itself calls home
    command = [_BROWSER, *_QUIET, offline, *arguments, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[:500]
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    return found


@pytest.mark.parametrize("width", [1280, 500])
def test_a_report_is_shown_whole_and_asks_for_nothing(
    page: str, tmp_path: Path, width: int
) -> None:
    seen = browse(tmp_path, page, width)
    assert seen["width"] <= width and seen["overflow"] <= 0
    assert seen["images"] >= 8 and seen["broken"] == 0
    assert len(seen["links"]) >= 4 and all(seen["links"])
    assert "not fit to train on" in seen["verdict"]
    assert seen["scripts"] == 1, "only the probe; names are text"
    assert not [name for name in seen["fetched"] if not name.startswith("data:")]


def test_the_probe_sees_what_a_page_asks_for(tmp_path: Path) -> None:
    page = """<!doctype html><title></title><body><p class="verdict"></p><img src="gone.png">
    <div style="width: 3000px; background: url(http://far.invalid/a.png)">wide</div></body>"""
    seen = browse(tmp_path, page, 500)
    # What comes from files is not counted as fetched; it would not be there elsewhere.
    assert seen["broken"] == 1 and seen["overflow"] > 2000
    assert [name.rpartition("/")[2] for name in seen["fetched"]] == ["a.png"]
