"""What all pages share: Jinja2 templates, one style, one script, and a strict content policy.

A page is one file that opens offline. Whatever a name or a setting says, it is shown as text: the
templates escape every value, and the policy allows no script and no style but the two that this
package wrote, by their digests.
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

# The colors are those of Okabe and Ito (2008), which people with any color vision tell apart,
# darkened or lightened until each has a contrast of 3:1 or more with the card it is drawn on.
# blue, vermilion, green, purple, brown-orange, sky blue, ink
LIGHT = ("#0072b2", "#d55e00", "#007a5c", "#b65890", "#96690a", "#2b8cc4", "#1b2330")
DARK = ("#4aa8e8", "#ff8a3d", "#2fc295", "#e08fbd", "#e6b04a", "#8fd0f5", "#e6eaf1")
HUES = len(LIGHT)
SOFT, GRID, BAR = "#647084", "#e2e6ec", "#4c78dd"  # as pages.css has them, too
_VARIABLES = {SOFT: "var(--soft)", GRID: "var(--line)", BAR: "var(--bar)"} | {
    color: f"var(--r{index})" for index, color in enumerate(LIGHT)
}


def render_page(template: str, generator: str, title: str, values: dict[str, Any]) -> str:
    """One self-contained HTML page; equal values give equal text.

    Args:
        template: file name in ``templates/``.
        generator: the mark by which ``html_marked`` recognizes the page.
    """
    templates = _templates()
    style = templates.get_template("pages.css").render(light=LIGHT, dark=DARK, num_hues=HUES)
    script = templates.get_template("hover.js").render()
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    # The three come from this package alone, no value of a user is in them.
    texts = {"style": style, "script": script, "policy": policy}
    own = {name: Markup(text) for name, text in texts.items()}
    page = templates.get_template(template)
    return page.render(**own, generator=generator, title=title, **values)


def tracking_place() -> dict[str, str]:
    """Where the tracking store can be looked at.

    Returns:
        ``address``: of its pages, empty for a local store; ``command``: what opens a local store,
        empty for a server. No password and, for the project's own store, no path of this machine.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        return {"address": shown_url(uri).rstrip("/"), "command": ""}
    own = uri == local_tracking_uri()
    shown = "sqlite:///mlflow.db" if own else shown_url(uri)
    return {"address": "", "command": f"mlflow server --backend-store-uri {shown} --port 5000"}


def data_uri(picture: Image.Image, side: int) -> str:
    """A small copy of a picture, at most ``side`` pixels wide and high, as a data URI."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def inline_svg(svg: ElementTree.Element, label: str, lines: Sequence[Mapping[str, Any]]) -> Markup:
    """A chart that matplotlib drew as an element of a page.

    Its colors become the page's CSS variables, so that it follows the light and the dark setting,
    and its style attributes become plain ones, which the content policy allows.

    Args:
        svg: the document; it is changed.
        lines: what ``hover.js`` shows: name, hue and points of each.
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
    # Nothing of a user is markup here: ElementTree escapes texts and attributes.
    return Markup(ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False))


def _clean(element: ElementTree.Element) -> None:
    """Strip namespaces, style and identifiers that nothing refers to; shorten numbers."""
    element.tag = element.tag.rpartition("}")[2]
    old = {name.rpartition("}")[2]: text for name, text in element.attrib.items()}
    if element.tag != "path":  # those of marks are used again and again
        old.pop("id", None)
    old.pop("clip-path", None)  # everything lies within the axes
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
    """A digest as content policies write it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
