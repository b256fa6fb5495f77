"""Files of keyframes: what they give, and what a wrong one says."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.rendering.keyframes import Keyframe, keyframes_of, read_keyframes

FULL = Keyframe("", 3, None, None, 0.7, 0.1, -0.2, 30.0, "dog", None, {"pca0": 1.5})


def without_place(keyframes):
    names = ("seed", "w", "index", "psi", "x", "y", "angle", "class_", "label", "edits")
    return [tuple(getattr(each, name) for name in names) for each in keyframes]


@pytest.fixture
def written(tmp_path):
    def write(text, name="walk.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_csv_file_gives_its_rows(written, tmp_path):
    path = written(
        "\ufeffseed, psi,x,y,angle,class,label,w,index,edit:pca0\r\n"
        "3,0.7,0.1,-0.2,30,dog,,,,1.5\r\n"
        "\r\n"
        '4,,,,,,"0.5,-1",,,\r\n'
        ",,,,,,,own/w.npz,2,-1\r\n"
        "5,1e0,,,,1,,,,\r\n"
    )
    found = read_keyframes(path)
    expected = [
        FULL,
        Keyframe("", seed=4, label=(0.5, -1.0)),
        Keyframe("", w=tmp_path / "own" / "w.npz", index=2, edits={"pca0": -1.0}),
        Keyframe("", seed=5, psi=1.0, class_=1),
    ]
    assert without_place(found) == without_place(expected)
    assert [each.where for each in found] == [f"{path}, row {i}" for i in (2, 4, 5, 6)]


def test_a_json_file_gives_its_objects(written, tmp_path):
    rows = [
        {"seed": 3, "psi": 0.7, "x": 0.1, "y": -0.2, "angle": 30, "class": "dog"}
        | {"label": None, "edits": {"pca0": 1.5}},
        {"seed": 4, "label": [0.5, -1]},
        {"w": str(tmp_path / "absolute.npy")},
    ]
    path = written(json.dumps(rows), "walk.JSON")
    found = read_keyframes(path)
    expected = [
        FULL,
        Keyframe("", seed=4, label=(0.5, -1.0)),
        Keyframe("", w=tmp_path / "absolute.npy"),
    ]
    assert without_place(found) == without_place(expected)
    assert found[1].where == f"{path}, keyframe 2"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.floats(-2, 2),
            st.floats(-1000, 1000),
            st.floats(-36000, 36000),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_numbers_are_those_of_the_text_bit_for_bit(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    lines = [",".join(map(repr, row)) for row in rows]
    path.write_text("\n".join(["seed,psi,x,angle", *lines]))
    found = [(each.seed, each.psi, each.x, each.angle) for each in read_keyframes(path)]
    assert found == rows


CSV = {
    "": ("", "no keyframes"),
    "header only": ("seed,psi\n", "no keyframes"),
    "blank header": (",\n1,2\n", "row 1: must be the header"),
    "unknown column": ("seed,pis\n1,1\n", "row 1: unknown column 'pis' (did you mean 'psi'?)"),
    "twice": ("seed,psi,seed\n1,1,1\n", "row 1: the column 'seed' is there twice"),
    "edits as such": ("seed,edits\n1,2\n", "row 1: unknown column 'edits'"),
    "few cells": ("seed,psi,x\n1,2\n", "row 2: has 2 cells, the header has 3"),
    "many cells": ("seed\n\n1,2\n", "row 3: has 2 cells, the header has 1"),
    "no source": ("seed,psi\n,1\n", "row 2: give one of seed and w, not none"),
    "two sources": ("seed,w\n1,a.npz\n", "row 2: give one of seed and w, not both"),
    "psi of w": ("w,psi\na.npz,1\n", "row 2: psi has no effect on a w"),
    "class of w": ("w,class\na.npz,1\n", "row 2: class has no effect on a w"),
    "index of seed": ("seed,index\n1,1\n", "row 2: index is the number of a w"),
    "class and label": ("seed,class,label\n1,1,1\n", "row 2: give class or label, not both"),
    "nan": ("seed,psi\n1,1\n2,nan\n", "row 3: psi must be a number from -2 to 2, not nan"),
    "infinity": ("seed,x\n1,inf\n", "row 2: x must be a number from -1000 to 1000, not inf"),
    "huge": ("seed,angle\n1,1e300\n", "row 2: angle must be a number from -36000 to 36000"),
    "huge seed": ("seed\n99999999999\n", "row 2: seed must be a whole number from 0 to 4294967295"),
    "long seed": ("seed\n" + "9" * 6000, "row 2: seed must be"),
    "part of a seed": ("seed\n1.5\n", "row 2: seed must be a whole number"),
    "text": ("seed\ncat\n", "row 2: seed must be a whole number from 0 to 4294967295, not 'cat'"),
    "label": ("seed,label\n1,a\n", "row 2: a label must be finite numbers like 0.5,-1, not 'a'"),
    "class": ("seed,class\n1,-2\n", "row 2: class must be a whole number"),
    "edit": ("seed,edit:a\n1,x\n", "row 2: the edit a must be a number from -1000 to 1000"),
    "huge edit": ("seed,edit:a\n1,1e9\n", "row 2: the edit a must be a number"),
    "quote": ('seed\n"1\n2\n', "not CSV"),
    "long cell": ("seed\n" + "1" * 200_000, "row 2: not CSV: field larger"),
    "other text": (b"seed\n\xff\xfe\n", "not UTF-8 text, at byte 5"),
    "semicolons": ("seed;psi\n1;0,5\n", "row 1: columns must be separated by commas, not by semic"),
    "tabs": ("seed\tpsi\n1\t1\n", "row 1: columns must be separated by commas, not by tabs"),
    "many rows": ("seed\n" + "1\n" * 1001, "more than 1000 keyframes"),
    "large": (b"\n" * ((16 << 20) + 1), "more than 16 MiB"),
}


@pytest.mark.parametrize("name", CSV)
def test_a_wrong_csv_file_is_one_sentence_with_file_and_row(written, name):
    text, words = CSV[name]
    path = written(text)
    with pytest.raises(Sg3flowError) as caught:
        read_keyframes(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and words in said
    assert "\n" not in said and len(said) < 700


JSON = {
    "empty": ("", "is not JSON"),
    "cut off": ('[{"seed": 1', "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "long number": ('[{"seed": ' + "9" * 5000 + "}]", "is not JSON"),
    "no list": ('{"seed": 1}', "must be a list of keyframes, not a dict of 1"),
    "no objects": ("[1, 2]", "keyframe 1: must be an object such as {'seed': 1}, not 1"),
    "none": ("[]", "no keyframes"),
    "nan": ('[{"seed": 1}, {"seed": 2, "x": NaN}]', "keyframe 2: x must be a number"),
    "text": ('[{"seed": "1"}]', "keyframe 1: seed must be a whole number"),
    "true": ('[{"seed": true}]', "keyframe 1: seed must be"),
    "psi": ('[{"seed": 1, "psi": "0.7"}]', "keyframe 1: psi must be a number from -2 to 2"),
    "w": ('[{"w": 3}]', "keyframe 1: w must be the path of a file of w"),
    "edits": ('[{"seed": 1, "edits": 3}]', "keyframe 1: edits must be an object"),
    "name": ('[{"seed": 1, "sede": 3}]', "keyframe 1: unknown column 'sede' (did you mean"),
    "twice": ('[{"seed": 1, "psi": 1, "psi": 0.5}]', ": 'psi' is there twice in one object"),
    "edit twice": ('[{"seed": 1, "edits": {"a": 1, "a": 2}}]', ": 'a' is there twice"),
    "label": ('[{"seed": 1, "label": []}]', "keyframe 1: label must be a list of numbers"),
}


@pytest.mark.parametrize("name", JSON)
def test_a_wrong_json_file_is_one_sentence_with_file_and_keyframe(written, name):
    text, words = JSON[name]
    path = written(text, "walk.json")
    with pytest.raises(Sg3flowError) as caught:
        read_keyframes(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and words in said
    assert "\n" not in said and len(said) < 700


def test_other_places(tmp_path):
    for path, words in (
        (tmp_path / "none.csv", "there is no such file"),
        (tmp_path, "must be a file of keyframes"),
        (tmp_path / "walk.txt", "must be a file of keyframes"),
        (tmp_path / "a\0b.csv", "cannot read"),
    ):
        with pytest.raises(Sg3flowError, match=words):
            read_keyframes(path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(Sg3flowError, match="cannot read"):
        read_keyframes(tmp_path / "folder.csv")


@pytest.mark.parametrize("rows", [None, 3, "seed", [None], [{1: 2}], [{"seed": math.nan}]])
def test_wrong_keyframes_of_python(rows):
    with pytest.raises(ConfigError, match=r"^keyframes"):
        keyframes_of(rows, "keyframes", Path())
