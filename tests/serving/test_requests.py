"""Strict reading of requests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import ConfigError
from sg3flow.rendering.images import Look
from sg3flow.serving.predictor import Request
from sg3flow.serving.requests import read_requests


def test_rows_and_parameters_become_requests():
    rows = [{"seed": 1}, {"seed": 2.0, "psi": 0.5}, {"seed": np.int64(3), "class": np.float64(1)}]
    assert read_requests(rows, {"psi": 0.7, "class": 2}, 3) == [
        Request(1, Look(psi=0.7), 2),
        Request(2, Look(psi=0.5), 2),
        Request(3, Look(psi=0.7), 1),
    ]
    moved = {"seed": 0, "translate_x": 1, "translate_y": -0.5, "rotate": 90}
    assert read_requests([moved], {}, 0) == [Request(0, Look(1.0, "const", (1.0, -0.5), 90.0))]


_BAD_ROWS = [
    ({}, "row 0: seed is missing"),
    ({"seed": None}, "row 0: seed must be a whole number"),
    ({"seed": -1}, "from 0 to 4294967295, not -1"),
    ({"seed": 2**32}, "not 4294967296"),
    ({"seed": 10**400}, "whole number"),
    ({"seed": 1.5}, "not 1.5"),
    ({"seed": math.nan}, "not nan"),
    ({"seed": math.inf}, "not inf"),
    ({"seed": True}, "not True"),
    ({"seed": np.bool_(True)}, "not True"),
    ({"seed": "7"}, "not '7'"),
    ({"seed": [1]}, "whole number"),
    ({"seed": {"a": 1}}, "whole number"),
    ({"seed": 1, "psi": math.nan}, "psi must be a number from -2 to 2, not nan"),
    ({"seed": 1, "psi": 2.1}, "not 2.1"),
    ({"seed": 1, "psi": -(10**400)}, "psi must"),
    ({"seed": 1, "psi": True}, "not True"),
    ({"seed": 1, "psi": "1"}, "not '1'"),
    ({"seed": 1, "psi": None}, "not None"),
    ({"seed": 1, "translate_x": 11}, "translate_x must"),
    ({"seed": 1, "translate_y": math.inf}, "translate_y must"),
    ({"seed": 1, "rotate": 361}, "rotate must"),
    ({"seed": 1, "class": 0}, "no classes"),
    ({"seed": 1, "pssi": 1}, r"unknown column 'pssi' \(did you mean 'psi'\?\)"),
]


@pytest.mark.parametrize(("row", "words"), _BAD_ROWS)
def test_bad_rows_are_refused_in_words(row, words):
    with pytest.raises(ConfigError, match=words):
        read_requests([row], {}, 0)


@pytest.mark.parametrize(
    ("row", "params", "words"),
    [
        ({"seed": 1}, {}, "class is missing; give one from 0 to 2"),
        ({"seed": 1, "class": 3}, {}, "class must be a whole number from 0 to 2, not 3"),
        ({"seed": 1, "class": -1}, {}, "not -1"),
        ({"seed": 1, "class": 0.5}, {}, "not 0.5"),
        ({"seed": 1, "class": "cat"}, {}, "not 'cat'"),
        ({"seed": 1, "class": True}, {}, "not True"),
        ({"seed": 1}, {"class": 9}, "not 9"),
        ({"seed": 1}, {"class": 0, "seed": 3}, "unknown param 'seed'"),
    ],
)
def test_classes_of_a_labelled_model_are_checked(row, params, words):
    with pytest.raises(ConfigError, match=words):
        read_requests([row], params, 3)


def test_the_size_of_a_batch_is_limited():
    assert len(read_requests([{"seed": 1}] * 64, {}, 0)) == 64
    with pytest.raises(ConfigError, match="at most 64 pictures a request, not 65"):
        read_requests([{"seed": 1}] * 65, {}, 0)
    with pytest.raises(ConfigError, match="no rows"):
        read_requests([], {}, 0)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())
)
_NAMES = st.sampled_from(["seed", "psi", "class", "translate_x", "translate_y", "rotate", "x"])


@given(st.lists(st.dictionaries(_NAMES, _VALUES), max_size=3), st.sampled_from([0, 3]))
def test_any_rows_are_requests_or_a_worded_error(rows, num_classes):
    try:
        requests = read_requests(rows, {}, num_classes)
    except ConfigError as error:
        assert str(error)
    else:
        assert all(isinstance(request.seed, int) for request in requests)
