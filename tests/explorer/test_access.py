"""Who may use the page, and where it may be: other sites, rebound names, prefixes of proxies."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sg3flow.errors import ConfigError
from sg3flow.explorer.access import OwnPagesOnly, WithoutPrefix, names_of
from sg3flow.explorer.server import checked_prefix

CALL = {"picture": {"seed": 1, "class": 0}}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:5002", "origin": "http://127.0.0.1:5002"},
        {"host": "localhost:5002", "origin": "http://localhost:5002"},
        {"host": "[::1]:5002"},
        # a proxy names the host anew, and the browser still says that it is the page itself
        {"host": "127.0.0.1", "origin": "https://lab.example", "sec_fetch_site": "same-origin"},
        {"host": "LOCALHOST"},
    ],
)
def test_the_page_itself_may_call(page, headers):
    assert page.post("/api/command", CALL, **headers).status == 200


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"host": "evil.example"}, "the explorer is not called 'evil.example'"),
        ({"host": "127.0.0.1.evil.example:5002"}, "--allow-host 127.0.0.1.evil.example"),
        ({"host": ""}, "the explorer is not called ''"),
        ({"host": "[::1"}, "the explorer is not called ''"),
        ({"host": "x" * 500}, "(500 characters)"),
        ({"origin": "http://evil.example"}, "comes from the page of another site"),
        ({"origin": "null"}, "comes from the page of another site"),
        ({"sec_fetch_site": "cross-site"}, "comes from the page of another site"),
        ({"sec_fetch_site": "same-site"}, "comes from the page of another site"),
    ],
)
def test_others_are_refused_before_anything_is_drawn(page, headers, words):
    answer = page.post("/api/picture", CALL, **headers)
    assert answer.status == 403 and words in answer.json()["message"]
    assert page.get("/api/model", **headers).status == 403


def test_a_link_on_another_site_opens_the_page(page):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    answer = page.get("/", **headers)
    assert answer.status == 200 and b"<title>sg3flow explorer</title>" in answer.content


def test_a_form_of_another_site_sends_nothing(page):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    for path in ("/api/jobs/1/stop", "/api/picture"):
        answer = page.post(path, CALL, **headers)
        assert answer.status == 403 and "--allow-host NAME" in answer.json()["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://Lab.example", 200),
        ("http://lab.example:8080", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8888", 403),  # another server of this machine
        ("http://localhost:8888", 403),
        ("null", 403),
        ("http://[::1", 403),
    ],
)
def test_a_proxy_without_tls_that_names_the_host_anew(page, host, origin, status):
    app = OwnPagesOnly(page.app.app, names_of(host, ["LAB.example"]), ["LAB.example"])
    headers = {"host": "127.0.0.1:5002", "origin": origin}
    assert page.ask(app, "POST", "/api/command", CALL, **headers).status == status


def test_every_answer_forbids_other_hosts_and_frames(page):
    for path in ("/", "/explorer.js", "/api/model", "/api/nothing"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
    assert b"http" not in page.get("/").content  # nothing is linked to


def test_names_of_an_address():
    assert names_of("127.0.0.1", ["Lab.Example"]) == {
        *("localhost", "127.0.0.1", "::1"),
        "lab.example",
    }
    assert "127.8.8.8" in (names_of("127.8.8.8") or ())
    assert names_of("0.0.0.0") is None and names_of("10.0.0.7") is None


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/lab/x/api", 200, "/api"),
        ("/api", 200, "/api"),  # of a proxy that removes the prefix
        ("/lab/x/", 200, "/"),
        ("/lab/x", 307, ""),
        ("/lab/xy/api", 404, "Not Found"),
    ],
)
def test_a_prefix_may_be_removed_by_the_proxy_or_not(page, path, status, text):
    ask = page.ask

    async def answer(request):
        return PlainTextResponse(request.url.path)

    inner = Starlette(routes=[Route("/", answer), Route("/api", answer)])
    found = ask(WithoutPrefix(OwnPagesOnly(inner, None), "/lab/x"), "GET", path)
    assert (found.status, found.content.decode()) == (status, text)
    if status == 307:
        assert found.headers["location"] == "/lab/x/"


def test_prefixes_are_checked():
    assert checked_prefix("/lab/x/") == "/lab/x" and checked_prefix("/") == ""
    for bad in ("lab", "//evil.example", "/a\n"):
        with pytest.raises(ConfigError, match="--root-path must be a path such as /explorer"):
            checked_prefix(bad)
