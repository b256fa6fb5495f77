"""What all pages share: Jinja2 templates, one style, one script, and a strict content policy.

A page is one file that opens offline. Whatever a name or a setting says, it is shown as text: the
templates escape every value, and the policy allows no script and no style but the two that this
package wrote, by their digests.
"""

import base64
import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from sg3flow.addresses import shown_url
from sg3flow.errors import DataError
from sg3flow.project import project_root
from sg3flow.reports.charts import DARK, HUES, LIGHT
from sg3flow.tracking.store import tracking_uri

_SEARCHED_BYTES = 4096  # the generator stands before the style, at the top of a page


def render_page(template: str, generator: str, title: str, values: dict[str, Any]) -> str:
    """One self-contained HTML page; equal values give equal text.

    Args:
        template: file name in ``templates/``.
        generator: the mark by which ``refuse_foreign_page`` knows the page.
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


def refuse_foreign_page(path: Path, generator: str, message: str) -> None:
    """Check that nothing but a page of this kind stands where one is to be written.

    Raises:
        DataError: something else stands there; ``message`` says so.
    """
    mark = f'<meta name="generator" content="{generator}">'
    if path.exists() and (
        path.is_dir() or mark.encode() not in path.read_bytes()[:_SEARCHED_BYTES]
    ):
        raise DataError(message)


def tracking_place() -> dict[str, str]:
    """Where the tracking store can be looked at.

    Returns:
        ``address``: of its pages, empty for a local store; ``command``: what opens a local store,
        empty for a server. No password and, for the project's own store, no path of this machine.
    """
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        return {"address": shown_url(uri).rstrip("/"), "command": ""}
    own = uri == f"sqlite:///{project_root() / 'mlflow.db'}"
    shown = "sqlite:///mlflow.db" if own else shown_url(uri)
    return {"address": "", "command": f"mlflow server --backend-store-uri {shown} --port 5000"}


def data_uri(picture: Image.Image, side: int) -> str:
    """A small copy of a picture, at most ``side`` pixels wide and high, as a data URI."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


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
