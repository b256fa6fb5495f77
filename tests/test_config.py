"""Settings: strict reading, worded errors."""

import math
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import get_type_hints

import pytest

from sg3flow import config
from sg3flow.config import (
    AUTO,
    EvaluateConfig,
    FetchConfig,
    PackConfig,
    RenderConfig,
    RenderVideoConfig,
    TrainConfig,
    ValidateConfig,
)
from sg3flow.data.image_transform import parse_resolution
from sg3flow.errors import ConfigError
from sg3flow.params_file import load_settings, set_values

REQUIRED = {"cfg": "stylegan3-t", "gpus": 1, "batch": 8, "gamma": 0.5}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_official_ones():
    config = load_settings(TrainConfig, "train", overrides=REQUIRED)
    assert (config.cbase, config.cmax, config.kimg, config.tick, config.snap) == (
        32768,
        512,
        25000,
        4,
        50,
    )
    assert (config.aug, config.target, config.p, config.mbstd_group) == ("ada", 0.6, 0.2, 4)


def test_a_video_has_the_official_length_and_the_pipeline_keeps_its_own():
    video = load_settings(RenderVideoConfig, "render")
    assert (video.w_frames, video.fps, video.num_keyframes, video.shuffle_seed) == (120, 60, 0, -1)
    pipeline = load_settings(RenderConfig, "render")
    assert (pipeline.video_frames, pipeline.video_fps) == (60, 30)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "auto"), ("mirror: true", "yes"), ("mirror: false", "no"), ("mirror: yes", "yes")],
)
def test_a_switch_is_a_word_or_a_truth_value(tmp_path, text, found):
    params = write(tmp_path / "params.yaml", f"evaluate: {{{text}}}")
    assert load_settings(EvaluateConfig, "evaluate", params).mirror == found
    assert load_settings(EvaluateConfig, "evaluate", params, {"mirror": False}).mirror == "no"
    for wrong, words in (("1", "true, false or auto, not 1"), ("maybe", "one of auto, yes, no")):
        write(params, f"evaluate: {{mirror: {wrong}}}")
        with pytest.raises(ConfigError, match=f"mirror must be {words}"):
            load_settings(EvaluateConfig, "evaluate", params)


def test_file_values_and_overrides(tmp_path):
    params = write(
        tmp_path / "params.yaml",
        "train: {cfg: stylegan3-t, gpus: 1, batch: 8, gamma: 1e-1, batch-gpu: 4}\n",
    )
    config = load_settings(TrainConfig, "train", params, {"batch": 16})
    assert (config.gamma, config.batch, config.batch_gpu) == (0.1, 16, 4)


def test_a_word_may_stand_for_a_number_and_a_text_for_a_list(tmp_path):
    text = "train: {cfg: stylegan2, gpus: 1, batch: 8, gamma: 1, batch_gpu: auto, metrics: none}"
    params = write(tmp_path / "params.yaml", text)
    config = load_settings(TrainConfig, "train", params)
    assert (config.batch_gpu, config.metrics) == (AUTO, ("none",))
    # As the command line hands them over.
    given = {"batch_gpu": "4", "metrics": ["fid5k_full", "kid5k_full"]}
    config = load_settings(TrainConfig, "train", params, given)
    assert (config.batch_gpu, config.metrics) == (4, ("fid5k_full", "kid5k_full"))
    with pytest.raises(ConfigError, match="batch_gpu must be a whole number or auto, not 'most'"):
        load_settings(TrainConfig, "train", params, {"batch_gpu": "most"})
    with pytest.raises(ConfigError, match="at least 0"):
        load_settings(TrainConfig, "train", params, {"batch_gpu": "-1"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {cfg: stylegan3-t, gpus: 1, batch: 8}", "missing parameter 'gamma'"),
        ("train: {gama: 1}", "did you mean 'gamma'"),
        ("train: {cfg: stylegan3_t}", "did you mean 'stylegan3-t'"),
        ("train: {gpus: true}", "must be a whole number"),
        ("train: {batch: 8.0}", "must be a whole number"),
        ("train: {gamma: ten}", "must be a number"),
        ("train: {gamma: .nan}", "finite"),
        ("train: {cond: 1}", "true or false"),
        ("train: {kimg: 0}", "at least 1"),
        ("train: {p: 1.5}", "at most 1"),
        ("train: {resume: null}", "must be a text"),
        ("train: [1, 2]", "names and values"),
        ("trian: {}", "did you mean 'trian'"),
        ("- 1", "one section per stage"),
        ("train: {a: b", "not valid YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, words):
    params = write(tmp_path / "params.yaml", text)
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as error:
        load_settings(TrainConfig, "train", params)
    assert words in str(error.value)


CONFIGS = sorted(
    (each for each in vars(config).values() if isinstance(each, type) and is_dataclass(each)),
    key=lambda each: each.__name__,
)
NUMBERS = [
    (each, field.name)
    for each in CONFIGS
    for field in fields(each)
    if get_type_hints(each)[field.name] in (int, float)
]


def one_setting(config_type: type, name: str, value: object):
    """The dataclass with one value given, and the required ones."""
    needed = {f.name: None for f in fields(config_type) if f.default is MISSING}
    usual = {"dataset": "starter", "seeds": "0", "rows": "0", "cols": "1"} | REQUIRED
    given = {each: usual[each] for each in needed} | {name: value}
    return load_settings(config_type, "x", overrides=given)


@pytest.mark.parametrize(("config_type", "name"), NUMBERS)
def test_every_number_has_two_bounds_and_no_other_value_passes(config_type, name):
    (field,) = (each for each in fields(config_type) if each.name == name)
    low, high = field.metadata["ge"], field.metadata["le"]
    for bound in (low, high):
        assert getattr(one_setting(config_type, name, bound), name) == bound
    wrong = [
        low - 1,
        high + 1,
        10**400,
        -(10**6000),
        math.inf,
        -math.inf,
        math.nan,
        True,
        "x",
        None,
    ]
    for value in [*wrong, [1], {}]:
        with pytest.raises(ConfigError, match=rf"^x.{name} must be [^\n]{{5,120}}$"):
            one_setting(config_type, name, value)


def test_a_number_where_a_text_of_numbers_is_expected_is_that_text():
    config = one_setting(PackConfig, "resolution", 256)
    assert config.resolution == "256"
    with pytest.raises(ConfigError, match=r"resolution must be WIDTHxHEIGHT .*, not '256'"):
        parse_resolution(config.resolution)


@pytest.mark.parametrize("value", ["a\0b", "\udcff.png", "é\ud800"])
def test_a_text_can_be_a_path_and_can_be_written(value):
    assert one_setting(PackConfig, "subset", "é/ü").subset == "é/ü"
    with pytest.raises(ConfigError, match="must be text in UTF-8 without null characters") as error:
        one_setting(PackConfig, "subset", value)
    str(error.value).encode()
    with pytest.raises(ConfigError, match="UTF-8"):
        one_setting(FetchConfig, "mirrors", ["a", value])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("desc", 5, "x.desc must be a text, not 5; put it in quotes"),
        ("desc", date(2026, 1, 2), "x.desc must be a text, not a date; put it in quotes"),
        ("desc", [["a"] * 9] * 9, "x.desc must be a text, not a list of 9"),
        ("metrics", 3, "x.metrics must be a list, not 3"),
        ("metrics", [{"a": 1}], "x.metrics[0] must be a text, not a dict of 1"),
        pytest.param("aug", "n" * 1000, "(1000 characters)", id="choice"),
        pytest.param("m" * 1000, 1, "(1000 characters)", id="name"),
        ("grid", True, "x.grid must be a text, not true"),
    ],
)
def test_a_message_has_no_long_value(name, value, words):
    with pytest.raises(ConfigError) as error:
        one_setting(TrainConfig, name, value)
    assert words in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("first", "second"), [("map-depth", "map_depth"), ("map_depth", "map-depth")]
)
def test_two_spellings_of_one_setting_are_refused(tmp_path, first, second):
    lines = [f"  {name}: {value}" for name, value in REQUIRED.items()]
    params = write(tmp_path / "params.yaml", "\n".join(["train:", *lines, f"  {first}: 2"]))
    assert load_settings(TrainConfig, "train", params).map_depth == 2
    given = load_settings(TrainConfig, "train", params, {second: 4})
    assert given.map_depth == 4  # the command line takes precedence over the file
    params.write_text(f"{params.read_text()}\n  {second}: 4\n")
    with pytest.raises(ConfigError, match=rf"params.yaml sets both '{first}' and '{second}', one"):
        load_settings(TrainConfig, "train", params)
    before = params.read_text()
    with pytest.raises(ConfigError, match=f"sets both '{first}' and '{second}'"):
        set_values(params, ["train.map_depth=8"])
    assert params.read_text() == before


@pytest.mark.parametrize(
    ("section", "config_type", "former", "present"),
    [
        ("validate", ValidateConfig, "max_one_colour", "max_one_color"),
        ("train", TrainConfig, "max-repairs", "max_nonfinite_updates"),
    ],
)
def test_a_former_name_is_accepted_but_not_beside_the_present_one(
    tmp_path, section, config_type, former, present
):
    required = REQUIRED if section == "train" else {}
    params = write(tmp_path / "params.yaml", f"{section}: {{{former}: 1}}")
    assert getattr(load_settings(config_type, section, params, required), present) == 1
    given = required | {present: 0}
    assert getattr(load_settings(config_type, section, params, given), present) == 0
    write(params, f"{section}: {{{former}: 1, {present}: 1}}")
    words = rf"sets both '{present}' and '{former.replace('-', '_')}', .*keep '{present}'"
    with pytest.raises(ConfigError, match=words):
        load_settings(config_type, section, params, required)


def test_missing_file_and_binary_file(tmp_path):
    with pytest.raises(ConfigError, match="no params file"):
        load_settings(PackConfig, "pack", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_settings(PackConfig, "pack", tmp_path / "bad.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    params = write(
        tmp_path / "params.yaml",
        "train: {cfg: stylegan3-t, gpus: 1, batch: 8, gamma: 25e-1, glr: 1e-8}",
    )
    config = load_settings(TrainConfig, "train", params)
    assert (config.gamma, config.glr) == (2.5, 1e-8)
    assert type(config.gamma) is float and type(config.batch) is int
