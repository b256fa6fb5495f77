"""The page of a comparison: whole, escaped, and asking nothing of the network."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from sg3flow.compare.comparison import compare
from sg3flow.compare.run_data import Snapshot
from sg3flow.reports.comparison_page import Drawn, html_page, is_comparison_page

_HOSTILE = "<script>alert('1')</script>\"&{'<img src=https://x.org/a>"


class _Page(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.depth = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        loading = ("src", "href", "srcset", "action", "data", "xlink:href")
        self.loads += [v for k, v in attributes if k in loading and not v.startswith("#")]
        assert not any(name.startswith("on") for name, _ in attributes), attributes


def _page(runs, drawn=(), caption=""):
    return html_page(compare(runs), drawn, caption)


def test_the_page_asks_for_nothing_and_shows_names_as_they_are(facts):
    hostile = facts(
        _HOSTILE,
        kind=_HOSTILE,
        address=_HOSTILE,
        state=_HOSTILE,
        params={f"train.{_HOSTILE}": _HOSTILE},
        environment={_HOSTILE: _HOSTILE, "torch": _HOSTILE},
        notes=[_HOSTILE],
        snapshot=Snapshot("x", 4, _HOSTILE),
        results=[],
    )
    other = facts(params={f"train.{_HOSTILE}": "2"}, environment={"torch": "2"})
    drawn = [Drawn(reason=_HOSTILE), Drawn(("data:image/png;base64,AA==",), (_HOSTILE,), 16)]
    text = _page([hostile, other], drawn, _HOSTILE)
    page = _Page(text)
    assert page.tags.count("script") == 1 and not {"link", "iframe", "base"} & {*page.tags}
    assert page.loads == ["data:image/png;base64,AA=="]
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    for tag in ("style", "script"):  # and by their digests nothing else runs, nor is drawn
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text
    assert not re.search(r"url\(|@import|style=|unsafe", text)
    assert text.count("&lt;script&gt;") >= 8


def test_the_page_has_every_part(facts):
    runs = [facts("first"), facts("second", value=3.0, params={"train.gamma": "0.4"})]
    drawn = [Drawn(("data:image/png;base64,AA==",) * 2, ("seed 0", "seed 1"), 256), Drawn()]
    text = _page(runs, drawn, "Seeds 0-1")
    for words in ("B is better than A", "5 ± 0.1", "train.gamma", "Different conditions"):
        assert words in text
    assert text.count('<svg class="chart"') == 2 and "B did not record train.batch" in text
    assert len(text) < 60_000
    assert "<h1>first vs. second</h1>" in text


def test_runs_are_linked_where_the_server_has_an_address(facts, monkeypatch, project):
    runs = [facts("first", run_id="a" * 32), facts("second")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.test/team/?token=1")
    text = _page(runs)
    assert _Page(text).loads == [f"https://mlflow.test/team/#/runs/{'a' * 32}"]
    assert "secret" not in text and "token" not in text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    text = _page(runs)
    assert _Page(text).loads == [] and "a" * 32 in text and str(project) not in text
    assert "mlflow server --backend-store-uri sqlite:///mlflow.db" in text
    assert "mlflow server" not in _page([facts(), facts()])


def test_a_page_of_runs_about_which_nothing_is_known(facts):
    bare = facts(params={}, environment={}, curves={}, results=[], best={})
    text = _page([bare] * 10, [Drawn(reason="no snapshot found")] * 10)
    for words in ("No run was measured", "No run has two data points yet", "no snapshot found"):
        assert words in text


def test_only_a_page_of_ours_is_replaced(tmp_path, facts):
    page = tmp_path / "compare.html"
    page.write_text(_page([facts(), facts()]))
    assert is_comparison_page(page)
    page.write_text("<html>mine</html>")
    for path in (page, tmp_path):
        assert not is_comparison_page(path)
