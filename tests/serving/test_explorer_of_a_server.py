"""The explorer at `/` of `sg3flow serve`: of the version that is served, behind any prefix."""

import base64
import http.client
import json
import os
import re

import psutil
import pytest

pytestmark = pytest.mark.medium

SERVE = ["sg3flow", "serve", "toy@champion", "--port", "PORT", "--poll", "0.2"]


def call(server, path, content=None, **headers):
    """Status, content and headers of an answer of the server."""
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    try:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", **headers}
        link.request("GET" if body is None else "POST", path, body, headers)
        answer = link.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        link.close()


def explorers(server) -> list[psutil.Process]:
    """The processes that explore."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [each for each in children if "sg3flow.explorer.version_process" in each.cmdline()]


def test_the_page_explores_the_version_that_is_served(registry):
    import mlflow

    client = mlflow.MlflowClient(registry.environment["MLFLOW_TRACKING_URI"])
    picture = {"picture": {"seed": 3, "class": 1, "psi": 0.7, "rotate": 10}}
    row = {"seed": 3, "class": 1, "psi": 0.7, "rotate": 10}
    with registry.serving(SERVE) as server:
        status, page, _ = call(server, "/")
        assert status == 200 and b"<title>sg3flow explorer</title>" in page
        for name in re.findall(rb'(?:src|href)="([a-z.]+)"', page):
            assert call(server, f"/{name.decode()}")[0] == 200
        assert explorers(server) == []  # nobody has used it
        assert server.get("/ping")[0] == 200
        status, content, headers = call(server, "/api/model")
        facts = json.loads(content)
        assert facts["network"] == "models:/toy/2" and headers["X-Sg3flow-Version"] == "2"
        status, png, headers = call(server, "/api/picture", picture)
        served = json.loads(server.post({"dataframe_records": [row]})[1])["predictions"][0]["png"]
        assert status == 200 and png == base64.b64decode(served)
        (first,) = explorers(server)
        refused = call(server, "/api/picture", picture, Host="evil.example")
        assert refused[0] == 403 and b"--allow-host" in refused[1]
        assert call(server, "/api/picture", {"picture": {"seed": -1}})[0] == 400
        assert call(server, "/nothing")[0] == 404

        first.kill()  # the next call gets another
        assert call(server, "/api/picture", picture)[1] == png
        assert server.get("/ping")[0] == 200
        try:
            client.set_registered_model_alias("toy", "champion", "1")
            while server.get("/model")[1].find('"version":"1"') < 0:
                pass
            status, other, headers = call(server, "/api/picture", picture)
            assert status == 200 and other != png and headers["X-Sg3flow-Version"] == "1"
            assert len(explorers(server)) == 1
        finally:
            client.set_registered_model_alias("toy", "champion", "2")
        (last,) = explorers(server)
    assert not psutil.pid_exists(last.pid) or last.status() == psutil.STATUS_ZOMBIE


def test_a_server_without_the_page(registry):
    with registry.serving([*SERVE, "--no-explorer"]) as server:
        assert call(server, "/")[0] == 404 and call(server, "/api/model")[0] == 404
        assert server.get("/ping")[0] == 200


def test_the_page_behind_a_proxy_that_removes_its_prefix(registry, browser, tmp_path):
    proxy = tmp_path / "proxy.py"
    proxy.write_text(PROXY)
    with registry.serving(SERVE) as server:
        os.environ["NO_PROXY"] = "127.0.0.1"
        with registry.serving(["python", str(proxy), "PORT", str(server.port)]) as front:
            browser.show(f"http://127.0.0.1:{front.port}/lab/user/toy/", 1280)
            browser.wait_for("document.querySelectorAll('.tile img.here').length > 3")
            browser.wait_for("document.getElementById('main').ariaBusy === 'false'")
            assert browser.errors == []
            assert browser.ask("document.getElementById('command').textContent").startswith(
                "sg3flow render images --network models:/toy/2 --seeds 0"
            )
            fetched = browser.ask("performance.getEntriesByType('resource').map((e) => e.name)")
            start = f"http://127.0.0.1:{front.port}/lab/user/toy/"
            assert all(each.startswith((start, "blob:")) for each in fetched), fetched
            check_that_an_open_page_changes_its_version(server, registry, browser)


def check_that_an_open_page_changes_its_version(server, registry, browser):
    """All of the page is of the version that took over, the wall and the film as well."""
    import mlflow

    client = mlflow.MlflowClient(registry.environment["MLFLOW_TRACKING_URI"])
    change = "each.dispatchEvent(new Event('input', {bubbles: true}))"
    find = "const each = document.getElementById('seed')"
    browser.ask("window.isOld = true; document.querySelector('.tile + .add').click()")
    try:
        client.set_registered_model_alias("toy", "champion", "1")
        while server.get("/model")[1].find('"version":"1"') < 0:
            pass
        browser.ask(f"(() => {{ {find}; each.value = 7; {change}; }})()")
        browser.wait_for("!window.isOld && document.querySelectorAll('.tile img.here').length > 3")
        browser.wait_for(
            "document.getElementById('command').textContent.startsWith("
            "'sg3flow render images --network models:/toy/1 --seeds 7')"
        )
        assert browser.ask("document.querySelectorAll('#picks li').length") == 1
        assert browser.ask("document.getElementById('problem').textContent") == ""
        assert browser.errors == []
    finally:
        client.set_registered_model_alias("toy", "champion", "2")


# Removes /lab/user/toy from addresses, and names the host anew, as proxies do.
PROXY = """
import sys
from aiohttp import ClientSession, web

async def forwarded(request):
    prefix = "/lab/user/toy"
    if request.path == "/ping":
        return web.Response()
    if not request.path.startswith(prefix + "/"):
        return web.Response(status=404)
    url = f"http://127.0.0.1:{sys.argv[2]}" + request.raw_path[len(prefix):]
    headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
    async with ClientSession() as session:
        body = await request.read()
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            dropped = ("transfer-encoding", "content-encoding", "connection", "content-length")
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in dropped}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

app = web.Application(client_max_size=1 << 27)
app.router.add_route("*", "/{rest:.*}", forwarded)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
