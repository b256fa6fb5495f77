"""Both pages as a browser shows them: nothing fetched, nothing cut off, curves that answer."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sg3flow.compare.comparison import compare
from sg3flow.compare.run_data import Point, RunData
from sg3flow.config import PackConfig, ValidateConfig
from sg3flow.data.packing import pack_images
from sg3flow.data.validation.checks import validate_packed
from sg3flow.reports import comparison_page, validation_page
from sg3flow.reports.comparison_page import Drawn

# What can be seen of a page from inside.
_PROBE = """(() => {
document.querySelectorAll("details").forEach((each) => each.open = true);
const images = [...document.images], root = document.documentElement;
const cut = (each) => each.scrollWidth > each.clientWidth + 1;
const outside = (each) => each.getBoundingClientRect().right > root.clientWidth + 1;
const cells = "h1, h2, p, td, th, small, figcaption, .badge, .tile, .chart, img";
return {
  images: images.length,
  broken: images.filter((each) => !each.complete || !each.naturalWidth).length,
  overflow: root.scrollWidth - root.clientWidth,
  width: root.clientWidth,
  cut: [...document.querySelectorAll(".scroll, .card, .tile")].filter(cut).length,
  outside: [...document.querySelectorAll(cells)].filter(outside).map((each) => each.outerHTML),
  small: [...document.querySelectorAll(".chart text")].filter((each) =>
    each.getBoundingClientRect().height < 9).length,
  charts: document.querySelectorAll(".chart").length,
  links: [...document.querySelectorAll("nav a")].map((each) => !!document.querySelector(each.hash)),
  verdict: document.querySelector(".verdict").innerText,
  fetched: performance.getEntriesByType("resource").map((each) => each.name),
  scripts: document.querySelectorAll("script").length,
  ink: getComputedStyle(document.querySelector("h1")).color,
  text: getComputedStyle(document.querySelector(".chart text")).fill,
};
})()"""


def soft(seed: int) -> Image.Image:
    small = np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


def validation(folder: Path) -> str:
    """The page of a set with something of everything that a report shows."""
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
    report = validate_packed(manifest, packed, raw, ValidateConfig(), workers=1)
    return validation_page.html_page(report, {"address": "", "command": "mlflow server --port 1"})


def comparison() -> str:
    """The page of three runs with long names, errors, and one picture that could not be drawn."""
    stream = io.BytesIO()
    soft(0).save(stream, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    runs = []
    for number, name in enumerate(("first", "a-run-with-a-very-long-name-" * 4, "<third>")):
        rows = [
            {"metric": "fid50k_full", "kimg": kimg, "value": 90.0 - kimg / 50 - 9 * number}
            | {"standard_error": 0.5, "higher_is_better": False, "reference_sha256": "r"}
            | {"detector_sha256": "d", "num_generated": 9, "num_reference": 9}
            | {"snapshot": f"network-snapshot-{kimg:06d}.pkl"}
            for kimg in (0, 1000, 2000)
        ]
        curves = {
            "Loss/G/loss": [Point(kimg, 1 + kimg / 1e3) for kimg in range(0, 2001, 4)],
            "Timing/sec_per_kimg": [Point(0, 0.001), Point(1000, 40), Point(2000, 41 + number)],
        }
        known = {"train.gamma": str(number), "train.note": "long" * 30 + str(number)}
        runs.append(
            RunData(
                "run folder",
                name,
                f"/far/{name}",
                "finished at 2000 kimg",
                known,
                {"GPU": f"NVIDIA card {number}"},
                curves,
                results=rows,
                best={"fid50k_full": rows[-1]},
                notes=["something is missing"] * (number == 1),
            )
        )
    captions = ("seed 0, cat", "seed 1, dog")
    drawn = [Drawn((picture,) * 2, captions, 64)] * 2 + [Drawn(reason="no snapshot was found")]
    return comparison_page.html_page(compare(runs), drawn, "Seeds 0-1")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Files of the two pages, by name."""
    folder = tmp_path_factory.mktemp("pages")
    files = {name: folder / f"{name}.html" for name in ("validation", "comparison")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.test:5000")
        files["validation"].write_text(validation(folder))
        files["comparison"].write_text(comparison())
    yield files


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["validation", "comparison"])
def test_a_page_is_shown_whole_and_asks_for_nothing(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.show(pages[name], width)
    seen = browser.ask(_PROBE)
    assert seen["width"] == width and seen["overflow"] <= 0
    assert (seen["cut"], seen["outside"], seen["small"]) == (0, [], 0)
    assert seen["broken"] == 0 and seen["scripts"] == 1, "the page's own; names are text"
    assert not [each for each in seen["fetched"] if not each.startswith("data:")]
    assert browser.errors == [], "the policy allows all that the page needs"
    if name == "validation":
        assert seen["images"] >= 8 and seen["charts"] == 3
        assert len(seen["links"]) >= 4 and all(seen["links"])
        assert "not ready for training" in seen["verdict"]
    else:
        assert (seen["images"], seen["charts"]) == (4, 3)
        assert "are better than A" in seen["verdict"]


@pytest.mark.parametrize("name", ["validation", "comparison"])
def test_a_page_follows_the_dark_setting(browser: Any, pages: dict[str, Path], name: str) -> None:
    seen = []
    for dark in (False, True):
        browser.show(pages[name], 1280, dark=dark)
        seen.append(browser.ask(_PROBE))
    light, dark = seen
    assert sum(_rgb(light["ink"])) < 200 < 600 < sum(_rgb(dark["ink"]))
    assert sum(_rgb(light["text"])) < sum(_rgb(dark["text"]))  # of charts


def _rgb(color: str) -> list[int]:
    return [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]


_CHART = "[...document.querySelectorAll('.chart')].find((each) => each.ariaLabel.includes('%s'))"
_TIP = "[...document.querySelectorAll('.tip')].filter((each) => !each.hidden).map((each) => each."


@pytest.mark.parametrize("width", [390, 1280])
def test_pointing_at_a_curve_shows_its_run_age_and_value(
    browser: Any, pages: dict[str, Path], width: int
) -> None:
    browser.show(pages["comparison"], width)
    chart = _CHART % "seconds per kimg"
    browser.ask(f"{chart}.scrollIntoView({{block: 'center'}})")
    box = browser.ask(
        f"(() => {{ const {{x, y, width, height}} = {chart}"
        ".getBoundingClientRect(); return {x, y, width, height}; })()"
    )
    assert browser.ask(f"{_TIP}innerText)") == []
    browser.point(box["x"] + 0.93 * box["width"], box["y"] + 0.15 * box["height"])
    [told] = browser.ask(f"{_TIP}innerText)")
    assert told.split("\n") == ["C <third>", "2000 kimg: 43"]
    [right] = browser.ask(f"{_TIP}getBoundingClientRect().right)")
    [left] = browser.ask(f"{_TIP}getBoundingClientRect().left)")
    assert 0 <= left < right <= width
    browser.point(box["x"] + 0.93 * box["width"], box["y"] + 0.95 * box["height"])
    assert "2000 kimg: 41" in browser.ask(f"{_TIP}innerText)")[0]
    browser.point(1, 1)
    assert browser.ask(f"{_TIP}innerText)") == []


def test_the_arrow_keys_walk_along_curves(browser: Any, pages: dict[str, Path]) -> None:
    browser.show(pages["comparison"], 1280)
    browser.ask(f"{_CHART % 'seconds per kimg'}.focus()")
    shown = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        browser.press(key)
        shown += browser.ask(f"{_TIP}innerText)")
    values = [each.rpartition("\n")[2] for each in shown]
    # The report before the first picture is not there: it would tell of no speed.
    assert values == ["2000 kimg: 41", "2000 kimg: 42", "1000 kimg: 40", "1000 kimg: 40"]


def test_a_value_of_a_histogram_is_shown(browser: Any, pages: dict[str, Path]) -> None:
    browser.show(pages["validation"], 1280)
    browser.ask(f"{_CHART % 'Brightness'}.focus()")
    browser.press("ArrowRight")
    [told] = browser.ask(f"{_TIP}innerText)")
    assert told.startswith("Brightness") and "images" in told


def test_the_probe_sees_what_a_page_asks_for_and_what_is_cut_off(
    browser: Any, tmp_path: Path
) -> None:
    page = """<!doctype html><h1>x</h1><p class="verdict"></p>
    <svg class="chart"><text>.</text></svg>
    <img src="gone.png"><div class="card" style="width: 90px; overflow: hidden"><p
    style="width: 400px">wide</p></div><script>fail()</script>
    <div style="width: 3000px; background: url(http://far.invalid/a.png)">wide</div>"""
    (tmp_path / "page.html").write_text(page)
    browser.show(tmp_path / "page.html", 390)
    seen = browser.ask(_PROBE)
    # What comes from files is not counted as fetched; it would not be there elsewhere.
    assert seen["broken"] == 1 and seen["overflow"] > 2000 and seen["cut"] == 1
    assert [name.rpartition("/")[2] for name in seen["fetched"]] == ["a.png"]
    assert any("fail is not defined" in error for error in browser.errors)
