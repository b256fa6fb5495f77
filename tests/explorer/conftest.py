"""A small conditional network as a package on disk, and an explorer of it."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sg3flow.checkpoints.loading import package_generator
from sg3flow.explorer.access import OwnPagesOnly, names_of
from sg3flow.explorer.application import explorer_application
from sg3flow.explorer.explorer import Explorer
from sg3flow.explorer.server import opened
from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator

_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
_KINDS = {"stylegan3": StyleGAN3Generator, "stylegan2": StyleGAN2Generator}


class Answer:
    """The answer to a request."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status = int(messages[0]["status"])
        self.headers = {k.decode().lower(): v.decode() for k, v in messages[0]["headers"]}
        self.content = b"".join(message.get("body", b"") for message in messages[1:])

    def json(self) -> Any:
        return json.loads(self.content)


def ask(app, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
    """The answer of an ASGI application; a body that is no bytes is sent as JSON."""
    path, _, query = path.partition("?")
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"content_type": "application/json", **headers}
    headers = {"host": "127.0.0.1:5002", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 5002),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    messages: list[dict[str, Any]] = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        messages.append(message)

    asyncio.run(app(scope, receive, send))
    return Answer(messages)


class Page:
    """The calls of a page."""

    ask = staticmethod(ask)

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.app = OwnPagesOnly(explorer_application(explorer), names_of("127.0.0.1"))

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.app, "GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return ask(self.app, "POST", path, body, **headers)

    def picture(self, **picture: Any) -> bytes:
        answer = self.post("/api/picture", {"picture": picture})
        assert answer.status == 200, answer.content
        return answer.content

    def refused(self, **picture: Any) -> str:
        answer = self.post("/api/picture", {"picture": picture})
        assert answer.status == 400, answer.content[:200]
        return answer.json()["message"]

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """The state of a job at its end."""
        found = job
        while found["state"] in ("waiting", "running"):
            time.sleep(0.01)  # else it takes the CPU from the job
            found = self.get(f"/api/jobs/{job['job']}").json()
        return found


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """``package(kind="stylegan3", c_dim=3)``: the folder of a network of 16 x 16 pixels.

    With ``vectors`` its labels are no classes.
    """
    made: dict[tuple[str, int, bool], Path] = {}

    def make(kind: str = "stylegan3", c_dim: int = 3, vectors: bool = False) -> Path:
        if (kind, c_dim, vectors) not in made:
            torch.manual_seed(0)
            G = _KINDS[kind](z_dim=16, c_dim=c_dim, w_dim=16, **_SIZES)
            for parameter in G.parameters():  # a fresh network has noise strengths of 0
                parameter.data.add_(0.1 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(f"{kind}-{c_dim}")
            training_set = {"name": "toy", "class_names": ["cat", "dog", "wild"][:c_dim]}
            if vectors:
                labels = [[0.5] * c_dim, [-1.0] * c_dim]
                training_set = {"name": "toy", "label_kind": "vectors", "sample_labels": labels}
            package_generator(
                G.eval(),
                folder / "artifacts",
                training_set=training_set,
                metrics={},
                snapshot_sha256="ab" * 32,
            )
            made[kind, c_dim, vectors] = folder
        return made[kind, c_dim, vectors]

    return make


@pytest.fixture(scope="session")
def page(package) -> Iterator[Page]:
    """A page of the conditional StyleGAN3."""
    with opened(str(package()), str(package()), "cpu") as explorer:
        yield Page(explorer)


@pytest.fixture(scope="session")
def other_page(package) -> Iterator[Page]:
    """A page of an unconditional StyleGAN2."""
    folder = str(package("stylegan2", 0))
    with opened(folder, folder, "cpu") as explorer:
        yield Page(explorer)


@pytest.fixture(scope="session")
def vector_page(package) -> Iterator[Page]:
    """A page of a StyleGAN2 whose labels are vectors."""
    folder = str(package("stylegan2", 2, vectors=True))
    with opened(folder, folder, "cpu") as explorer:
        yield Page(explorer)
