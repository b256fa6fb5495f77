"""Strict reading of requests."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sg3flow.errors import ConfigError
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.serving.request_fields import request_rows
from sg3flow.serving.request_schema import COLUMNS, Limits, Request, Shapes
from sg3flow.serving.request_schema import read_requests as read


def read_requests(rows, params, num_classes, limits=None):
    return read(rows, params, Shapes(num_classes, 64, 3, 4, 2, 3), limits or Limits())


def test_rows_and_parameters_become_requests():
    rows = [{"seed": 1}, {"seed": 2.0, "psi": 0.5}, {"seed": np.int64(3), "class": np.float64(1)}]
    assert read_requests(rows, {"psi": 0.7, "class": 2}, 3) == [
        Request(1, RenderOptions(psi=0.7), 2),
        Request(2, RenderOptions(psi=0.5), 2),
        Request(3, RenderOptions(psi=0.7), 1),
    ]
    moved = {"seed": 0, "translate_x": 1, "translate_y": -0.5, "rotate": 90}
    assert read_requests([moved], {}, 0) == [
        Request(0, RenderOptions(1.0, "const", (1.0, -0.5), 90.0))
    ]


_BAD_ROWS = [
    ({}, "row 0: give one of seed, z and w, not none of them"),
    ({"seed": None}, "row 0: give one of seed, z and w, not none of them"),
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
    ({"seed": 1, "z": [0, 0, 0, 0]}, "give one of seed, z and w, not seed and z"),
    ({"z": [0, 0, 0]}, "z must be a list of 4 numbers, not 3"),
    ({"z": 1}, "z must be a list of 4 numbers, not 1"),
    ({"z": "1,2,3,4"}, "z must be a list of 4 numbers, not '1,2,3,4'"),
    ({"z": [0, 0, 0, "0"]}, r"z\[3\] must be a number from -1000 to 1000, not '0'"),
    ({"z": [0, 0, 0, None]}, r"z\[3\] must be a number"),
    ({"z": [0, 0, 0, math.nan]}, r"z\[3\] must be a number"),
    ({"z": [0, 0, 0, 1e6]}, r"z\[3\] must be a number from -1000 to 1000, not 1000000.0"),
    ({"z": [[0, 0, 0, 0]]}, "z must be a list of 4 numbers, not 1"),
    ({"w": []}, "w must be a list of 2 numbers, not 0"),
    ({"w": [[0, 0], [0, 0]]}, "w must be one list or a list of 3 lists, not of 2"),
    ({"w": [[0, 0], [0, 0], [0]]}, r"w\[2\] must be a list of 2 numbers, not 1"),
    ({"w": [[0, 0], [0, 0], 7]}, r"w\[2\] must be a list of 2 numbers, not 7"),
    ({"w": [0, 0], "psi": 0.5}, "psi has no effect on a w"),
    ({"w": [0, 0], "class": 0}, "class has no effect on a w"),
    ({"seed": 1, "format": "gif"}, "format must be one of png, jpeg, webp, not 'gif'"),
    ({"seed": 1, "format": "jpg"}, r"not 'jpg' \(did you mean 'jpeg'\?\)"),
    ({"seed": 1, "format": 1}, "format must be one of"),
    ({"seed": 1, "quality": 80}, "quality is for jpeg and webp"),
    ({"seed": 1, "format": "jpeg", "quality": 0}, "quality must be a whole number from 1 to 100"),
    ({"seed": 1, "format": "webp", "quality": 90.5}, "not 90.5"),
    ({"seed": 1, "size": 65}, "size must be a whole number from 1 to 64, not 65"),
    ({"seed": 1, "size": 0}, "size must"),
    ({"seed": 1, "size": True}, "size must"),
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
def test_classes_of_a_labeled_model_are_checked(row, params, words):
    with pytest.raises(ConfigError, match=words):
        read_requests([row], params, 3)


def _labeled(rows, params=None, num_classes=0):
    shapes = Shapes(num_classes, 64, 3, 4, 2, 3, label_dim=num_classes or 2)
    return read(rows, params or {}, shapes, Limits())


def test_labels_that_are_vectors_are_read_from_rows_and_params():
    rows = [{"seed": 1, "label": [0.5, -1]}, {"seed": 2}, {"z": [0, 0, 0, 0]}, {"w": [0, 0]}]
    first, second, third = _labeled(rows[:3], {"label": np.array([3, 4.5])})
    assert first.label == (0.5, -1.0) and second.label == third.label == (3.0, 4.5)
    assert {r.class_index for r in (first, second, third)} == {None}
    assert _labeled(rows[3:], {"label": []})[0].label is None  # as MLflow fills it in
    (mixed,) = _labeled([{"seed": 1, "label": [0.5, 0.5, 0]}], num_classes=3)
    assert mixed.label == (0.5, 0.5, 0.0) and mixed.class_index is None


@pytest.mark.parametrize(
    ("row", "num_classes", "words"),
    [
        ({"seed": 1}, 0, "row 0: label is missing; give label, a list of 2 numbers"),
        ({"seed": 1, "class": 0}, 0, "has no classes; give label, a list of 2 numbers"),
        ({"seed": 1, "label": [1]}, 0, "label must be a list of 2 numbers, not 1"),
        ({"seed": 1, "label": 1}, 0, "label must be a list of 2 numbers, not 1"),
        ({"seed": 1, "label": "0.5,-1"}, 0, "label must be a list of 2 numbers, not '0.5,-1'"),
        ({"seed": 1, "label": [1, "x"]}, 0, r"label\[1\] must be a number .*, not 'x'"),
        ({"seed": 1, "label": [1, True]}, 0, r"label\[1\] must be a number"),
        ({"seed": 1, "label": [1, math.inf]}, 0, r"label\[1\] must be a number"),
        ({"w": [0, 0], "label": [1, 2]}, 0, "label has no effect on a w"),
        ({"seed": 1, "label": [1, 0, 0], "class": 1}, 3, "class or label, not both"),
    ],
)
def test_labels_of_another_form_are_refused(row, num_classes, words):
    with pytest.raises(ConfigError, match=words):
        _labeled([row], num_classes=num_classes)
    with pytest.raises(ConfigError, match="this model has no labels; leave label out"):
        read_requests([{"seed": 1, "label": [1]}], {}, 0)


def test_the_size_of_a_batch_is_limited():
    assert len(read_requests([{"seed": 1}] * 64, {}, 0)) == 64
    with pytest.raises(ConfigError, match="at most 64 images per request, not 65"):
        read_requests([{"seed": 1}] * 65, {}, 0)
    with pytest.raises(ConfigError, match="no rows"):
        read_requests([], {}, 0)


def test_vectors_formats_and_sizes_become_requests():
    rows = [{"z": [0, 1, 2, 3.5]}, {"w": np.array([1.0, 2])}, {"w": [[1, 2], [3, 4], [5, 6]]}]
    first, second, third = read_requests(rows, {"format": "jpeg", "quality": 70, "size": 32}, 0)
    assert first.z == (0.0, 1.0, 2.0, 3.5) and first.seed is None
    assert second.ws == ((1.0, 2.0),)
    assert third.ws == ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    assert {(r.kind, r.quality, r.size) for r in (first, second, third)} == {("jpeg", 70, 32)}


def test_a_w_of_a_labeled_model_needs_no_class():
    (request,) = read_requests([{"w": [0, 0]}], {}, 3)
    assert request.class_index is None


def test_pictures_and_pixels_are_bounded_by_the_server():
    small = Limits(max_pictures=2, max_side=16, max_pixel_bytes=16 * 16 * 3)
    (request,) = read_requests([{"seed": 1}], {}, 0, small)
    assert request.size == 16  # what the network draws is scaled down without being asked to
    with pytest.raises(ConfigError, match="at most 2 images"):
        read_requests([{"seed": 1}] * 3, {}, 0, small)
    with pytest.raises(ConfigError, match="size must be a whole number from 1 to 16, not 32"):
        read_requests([{"seed": 1, "size": 32}], {}, 0, small)
    with pytest.raises(ConfigError, match="MiB of pixels"):
        read_requests([{"seed": 1}] * 2, {}, 0, small)
    assert len(read_requests([{"seed": 1}] * 2, {"size": 11}, 0, small)) == 2


@pytest.mark.parametrize("text", ["-1", "0", "many", "99999", ""])
def test_limits_come_from_the_environment(monkeypatch, text):
    monkeypatch.setenv("SG3FLOW_SERVE_MAX_PICTURES", "7")
    assert Limits.from_environment() == Limits(max_pictures=7)
    monkeypatch.setenv("SG3FLOW_SERVE_MAX_PICTURES", text)
    with pytest.raises(ConfigError, match="SG3FLOW_SERVE_MAX_PICTURES must be a whole number"):
        Limits.from_environment()


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())
)
_NAMES = st.sampled_from([*COLUMNS, "x"])


# A busy machine makes the first values slowly: no fault of ours.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(_NAMES, _VALUES), max_size=3), st.sampled_from([0, 3]))
def test_any_rows_are_requests_or_a_worded_error(rows, num_classes):
    try:
        requests = read_requests(rows, {}, num_classes)
    except ConfigError as error:
        assert str(error)
    else:
        for request in requests:
            sources = (request.seed, request.z, request.ws)
            assert [source is not None for source in sources].count(True) == 1


def test_every_field_has_a_type_and_a_meaning_on_the_card():
    rows = request_rows()
    assert [name for name, _, _ in rows] == list(COLUMNS)
    kinds = {name: kind for name, kind, _ in rows}
    assert (kinds["seed"], kinds["psi"], kinds["z"]) == ("long", "double", "array of double")
    meanings = {name: meaning for name, _, meaning in rows}
    assert "0 to 4294967295" in meanings["seed"] and "-2 to 2" in meanings["psi"]
