"""Every call of the independent implementation: results and gradients."""

import json

import numpy as np
import pytest
import torch

from sg3flow.ops import bias_act, filtered_lrelu, upfirdn2d

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = 1e-6  # of the largest expected value


def call(case, arrays, x, b):
    options = {k: v for k, v in case.items() if k not in ("id", "op", "f", "fu", "fd")}

    def taps(key):
        return None if case[key] is None else torch.from_numpy(arrays[f"f_{case[key]}"])

    if case["op"] == "upfirdn2d":
        return upfirdn2d(x, taps("f"), **options)
    if case["op"] == "bias_act":
        return bias_act(x, b, **options)
    return filtered_lrelu(x, taps("fu"), taps("fd"), b, **options)


@pytest.mark.parametrize("index", range(15))
def test_matches_golden(golden, index):
    case = json.loads((golden / "ops.json").read_text())[index]
    with np.load(golden / "ops.npz") as arrays:
        x = torch.from_numpy(arrays[f"{index}_x"]).requires_grad_()
        name = f"{index}_b"
        b = torch.from_numpy(arrays[name]).requires_grad_() if name in arrays else None
        y = call(case, arrays, x, b)
        y.backward(torch.from_numpy(arrays[f"{index}_dy"]))
        found = {"y": y.detach(), "dx": x.grad} | ({} if b is None else {"db": b.grad})
        for key, value in found.items():
            expected = arrays[f"{index}_{key}"]
            assert value.shape == expected.shape
            error = np.abs(value.numpy() - expected).max() / np.abs(expected).max()
            assert error <= TOLERANCE, f"{key} of case {index}: {error}"


def test_no_case_is_left_out(golden):
    assert len(json.loads((golden / "ops.json").read_text())) == 15
