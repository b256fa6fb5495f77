import logging

import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.ops import backend, backend_name


@pytest.fixture(autouse=True)
def fresh():
    """Clears the cached choice before and after each test."""
    backend._chosen.cache_clear()
    yield
    backend._chosen.cache_clear()


def test_plain_pytorch_serves_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    with caplog.at_level(logging.INFO, logger="sg3flow"):
        assert backend_name("cpu") == "torch"
        assert backend_name(torch.device("cpu")) == "torch"
    assert [r.message for r in caplog.records] == ["ops on cpu: plain PyTorch"]


def test_kernels_of_another_device_do_not_serve(monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "cuda")
    assert backend_name("cpu") == "torch"
    assert backend_name("meta") == "torch"


def test_an_unknown_choice_is_worded(monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "torhc")
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        backend_name("cpu")
