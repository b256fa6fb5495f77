"""Shared parts of all pages: Jinja2 templates, a style, a script, and a strict content policy.

A page is one file that works offline. Names and settings are shown as text: the templates escape
every value, and the content policy allows only the style and the script of this package, by digest.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sg3flow.addresses import shown_url
from sg3flow.settings import local_tracking_uri
from sg3flow.tracking.mlflow_store import tracking_uri

# Colors of Okabe and Ito (2008), distinguishable with any color vision; lightness adjusted so that
# each has a contrast of at least 3:1 with its background.
# blue, vermilion, green, purple, brown-orange, sky blue, ink
LIGHT = ("#0072b2", "#d55e00", "#007a5c", "#b65890", "#96690a", "#2b8cc4", "#1b2330")
DARK = ("#4aa8e8", "#ff8a3d", "#2fc295", "#e08fbd", "#e6b04a", "#8fd0f5", "#e6eaf1")
HUES = len(LIGHT)
SOFT, GRID, BAR = "#647084", "#e2e6ec", "#4c78dd"  # the same as in pages.css
_VARIABLES = {SOFT: "var(--soft)", GRID: "var(--line)", BAR: "var(--bar)"} | {
    color: f"var(--r{index})" for index, color in enumerate(LIGHT)
}


def render_page(template: str, generator: str, title: str, values: dict[str, Any]) -> str:
    """One self-contained HTML page; equal values give an equal page.

    Args:
        template: file name in ``templates/``.
        generator: mark by which ``html_marked`` recognizes the page.
    """
    templates = _templates()
    style = templates.get_template("pages.css").render(light=LIGHT, dark=DARK, num_hues=HUES)
    script = templates.get_template("hover.js").render()
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    # These three contain no user input, so they are not escaped.
    texts = {"style": style, "script": script, "policy": policy}
    own = {name: Markup(text) for name, text in texts.items()}
    page = templates.get_template(template)
    return page.render(**own, generator=generator, title=title, **values)


def tracking_place() -> dict[str, str]:
    """How to open the tracking store in a browser.

    Returns:
        ``address``: URL of a server, empty for a local store; ``command``: command that opens a
        local store, empty for a server. Passwords are removed, and so is the path of the
        project's own store.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        return {"address": shown_url(uri).rstrip("/"), "command": ""}
    own = uri == local_tracking_uri()
    shown = "sqlite:///mlflow.db" if own else shown_url(uri)
    command = f"mlflow server --backend-store-uri {shown} --workers 1 --port 5000"
    return {"address": "", "command": command}


def data_uri(picture: Image.Image, side: int) -> str:
    """A thumbnail of at most ``side`` pixels in width and height, as a data URI."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def inline_svg(svg: ElementTree.Element, label: str, lines: Sequence[Mapping[str, Any]]) -> Markup:
    """A chart drawn by matplotlib as an element of a page.

    Colors become CSS variables of the page, so that the chart follows light and dark mode. Style
    attributes become presentation attributes, which the content policy allows.

    Args:
        svg: the document; it is modified.
        lines: data for ``hover.js``: name, hue and points of each line.
    """
    for child in [each for each in svg if each.tag.endswith(("metadata", "defs"))]:
        svg.remove(child)
    view = svg.get("viewBox", "")
    for element in svg.iter():
        _clean(element)
    svg.attrib = {
        "class": "chart",
        "viewBox": view,
        "role": "img",
        "tabindex": "0",
        "aria-label": label,
        "data-lines": json.dumps(lines, ensure_ascii=False, separators=(",", ":")),
    }
    # Safe as markup: ElementTree escapes text and attributes.
    return Markup(ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False))


def _clean(element: ElementTree.Element) -> None:
    """Remove namespaces, styles and unused identifiers; shorten numbers."""
    element.tag = element.tag.rpartition("}")[2]
    old = {name.rpartition("}")[2]: text for name, text in element.attrib.items()}
    if element.tag != "path":  # paths of markers are referenced
        old.pop("id", None)
    old.pop("clip-path", None)  # everything is inside the axes
    for part in filter(None, old.pop("style", "").split(";")):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name != "font-family":
            old[name] = _VARIABLES.get(value, value)
    if element.tag == "text" and re.fullmatch(r"rotate\(-?0 .*", old.get("transform", "")):
        del old["transform"]
    for name in ("d", "x", "y", "transform"):
        if name in old:
            old[name] = _short(old[name])
    element.attrib = old
    element.tail = None
    if element.tag != "text":
        element.text = None


def _short(numbers: str) -> str:
    text = re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), numbers)
    return " ".join(text.split())


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("sg3flow.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(text: str) -> str:
    """A digest in the form of content policies."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
