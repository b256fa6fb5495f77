"""The train stage: one-line errors, and the output of a dry run."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.stage_commands import train_app

SETTINGS = ["--cfg=stylegan3-t", "--gpus=1", "--batch=4", "--gamma=0.1", "--device=cpu"]


@pytest.fixture(scope="module")
def app():
    return train_app


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "state"))


def packed(path: Path, resolution: int = 16) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(4):
            buffer = io.BytesIO()
            pixels = np.full((resolution, resolution, 3), 40 * i, np.uint8)
            Image.fromarray(pixels).save(buffer, "png", compress_level=0)
            archive.writestr(f"00000/img{i:08d}.png", buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": None}))
    return path


def fails(app, *arguments) -> str:
    result = CliRunner().invoke(app, [*SETTINGS, *map(str, arguments)])
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 1, result.output
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_wrong_calls_end_in_one_line(app, tmp_path):
    data = packed(tmp_path / "a.zip")
    out = tmp_path / "out"
    assert "--outdir" in fails(app, "--data", data)
    assert "none.zip" in fails(app, "--data", tmp_path / "none.zip", "--run-dir", out)
    message = fails(app, "--data", data, "--run-dir", out, "--batch-gpu=3")
    assert "must be a multiple of gpus * batch_gpu" in message
    message = fails(app, "--data", data, "--run-dir", out, "--mbstd-group=3")
    assert "must be a multiple of mbstd_group" in message
    assert "needs labels" in fails(app, "--data", data, "--run-dir", out, "--cond=1")
    assert "power of two" in fails(app, "--data", packed(tmp_path / "b.zip", 24), "--run-dir", out)
    assert "like 3x2" in fails(app, "--data", data, "--run-dir", out, "--grid=8by4")
    assert "multiple of gpus" in fails(app, "--data", data, "--run-dir", out, "--gpus=3")
    message = fails(app, "--data", data, "--run-dir", out, "--metrics=fid50kfull")
    assert "unknown metric 'fid50kfull' (did you mean 'fid50k_full'?)" in message
    assert "exclude each other" in fails(
        app, "--data", data, "--run-dir", out, "--fp32=1", "--bf16=1"
    )
    assert not out.exists()


def test_an_output_folder_of_others_is_left_alone(app, tmp_path):
    data = packed(tmp_path / "a.zip")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert "is not a training run made by sg3flow" in fails(app, "--data", data, "--run-dir", out)
    assert (out / "thesis.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert "the file" in fails(app, "--data", data, "--run-dir", tmp_path / "file")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_set_is_named(app, tmp_path, workers):
    data = packed(tmp_path / "a.zip")
    content = bytearray(data.read_bytes())
    content[200] ^= 255
    data.write_bytes(bytes(content))
    message = fails(app, "--data", data, "--run-dir", tmp_path / "out", f"--workers={workers}")
    assert "img00000000.png" in message


def test_dry_run_prints_the_resolved_settings_and_makes_nothing(app, tmp_path):
    data = packed(tmp_path / "a.zip")
    arguments = [*SETTINGS, "--data", str(data), "--outdir", str(tmp_path / "mods"), "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["resolved"]["glr"] == 0.0025 and shown["resolved"]["map_depth"] == 2
    assert shown["training_set"]["num_images"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


# docs/train-help.txt of the official code, its options in its order, with a value for each.
OFFICIAL = [
    *("--outdir=mods", "--cfg=stylegan2", "--data=a.zip", "--gpus=1", "--batch=8", "--gamma=8.2"),
    *("--cond=0", "--mirror=1", "--aug=fixed", "--resume=", "--freezed=1", "--p=0.3"),
    *("--target=0.5", "--batch-gpu=4", "--cbase=64", "--cmax=8", "--glr=0.002", "--dlr=0.001"),
    *("--map-depth=3", "--mbstd-group=2", "--desc=mine", "--metrics=fid50k,pr50k3"),
    *("--kimg=7", "--tick=2", "--snap=3", "--seed=5", "--fp32=1", "--nobench=1", "--workers=0"),
    "-n",
]


def test_every_option_of_the_official_train_is_understood(app, tmp_path, monkeypatch):
    packed(tmp_path / "a.zip")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*OFFICIAL, "--device=cpu"])
    assert result.exit_code == 0, result.stderr
    given = json.loads(result.stdout)["given"]
    wanted = {
        word[2:].partition("=")[0].replace("-", "_"): word.partition("=")[2]
        for word in OFFICIAL[:-1]
    }
    for name in ("outdir", "data", "nobench"):  # no settings
        del wanted[name]
    flags = {"cond": "0", "mirror": "1", "fp32": "1"}
    assert {n: str(int(given.pop(n))) for n in flags} == {n: wanted.pop(n) for n in flags}
    assert given.pop("metrics") == wanted.pop("metrics").split(",")
    assert {name: str(given[name]) for name in wanted} == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("spelling", [["--nobench"], ["--nobench=1"], ["--nobench", "1"], []])
def test_benchmarking_is_off_by_default_and_nobench_agrees(app, tmp_path, spelling):
    assert not dry_run(app, tmp_path, *spelling)["resolved"]["cudnn_benchmark"]


def dry_run(app, tmp_path, *arguments) -> dict:
    data = packed(tmp_path / "a.zip")
    given = [*SETTINGS, f"--data={data}", f"--outdir={tmp_path}", "-n", *arguments]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("spelling", ["--nobench=0", "--no-nobench", "--cudnn-benchmark"])
def test_benchmarking_has_two_names_and_is_another_training(app, tmp_path, spelling):
    found, default = dry_run(app, tmp_path, spelling), dry_run(app, tmp_path)
    assert found["resolved"]["cudnn_benchmark"] and found["fingerprint"] != default["fingerprint"]


def test_the_two_names_of_benchmarking_may_not_contradict(app, tmp_path):
    options = ["-n", "--nobench", "--cudnn-benchmark"]
    message = fails(app, "--data", packed(tmp_path / "a.zip"), "--outdir", tmp_path, *options)
    assert "--nobench and --cudnn-benchmark exclude each other" in message


def test_full_precision_excludes_tf32(app, tmp_path):
    options = ["-n", "--fp32", "--tf32"]
    message = fails(app, "--data", packed(tmp_path / "a.zip"), "--outdir", tmp_path, *options)
    assert "train.fp32 is exact float32 and excludes train.tf32; choose one" in message


def test_a_dry_run_shows_the_precision(app, tmp_path):
    assert dry_run(app, tmp_path, "--tf32")["precision"] == "exact float32"  # on a CPU
