import logging

import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.ops import backend, backend_name, upfirdn2d


@pytest.fixture(autouse=True)
def fresh():
    """Each test chooses anew, and leaves no choice behind."""
    backend._chosen.cache_clear()
    yield
    backend._chosen.cache_clear()


@pytest.mark.parametrize("choice", [None, "auto", "torch"])
def test_plain_pytorch_serves_and_says_so_once(monkeypatch, caplog, choice):
    if choice is None:
        monkeypatch.delenv("SG3FLOW_OPS", raising=False)
    else:
        monkeypatch.setenv("SG3FLOW_OPS", choice)
    with caplog.at_level(logging.INFO, logger="sg3flow"):
        assert backend_name("cpu") == "torch"
        assert backend_name(torch.device("cpu")) == "torch"
    assert [r.message for r in caplog.records] == ["ops on cpu: plain PyTorch"]


@pytest.mark.parametrize("choice", ["cpu", "cuda"])
def test_kernels_that_are_not_built_are_refused(monkeypatch, choice):
    monkeypatch.setenv("SG3FLOW_OPS", choice)
    with pytest.raises(ConfigError, match="not built"):
        upfirdn2d(torch.ones(1, 1, 4, 4), None)


def test_an_unknown_choice_is_worded(monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "torhc")
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        backend_name("cpu")
