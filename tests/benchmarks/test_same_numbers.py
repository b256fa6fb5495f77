"""The comparison of two checkouts sees every kind of change, and tells it from what may differ."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, PngImagePlugin

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 4}


@pytest.fixture(scope="module", autouse=True)
def programs():
    """As the script finds them: beside itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


def snapshot(path, **changes):
    weights = {"weight": torch.ones(3), "bias": torch.zeros(2)}
    content = {"G": {"class_name": "G", "state_dict": weights}, "progress": {"nimg": 1000}}
    torch.save(content | changes, path)
    return path


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_snapshot_with_other_bytes_and_equal_values_is_equal(tmp_path):
    from contents import compare_snapshots

    old = snapshot(tmp_path / "old.pkl")
    new = snapshot(tmp_path / "of-another-name.pkl")
    row = compare_snapshots("s", old, new)
    assert row.equal and row.old == row.new
    assert row.note == "2 tensors, other bytes" and old.read_bytes() != new.read_bytes()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.tensor([1, 1, 1.0000001]), "bias": torch.zeros(2)}, "1.19e-07"),
        ({"weight": torch.ones(3), "bias": torch.tensor([0, -0.0])}, "changed: G.state_dict.bias"),
        ({"weight": torch.ones(3).double(), "bias": torch.zeros(2)}, "changed"),
        ({"weight": torch.ones(3, 1), "bias": torch.zeros(2)}, "changed"),
        ({"weight": torch.ones(3)}, "missing in NEW: G.state_dict.bias"),
        ({"weight": torch.ones(3), "bias": torch.zeros(2), "b": torch.ones(1)}, "only in NEW"),
    ],
)
def test_any_change_of_a_tensor_is_seen(weights, message, tmp_path):
    from contents import compare_snapshots

    changed = {"class_name": "G", "state_dict": weights}
    pair = snapshot(tmp_path / "old.pkl"), snapshot(tmp_path / "new.pkl", G=changed)
    row = compare_snapshots("s", *pair)
    assert not row.equal and row.old != row.new and message in row.note


def test_a_changed_plain_value_of_a_snapshot_is_seen(tmp_path):
    from contents import compare_snapshots

    pair = snapshot(tmp_path / "old"), snapshot(tmp_path / "new", progress={"nimg": 1000.0})
    row = compare_snapshots("s", *pair)
    assert not row.equal and "progress.nimg (1000 -> 1000.0)" in row.note


def test_equal_infinities_and_nans_are_equal(tmp_path):
    from contents import compare_snapshots

    content = {"state_dict": {"w": torch.tensor([torch.nan, torch.inf, -torch.inf])}}
    pair = snapshot(tmp_path / "old", G=content), snapshot(tmp_path / "new", G=content)
    assert compare_snapshots("s", *pair).equal


def test_a_changed_byte_is_seen(tmp_path):
    from contents import compare_files, compare_folders

    for side, content in (("old", b"abc"), ("new", b"abd")):
        (tmp_path / side / "in").mkdir(parents=True)
        (tmp_path / side / "in" / "a.zip").write_bytes(content)
    old, new = tmp_path / "old", tmp_path / "new"
    assert not compare_files("f", old / "in" / "a.zip", new / "in" / "a.zip").equal
    assert not compare_folders("f", old, new).equal
    (new / "in" / "a.zip").write_bytes(b"abc")
    assert compare_files("f", old / "in" / "a.zip", new / "in" / "a.zip").equal
    assert compare_folders("f", old, new).equal
    (new / "b").touch()
    assert "only in NEW: b" in compare_folders("f", old, new).note


def test_what_is_missing_or_empty_is_a_difference(tmp_path):
    from contents import compare_files, compare_json, compare_pictures

    there = write(tmp_path / "there.json", {"a": 1})
    row = compare_files("f", there, tmp_path / "gone.json")
    assert not row.equal and row.note == "NEW wrote no there.json"
    assert not compare_json("j", there, there, keep=lambda name, value: False).equal
    assert not compare_pictures("p", tmp_path, tmp_path).equal


def test_metrics_differ_by_their_last_digit_and_not_by_the_words_of_an_error_rule(tmp_path):
    from contents import compare_json
    from same_numbers import is_measurement

    def report(name, value, rule="jackknife", **more):
        rows = [{"metric": "fid", "value": value, "error_rule": rule} | more]
        return write(tmp_path / name, {"results": rows})

    old = report("old.json", 44.29204565435369)
    same = report("same.json", 44.29204565435369, "Jackknife", added=1)
    row = compare_json("m", old, same, keep=is_measurement)
    assert row.equal and "only in NEW: results.0.added" in row.note
    other = report("other.json", 44.2920456543537)
    row = compare_json("m", old, other, keep=is_measurement)
    assert not row.equal and "results.0.value" in row.note


def test_losses_are_compared_and_times_are_not(tmp_path):
    from contents import compare_json
    from same_numbers import is_loss

    def stats(name, loss, seconds):
        row = {"Loss/G/loss": {"mean": loss}, "Timing/total_sec": {"mean": seconds}}
        return write(tmp_path / name, json.dumps(row) + "\n")

    old = stats("old.jsonl", 0.5, 1.0)
    assert compare_json("l", old, stats("a.jsonl", 0.5, 2.0), keep=is_loss).equal
    assert not compare_json("l", old, stats("b.jsonl", 0.25, 1.0), keep=is_loss).equal


def test_numbers_of_common_names_are_compared_and_words_are_not(tmp_path):
    from contents import compare_json, is_number

    def same(name, content):
        pair = old, write(tmp_path / name, content)
        return compare_json("v", *pair, keep=is_number, names="common")

    old = write(tmp_path / "old.json", {"mean": -1.5, "word": "a", "pictures": 3})
    assert "only in OLD: pictures" in same("a.json", {"mean": -1.5, "word": "b", "images": 3}).note
    assert same("a.json", {"mean": -1.5, "word": "b", "images": 3}).equal
    assert not same("b.json", {"mean": 1.5}).equal
    assert not same("c.json", {"word": "a"}).equal


def test_a_manifest_is_compared_in_the_columns_of_both(tmp_path):
    from contents import compare_manifests

    table = pd.DataFrame({"path": ["a", "b"], "label": pd.array([0, None], "Int64"), "look": 1})
    table.to_parquet(tmp_path / "old")
    table.rename(columns={"look": "hash"}).to_parquet(tmp_path / "renamed")
    row = compare_manifests("m", tmp_path / "old", tmp_path / "renamed")
    assert row.equal
    assert row.note == "2 columns; column only in OLD: look; column only in NEW: hash"
    table.assign(label=pd.array([0, 0], "Int64")).to_parquet(tmp_path / "changed")
    row = compare_manifests("m", tmp_path / "old", tmp_path / "changed")
    assert not row.equal and "label.1 (None -> 0)" in row.note
    table[:1].to_parquet(tmp_path / "shorter")
    assert not compare_manifests("m", tmp_path / "old", tmp_path / "shorter").equal


def test_pictures_with_other_bytes_and_equal_pixels_are_equal_and_it_says_so(tmp_path):
    from contents import compare_pictures

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "another")
    for side in ("old", "same", "other"):
        (tmp_path / side).mkdir()
    Image.fromarray(pixels).save(tmp_path / "old" / "a.png")
    Image.fromarray(pixels).save(tmp_path / "same" / "a.png", pnginfo=info)
    row = compare_pictures("p", tmp_path / "old", tmp_path / "same")
    assert row.equal and row.note == "PNG files: 1, equal pixels, other bytes"
    pixels[3, 3, 2] += 1
    Image.fromarray(pixels).save(tmp_path / "other" / "a.png")
    assert not compare_pictures("p", tmp_path / "old", tmp_path / "other").equal


@pytest.mark.parametrize("generator", [StyleGAN3Generator, StyleGAN2Generator])
def test_a_public_pickle_is_read_as_the_snapshot_it_was_made_of(generator, tmp_path):
    from public_form import write_public_pickle

    torch.manual_seed(0)
    G = generator(z_dim=8, c_dim=3, w_dim=8, **SIZES)
    D = Discriminator(c_dim=3, **SIZES)
    path = tmp_path / "snapshot.pkl"
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0.0, training_set={}, progress={"nimg": 0})
    public = write_public_pickle(path, tmp_path / "public.pkl")
    assert public.read_bytes()[:1] == b"\x80" and b"torch_utils.persistence" in public.read_bytes()
    assert not {"torch_utils", "dnnlib", "dnnlib.util"} & set(sys.modules)
    own, read = load_networks(path), load_networks(public)
    for name in ("G", "D", "G_ema"):
        state, expected = (getattr(side, name).state_dict() for side in (read, own))
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.medium
def test_what_is_no_checkout_ends_in_one_line(tmp_path):
    command = [sys.executable, FOLDER / "same_numbers.py", tmp_path, tmp_path, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: {tmp_path} is no checkout of sg3flow; name its root folder"
    )
