"""The Python blocks of docs/python.md, run in order in one folder."""

import re

import pytest

from .conftest import ROOT

PAGE = ROOT / "docs" / "python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks() -> list[tuple[int, str]]:
    """The line where each block begins, and its code."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in _BLOCK.finditer(text)]


@pytest.mark.medium
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    names: dict = {}
    for line, code in _blocks():
        # Errors name the line of the page.
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "<network starter, config stylegan3-t" in printed
    assert "fd_random " in printed and "(16 against 16 images)" in printed
    assert "no class 'horse'" in printed
    for file in ("cat.png", "sheet.png", "walk.mp4"):
        assert (tmp_path / file).stat().st_size > 0
    assert len(names["animals"]) == 6 and len(names["both"]) == 2 and names["distance"] > 0


def test_the_page_names_every_public_method():
    import sg3flow

    text = PAGE.read_text(encoding="utf-8")
    methods = ("image", "images", "grid", "video", "w", "from_w", "w_avg", "network", "mix", "path")
    assert all(hasattr(sg3flow.LoadedGenerator, each) for each in methods if each != "network")
    for name in (*(f"G.{method}" for method in methods), "sg3flow.load", "metrics.compute"):
        assert name in text, name
    assert len(_blocks()) >= 6
