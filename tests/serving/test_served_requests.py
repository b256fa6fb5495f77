"""The registered model behind real servers: good, bad and many requests.

Behind `sg3flow serve` every check holds. `mlflow models serve` reads the body itself: there, only
what is wrong with values is refused in our words.
"""

import base64
import http.client
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as PillowImage

from sg3flow.rendering.images import png_bytes, render_image, seed_ws
from sg3flow.rendering.seeds import RenderOptions, seed_latent

pytestmark = pytest.mark.medium

_SERVE = {
    "sg3flow": "sg3flow serve toy@champion --port PORT --load-timeout 600",
    "mlflow": "mlflow models serve -m models:/toy@champion --env-manager local"
    " -h 127.0.0.1 -p PORT",
}


def _serving(registry, program: str):
    with registry.serving(_SERVE[program].split(), SG3FLOW_SERVE_MAX_BODY_MIB="1") as server:
        server.network = registry.networks[-1]
        yield server


@pytest.fixture(scope="module")
def server(registry):
    """The champion, served by `sg3flow serve` on a free port."""
    yield from _serving(registry, "sg3flow")


@pytest.fixture(scope="module")
def mlflow_server(registry):
    """The champion, served by `mlflow models serve` on a free port."""
    yield from _serving(registry, "mlflow")


@pytest.fixture(scope="module", params=["sg3flow", "mlflow"])
def any_server(request):
    """Each of the two servers."""
    name = {"sg3flow": "server", "mlflow": "mlflow_server"}[request.param]
    return request.getfixturevalue(name)


def _records(*rows, **params):
    return {"dataframe_records": list(rows)} | ({"params": params} if params else {})


_GOOD = {"seed": 1, "class": 0}


def test_a_post_returns_the_rendered_pictures(any_server):
    rows = [{"seed": 1, "class": 0}, {"seed": 4294967295, "class": 2}, {"seed": 1, "class": 0}]
    status, text = any_server.post(_records(*rows, psi=0.7, translate_x=0.1, rotate=15))
    assert status == 200, text
    options = RenderOptions(psi=0.7, translate=(0.1, 0.0), rotate=15)
    expected = [
        png_bytes(render_image(any_server.network, r["seed"], options, r["class"])) for r in rows
    ]
    answers = json.loads(text)["predictions"]
    assert [answer["seed"] for answer in answers] == [row["seed"] for row in rows]
    assert [base64.b64decode(answer["png"], validate=True) for answer in answers] == expected


def test_params_hold_for_rows_that_leave_them_out(any_server):
    rows = [_GOOD | {"psi": 0.5}, {"seed": 2, "rotate": 20}, {"seed": 3, "psi": None}]
    whole = [
        {"seed": seed, "class": c, "psi": psi, "rotate": rotate}
        for seed, c, psi, rotate in [(1, 0, 0.5, 0), (2, 1, 0.7, 20), (3, 1, 0.7, 0)]
    ]
    ragged = any_server.post(_records(*rows, psi=0.7, **{"class": 1}))
    assert ragged[0] == 200, ragged[1]
    assert ragged == any_server.post(_records(*whole))


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [_GOOD]},
        {"inputs": {"seed": [1], "class": [0]}},
        {"dataframe_split": {"columns": ["class", "seed"], "data": [[0, 1]]}},
        _records({"seed": 1.0}, **{"class": 0}),
    ],
)
def test_other_forms_of_the_same_request_give_the_same_picture(any_server, body):
    assert any_server.post(body) == any_server.post(_records(_GOOD))


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs"])
def test_edits_move_the_w_of_their_row(any_server, form):
    G = any_server.network
    row = {"seed": 1, "class": 0, "edits": {"smile": 2, "age": -1.5}}
    body = {form: [row]}
    if form == "dataframe_split":
        body = {form: {"columns": list(row), "data": [list(row.values())]}}
    status, text = any_server.post(body)
    assert status == 200, text
    edit = np.zeros((G.num_ws, G.w_dim), np.float32)
    edit[:, 0], edit[1:, 1] = -1.5, 2
    expected = png_bytes(render_image(G, 1, RenderOptions(edit=edit), 0))
    [answer] = json.loads(text)["predictions"]
    assert base64.b64decode(answer["png"]) == expected
    if form == "dataframe_records":  # rows without edits are not edited
        mixed = json.loads(any_server.post(_records(row, _GOOD))[1])["predictions"]
        plain = json.loads(any_server.post(_records(_GOOD))[1])["predictions"]
        assert mixed == [answer, *plain] and answer != plain[0]


def test_clients_at_once_get_their_own_pictures(server):
    bodies = [_records({"seed": i, "class": i % 3, "rotate": 10 * i}) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(server.post, bodies))
    assert answers == [server.post(body) for body in bodies]
    assert {status for status, _ in answers} == {200}


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_ONE = "give one of seed, z and w"
_W = [0.0] * 16
# Refused by the model itself.
_BAD_VALUES = [
    (_records(_GOOD | {"edits": {"smiles": 1}}), "no direction 'smiles' (did you mean 'smile'?)"),
    (_records(_GOOD | {"edits": {"age": 1e4}}), "edits.age must be a number from -1000 to 1000"),
    (_records({"class": 0}), _ONE),
    (_records({"seed": None, "class": 0}), _ONE),
    (_records(_GOOD, {"class": 2}), f"row 1: {_ONE}"),
    (_records({"seed": 1, "z": _W, "class": 0}), "not seed and z"),
    (_records(*[_GOOD] * 65), "at most 64 images per request"),
    (_records({"seed": -1, "class": 0}), "not -1"),
    (_records({"seed": 1.5, "class": 0}), "not 1.5"),
    (_records({"seed": True, "class": 0}), "not True"),
    (_records({"seed": "7", "class": 0}), "not '7'"),
    (_records({"seed": "\ud800", "class": 0}), "surrogates not allowed"),
    (_records({"seed": 2**32, "class": 0}), "not 4294967296"),
    (_records({"seed": 10**30, "class": 0}), "seed must be a whole number"),
    (_records({"seed": 10**300, "class": 0}), "not a huge number"),
    (_raw('{"dataframe_records": [{"seed": 1e400}]}'), "not inf"),
    (_records({"seed": [1], "class": 0}), "not a list of 1"),
    (_records({"seed": {"a": 1}, "class": 0}), "not an object of 1"),
    (_records({"seed": 1}), "class is missing; give one from 0 to 2"),
    (_records({"seed": 1, "class": 3}), "class must be a whole number from 0 to 2, not 3"),
    (_records({"seed": 1, "class": "cat"}), "not 'cat'"),
    (_records({"seed": 1, "class": True}), "not True"),
    (_records(_GOOD | {"psi": 3}), "psi must be a number from -2 to 2, not 3"),
    (_records(_GOOD | {"psi": [0.5]}), "psi must be a number"),
    (_records(_GOOD | {"translate_x": "left"}), "translate_x must be a number"),
    (_records(_GOOD | {"rotate": 1e300}), "rotate must be a number"),
    (_records(_GOOD | {"format": "gif"}), "format must be one of png, jpeg, webp"),
    (_records(_GOOD | {"format": ["png"]}), "format must be one of"),
    (_records(_GOOD | {"quality": 50}), "quality is for jpeg and webp"),
    (_records(_GOOD | {"format": "webp", "quality": 101}), "from 1 to 100, not 101"),
    (_records(_GOOD | {"size": 17}), "size must be a whole number from 1 to 16, not 17"),
    (_records(_GOOD | {"size": -1}), "size must be"),
    (_records({"z": [1.0] * 15, "class": 0}), "z must be a list of 16 numbers, not 15"),
    (_records({"z": [1.0] * 17, "class": 0}), "not 17"),
    (_records({"z": [[1.0] * 16], "class": 0}), "z must be a list of 16 numbers, not 1"),
    (_records({"z": ["0"] * 16, "class": 0}), "z[0] must be a number"),
    (_records({"z": [None] * 16, "class": 0}), "z[0] must be a number"),
    (_records({"z": [1e30] * 16, "class": 0}), "z[0] must be a number from -1000 to 1000"),
    (_records({"z": {"0": 1}, "class": 0}), "z must be a list of 16 numbers"),
    (_records({"w": [_W, _W]}), "w must be one list or"),
    (_records({"w": [[_W]]}), "w must"),
    (_records({"w": []}), "w must be a list of 16 numbers, not 0"),
    (_records({"w": _W, "class": 1}), "class has no effect on a w"),
    (_records({"w": _W}, psi=0.5), "psi has no effect on a w"),
    (_records(_GOOD, rotate=1e6), "rotate must be a number"),
    (_records(_GOOD, format="bmp"), "format must be one of"),
    (_records(_GOOD, size=10**30), "size"),
    (_raw('{"dataframe_records": [{"seed": 1, "class": 0}], "params": {"psi": 1e999}}'), "not inf"),
]
# Refused before MLflow reads them, or MLflow would not leave them as they are.
_BAD_BODIES = [
    ({"instances": [_GOOD, _GOOD | {"seed": True}]}, "row 1: seed must be a whole number"),
    ({"inputs": {"seed": [1, True], "class": [0, 0]}}, "row 1: seed must be a whole number"),
    ({"inputs": {"seed": [], "class": []}}, "has no rows"),
    (_records(), "the request has no rows"),
    (_records({}), "row 0 is empty"),
    ({"dataframe_records": [1, 2]}, "must be a list of rows"),
    ({"dataframe_records": {"seed": [1]}}, "must be a list of rows"),
    ({"dataframe_records": None}, "must be a list of rows"),
    ({"dataframe_records": "seed"}, "must be a list of rows"),
    ({"inputs": "a"}, "must be a list of rows"),
    ({"inputs": [[1, 0]]}, "must be a list of rows"),
    ({"inputs": {"seed": [1, 2], "class": [0]}}, "lists of equal length"),
    ({"inputs": {"seed": 1, "class": 0}}, "lists of equal length"),
    ({"instances": [1]}, "must be a list of rows"),
    ({"instances": [{"seed": 1}, _GOOD]}, "rows of instances must have the same columns"),
    ({"inputs": [_GOOD, {"seed": 1}]}, "rows of inputs must have the same columns"),
    ({"dataframe_split": [1]}, "must be an object of columns and data"),
    ({"dataframe_split": {"columns": ["seed"]}}, "must hold columns"),
    ({"dataframe_split": {"columns": ["seed", "class"], "data": [[1]]}}, "value for each column"),
    ({"dataframe_split": {"columns": ["seed", "seed"], "data": [[1, 1]]}}, "each column once"),
    (
        {"dataframe_split": {"columns": ["seed"], "data": [[1]], "index": [0, 1]}},
        "index must be a list with a name or number for each row: 1 here, not 2",
    ),
    ({"dataframe_split": {"columns": ["seed"], "data": [[1]], "rows": 1}}, "an object of columns"),
    ({"dataframe_split": None}, "must be an object of columns and data"),
    ({"dataframe_split": {"columns": ["sede"], "data": [[1]]}}, "unknown column 'sede'"),
    ({"dataframe_split": {"columns": [], "data": []}}, "has no rows"),
    (_raw('{"dataframe_records": [{"seed": 1' + "0" * 5000 + "}]}"), "digits is too long"),
    (_records(_GOOD | {"pssi": 1}), "unknown column 'pssi' (did you mean 'psi'?)"),
    (_records(_GOOD, pssi=0.5), "unknown param 'pssi' (did you mean 'psi'?)"),
    (_records(_GOOD, seed=1), "unknown param 'seed'"),
    (_records(_GOOD) | {"parms": {"psi": 1}}, "unknown key 'parms' (did you mean 'params'?)"),
    (_records(_GOOD) | {"inputs": [_GOOD]}, "not dataframe_records and inputs"),
    ({"rows": []}, "unknown key 'rows'"),
    ({"messages": [{"role": "user", "content": "hi"}]}, "unknown key 'messages'"),
    ({"params": {}}, "must hold one of"),
    (_records(_GOOD) | {"params": [1]}, "params must be an object, not a list"),
    (_records(_GOOD, psi="abc"), "psi"),
    (_records(_GOOD, psi=True), "psi"),
    (_records(_GOOD, psi=[1]), "psi"),
    (_records(_GOOD, psi={"a": 1}), "psi"),
    (_records(_GOOD, format=1), "format"),
    (_records(_GOOD, size=1.5), "size"),
    (_records(_GOOD, format="jpeg", quality="90"), "quality"),
    (b"{", "not valid JSON"),
    (b"", "not valid JSON"),
    (b"null", "a JSON object, not a null"),
    (b"true", "a JSON object, not a boolean"),
    (b"[]", "a JSON object, not a list"),
    (b'"seed"', "a JSON object, not a string"),
    (b"1", "a JSON object, not a number"),
    (b"seed=1", "not valid JSON"),
    (b"\xff", "not UTF-8"),
    (b'{"dataframe_records": [{"seed": 1}]}\xc3', "not UTF-8"),
    (b"\x00", "null byte"),
    (b'{"dataframe_records": [{"seed": 1, "class": 0}]}{}', "not valid JSON"),
    (_raw('{"dataframe_records": [{"seed": NaN, "class": 0}]}'), "NaN is not a JSON number"),
    (
        _raw('{"dataframe_records": [{"seed": 1, "psi": -Infinity}]}'),
        "-Infinity is not a JSON number",
    ),
    (_raw('{"dataframe_records": [{"seed": 1, "seed": 2, "class": 0}]}'), "'seed' occurs twice"),
    (_raw('{"dataframe_records": ' + "[" * 20 + "]" * 20 + "}"), "nested more than 8 deep"),
    (_raw("[" * 100_000 + "]" * 100_000), "nested more than 8 deep"),
    (_raw('{"a":' * 50_000 + "1" + "}" * 50_000), "nested more than 8 deep"),
    (_raw('{"dataframe_records": [{"seed": 1}'), "not valid JSON"),
    (_raw("{'dataframe_records': []}"), "not valid JSON"),
]


@pytest.mark.parametrize(("body", "words"), [*_BAD_VALUES, *_BAD_BODIES])
def test_bad_requests_get_400_and_a_sentence(server, body, words):
    answer = _refusal(server, body, words)
    assert set(answer) == {"error_code", "message"}


@pytest.mark.parametrize(("body", "words"), _BAD_VALUES)
def test_bad_values_get_400_and_a_sentence_from_mlflow_too(mlflow_server, body, words):
    _refusal(mlflow_server, body, words)


def _refusal(server, body, words: str) -> dict[str, str]:
    status, text = server.post(body)
    answer = json.loads(text)
    assert status == 400, text
    assert words in answer["message"]
    assert "\n" not in answer["message"] and "Traceback" not in text and len(text) < 1200
    return answer


@pytest.mark.parametrize(
    "body",
    [
        _records(_GOOD | {"pssi": 1}),
        _records(_GOOD, pssi=0.5),
        _records(_GOOD) | {"parms": {"psi": 1}},
        _raw('{"dataframe_records": [{"seed": 2, "seed": 1, "class": 0}]}'),
    ],
)
def test_mlflow_leaves_out_what_our_server_refuses(server, mlflow_server, body):
    """docs/registry-and-serving.md says so; once MLflow refuses them, it can say less."""
    assert server.post(body)[0] == 400
    assert mlflow_server.post(body) == mlflow_server.post(_records(_GOOD))


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (_records(_GOOD), None, 415, "must be application/json, not nothing"),
        (_records(_GOOD), "", 415, "must be application/json"),
        (_records(_GOOD), "text/plain", 415, "must be application/json, not 'text/plain'"),
        (b"seed,class\n1,0\n", "text/csv", 415, "must be application/json, not 'text/csv'"),
        (b"PAR1", "application/vnd.apache.parquet", 415, "must be application/json"),
        (_records(_GOOD), "application/json; charset=latin-1", 415, "charset must be utf-8"),
        (_records(_GOOD), "application/json; version=1", 415, "no parameter but charset"),
        (b" " * (1 << 20) + b"{}", "application/json", 413, "longer than 1 MiB"),
    ],
)
def test_what_is_no_json_or_too_long_is_not_read(server, body, kind, status, words):
    found, text = server.post(body, kind)
    assert found == status, text
    assert words in json.loads(text)["message"]


def test_a_body_in_pieces_is_cut_at_the_limit(server):
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (b" " * 65536 for _ in range(17))
    link.request("POST", "/invocations", pieces, {"Content-Type": "application/json"})
    assert link.getresponse().status == 413
    link.close()


def test_vectors_formats_and_sizes_are_served(any_server):
    G = any_server.network
    options = RenderOptions(psi=0.7)
    z = seed_latent(5, G.z_dim)[0].tolist()
    ws = seed_ws(G, 5, options, 1)[0].tolist()
    rows = [{"seed": 5, "class": 1, "psi": 0.7}, {"z": z, "class": 1, "psi": 0.7}, {"w": ws}]
    status, text = any_server.post(_records(*rows, {"w": ws[0]}))
    assert status == 200, text
    answers = json.loads(text)["predictions"]
    expected = base64.b64encode(png_bytes(render_image(G, 5, options, 1))).decode()
    assert answers == [{"seed": 5, "png": expected}, *[{"png": expected}] * 3]
    status, text = any_server.post(_records(_GOOD, format="webp", quality=80, size=8))
    assert status == 200, text
    content = base64.b64decode(json.loads(text)["predictions"][0]["webp"])
    with PillowImage.open(io.BytesIO(content)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (8, 8))


def test_a_thousand_requests_at_once_are_all_answered(server):
    """Among the good ones, bad ones: they must not disturb them."""
    bodies = [_records({"seed": i % 10, "class": i % 3}) for i in range(30)]
    bad = _records({"seed": -1, "class": 0})
    expected = [server.post(body) for body in bodies]
    assert {status for status, _ in expected} == {200}

    def ask(i: int) -> bool:
        if i % 10 == 9:
            return server.post(bad)[0] == 400
        return server.post(bodies[i % 30]) == expected[i % 30]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(1000)))
    assert len(answers) == 1000 and all(answers)


def test_the_server_unpickles_nothing_and_needs_no_pipeline_packages(mlflow_server):
    assert mlflow_server.post(_records(_GOOD))[0] == 200
    seen = mlflow_server.watch.read_text().splitlines()
    assert any("sg3flow.serving.request_schema" in line for line in seen)
    assert all("sg3flow.serving.request_schema" in line for line in seen), seen
