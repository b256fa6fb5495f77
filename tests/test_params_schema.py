"""The JSON schema of params files: kept up to date, and of one mind with the loader."""

import dataclasses
import itertools
import json
import math
import typing
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.errors import ConfigError
from sg3flow.params_file import SECTIONS, load_settings, read_params
from sg3flow.params_schema import MODELINE, NAME, params_schema, schema_text

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
VALIDATOR = jsonschema.Draft7Validator(params_schema())
STARTER = YAML(typ="safe").load(ROOT / "params.yaml")


def errors(section: str, values: object) -> list[str]:
    """What the schema says about a params file whose section has these values."""
    return [error.message for error in VALIDATOR.iter_errors({**STARTER, section: values})]


def loads(section: str, values: dict[str, object]) -> bool:
    try:
        load_settings(SECTIONS[section], section, overrides=values)
    except ConfigError:
        return False
    return True


def test_the_files_of_the_project_are_those_of_config():
    """If this fails, run `sg3flow schema`."""
    assert (ROOT / NAME).read_text() == schema_text()
    beside = json.loads((ROOT / "recipes" / NAME).read_text())
    assert beside["$ref"] == f"../{NAME}"
    jsonschema.Draft7Validator.check_schema(params_schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_names_the_schema_and_fits_it(path):
    assert path.read_text().startswith(MODELINE)
    assert (path.parent / NAME).is_file()
    assert not [error.message for error in VALIDATOR.iter_errors(dict(read_params(path)))]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"gama": 1}, "'gama' does not match any of the regexes"),
        ("train", {"gamma": "much"}, "'much' is not of type 'number'"),
        ("train", {"gamma": -1}, "-1 is less than the minimum of 0"),
        ("train", {"kimg": 2.5}, "2.5 is not of type 'integer'"),
        ("train", {"gpus": True}, "True is not of type 'integer'"),
        ("train", {"cfg": "stylegan3"}, "'stylegan3' is not one of ['stylegan3-t', "),
        ("train", {"batch_gpu": "all"}, "'all' is not valid under any of the given schemas"),
        ("train", {"batch-gpu": 2, "batch_gpu": 2}, "'batch-gpu' should not be valid under"),
        ("train", {"cond": "yes"}, "'yes' is not of type 'boolean'"),
        ("evaluate", {"metrics": [50]}, "[50] is not valid under any of the given schemas"),
        ("evaluate", {"mirror": 1}, "1 is not one of ['auto', 'yes', 'no', True, False]"),
        ("register", {"name": 5}, "5 is not of type 'string'"),
        ("render", None, "None is not of type 'object'"),
    ],
)
def test_wrong_settings_are_rejected(section, values, message):
    values = values if values is None else {**STARTER[section], **values}
    found = errors(section, values)
    assert len(found) == 1 and message in found[0], found


def test_a_missing_setting_or_section_is_rejected():
    assert errors("train", {"cfg": "stylegan3-t", "gpus": 1, "batch": 4}) == [
        "'gamma' is a required property"
    ]
    without = {name: values for name, values in STARTER.items() if name != "train"}
    [error] = VALIDATOR.iter_errors({**without, "trian": STARTER["train"]})
    assert error.message == "'train' is a required property"


def test_every_setting_is_explained_as_its_option_is():
    for section, config_type in SECTIONS.items():
        settings = params_schema()["properties"][section]["properties"]
        for field in dataclasses.fields(config_type):
            about = settings[field.name]
            assert about["description"] == field.metadata["help"]
            if field.default is not dataclasses.MISSING:
                default = field.default
                wanted = list(default) if isinstance(default, tuple) else default
                assert about["default"] == wanted


WORDS = ["", "auto", "yes", "no", "none", "16", "065536", "65537", "99999", "0000000001", "-0"]
WORDS += ["-1", "9\n", " 5", "1e3", "a,b", "a\0", "\n\0", "schön", "\U0001f431"]
CHOICES = [
    choice
    for config_type in SECTIONS.values()
    for field in dataclasses.fields(config_type)
    for choice in field.metadata["choices"] or ()
]
SCALARS = (
    st.sampled_from([*WORDS, *CHOICES, None, True, False, 10**400, math.inf, -math.inf])
    | st.integers(-2, 70_000)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.floats(0, 1)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS)


def _likely(field):
    """Values that a rule of this field is about: its choices, its bounds and their neighbors."""
    bounds = [field.metadata[key] for key in ("ge", "le") if field.metadata[key] is not None]
    near = [number + step for number in bounds for step in (-1, -0.5, 0, 0.5, 1)]
    words = (*(field.metadata["choices"] or ()), *(field.metadata["words"] or ()))
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return [*([] if default is dataclasses.MISSING else [default]), *near, *words]


def _is_ambiguous(value, kind):
    """Whether JSON does not have the difference that decides: 4 and 4.0 are one number."""
    return kind is int and isinstance(value, float) and value.is_integer()


def _agree(section, values):
    found = _errors_within(section, values)
    assert (not found) == loads(section, values), (section, values, found)


SAMPLES = [*WORDS, None, True, False, 0, 1, 0.5, 10**400, math.inf, [], ["a"], ["a", 1], [None], {}]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_setting_has_the_rules_of_the_loader(section):
    config_type = SECTIONS[section]
    kinds = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        for value in (*_likely(field), *SAMPLES):
            if not _is_ambiguous(value, kinds[field.name]):
                _agree(section, {**STARTER[section], field.name: value})


def _spelled(name):
    parts = name.split("_")
    for marks in itertools.product("_-", repeat=len(parts) - 1):
        yield "".join(itertools.chain(*zip(parts, (*marks, ""), strict=True)))


@pytest.mark.parametrize("section", SECTIONS)
def test_each_setting_has_all_its_spellings_and_is_set_once(section):
    config_type = SECTIONS[section]
    for field in dataclasses.fields(config_type):
        if field.default is dataclasses.MISSING or isinstance(field.default, tuple):
            continue
        names = [*_spelled(field.name), *_spelled(field.metadata["former"])]
        names = [name for name in names if name]
        others = {k: v for k, v in STARTER[section].items() if k != field.name}
        for name in names:
            assert not _errors_within(section, {**others, name: field.default}), name
        for first, second in itertools.combinations(names, 2):
            values = {**others, first: field.default, second: field.default}
            assert _errors_within(section, values), (first, second)
            assert not loads(section, values)


def _errors_within(section, values):
    return [each.message for each in VALIDATOR.iter_errors({section: values}) if each.path]


@st.composite
def sections(draw):
    """A section of a params file: known names in any spelling, now and then an unknown one."""
    section = draw(st.sampled_from(list(SECTIONS)))
    config_type = SECTIONS[section]
    fields = dataclasses.fields(config_type)
    kinds = typing.get_type_hints(config_type)
    values = dict(STARTER[section])
    chosen = draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3))
    for field in chosen + chosen[: draw(st.integers(0, 1))]:
        name = draw(st.sampled_from(sorted({field.name, field.metadata["former"]} - {""})))
        parts = name.split("_")
        marks = [draw(st.sampled_from("_-")) for _ in parts[1:]]
        spelled = parts[0] + "".join(m + p for m, p in zip(marks, parts[1:], strict=True))
        value = draw(st.one_of(st.sampled_from(_likely(field) or [0]), st.booleans(), VALUES))
        if not _is_ambiguous(value, kinds[field.name]):
            values[spelled] = value
    if draw(st.integers(0, 9)) == 0:
        values[draw(st.sampled_from(["unknown", "gammas", "batch__gpu", "Seed", ""]))] = 1
    return section, values


@given(sections())
def test_the_schema_accepts_what_the_loader_accepts(case):
    _agree(*case)


@pytest.mark.parametrize("text", [str(n) for n in (0, 1, 9, 10, 65535, 65536, 65537, 70000)])
def test_numbers_in_quotes_have_the_bounds_of_numbers(text):
    for spelled in (text, f"-{text}", text.zfill(9), text.zfill(10)):
        values = {**STARTER["train"], "batch_gpu": spelled}
        assert (not errors("train", values)) == loads("train", values), spelled


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_the_schema_and_replaces_only_its_own(project):
    for _ in range(2):
        done = CliRunner().invoke(app, ["schema"])
        assert done.exit_code == 0 and done.stdout.count(NAME) == 2
    assert (project / NAME).read_text() == schema_text()
    (project / NAME).write_text("{}")
    (project / "recipes" / NAME).unlink()
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 1 and "is not a schema made by sg3flow" in done.stderr
    assert not (project / "recipes" / NAME).exists()
