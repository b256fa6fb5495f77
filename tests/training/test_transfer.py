"""Starting from another network: copied tensors, errors, frozen layers."""

import dataclasses
import functools
import http.server
import os
import re
import threading
from pathlib import Path

import pytest
import torch

from sg3flow.checkpoints import Networks, load_networks, save_snapshot
from sg3flow.checkpoints.loading import package_generator
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.networks import Discriminator, StyleGAN2Generator
from sg3flow.runs.run_folder import describe_run, read_run, snapshot_name
from sg3flow.training.assembly import (
    EMA_RAMPUP,
    NetworkSettings,
    build,
    discriminator_kwargs,
    resolve,
    select,
)
from sg3flow.training.job import dry_run
from sg3flow.training.step import RealBatch, ema_beta, run_step, seed_step
from sg3flow.training.training_run import train
from sg3flow.training.transfer import (
    TransferSettings,
    architecture_of,
    start_architecture,
    transfer,
)
from sg3flow.training.work_folder import open_run_folder

SIZES = {"resolution": 16, "channels": 3, "c_dim": 0}
D_LAYERS = ["b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1", "b8.skip"]


@pytest.fixture
def small(tiny_config):
    """Two steps of the smallest networks."""
    return dataclasses.replace(
        tiny_config, batch=500, batch_gpu=100, cbase=64, cmax=2, map_depth=1, aug="noaug"
    )


def parts_of(config):
    return select(TransferSettings, config), select(NetworkSettings, config)


def built(config, architecture=None):
    parts = build(resolve(config), **SIZES, device=torch.device("cpu"), architecture=architecture)
    # Another start than the seed's own: what is taken must differ from what was there.
    return parts


def checkpoint(config, *, seed=77):
    parts = built(dataclasses.replace(config, seed=seed))
    return Networks(parts.G, parts.D, parts.G_ema)


def write(path, networks):
    save_snapshot(
        path,
        G=networks.G,
        D=networks.D,
        G_ema=networks.G_ema,
        augment_p=0.0,
        training_set=networks.training_set or {},
        progress={"nimg": 0},
    )
    return str(path)


def states(parts):
    return {
        name: {k: v.clone() for k, v in getattr(parts, name).state_dict().items()}
        for name in ("G", "D", "G_ema")
    }


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in other)


# Weights


def test_everything_is_taken_where_it_fits(small):
    parts, networks = built(small), checkpoint(small)
    said = transfer(parts, networks, "cats.pkl", partial=False)
    assert states(parts).keys() == {"G", "D", "G_ema"}
    for name in ("G", "D", "G_ema"):
        assert same(getattr(parts, name).state_dict(), getattr(networks, name).state_dict())
        assert f"{name}: " in said and "initialized" not in said


def counts_of(said, name):
    return re.search(rf"(\d+) of (\d+) tensors of {name} fit, (\d+) do not", said).groups()


def test_misfits_are_one_error_with_both_shapes_and_nothing_changes(small):
    parts = built(small)
    before = states(parts)
    networks = checkpoint(dataclasses.replace(small, cmax=4, cbase=128, map_depth=2))
    source = "https://someone:password@place.org/cats.pkl?key=secret"
    with pytest.raises(CheckpointError) as caught:
        transfer(parts, networks, source, partial=False)
    said = str(caught.value)
    assert said.startswith(
        f"the checkpoint is {words_of(SIZES)}, cbase 128, cmax 4, map-depth 2; "
        f"this training is {words_of(SIZES)}, cbase 64, cmax 2, map-depth 1 "
    )
    assert "\n" not in said and len(said) < 1500
    for name in ("G", "D"):
        fit, total, differing = map(int, counts_of(said, name))
        assert fit + differing == total == len(getattr(parts, name).state_dict())
    assert "D.b16.fromrgb.weight: [4, 3, 1, 1] in the checkpoint, [2, 3, 1, 1] here" in said
    assert said.endswith(
        "use --resume-arch to take all of it, or use --resume-partial to take the tensors that fit"
    )
    assert "https://place.org/cats.pkl" in said and "password" not in said and "secret" not in said
    assert all(same(states(parts)[name], before[name]) for name in before)


def test_partial_takes_what_fits_and_says_what_it_left(small):
    parts = built(small)
    before = states(parts)
    networks = checkpoint(dataclasses.replace(small, cmax=4, cbase=128))
    said = transfer(parts, networks, "cats.pkl", partial=True)
    taken = left = 0
    for name in before:
        found, now = getattr(networks, name).state_dict(), getattr(parts, name).state_dict()
        for tensor, value in now.items():
            fits = tensor in found and found[tensor].shape == value.shape
            assert torch.equal(value, found[tensor] if fits else before[name][tensor]), tensor
            taken, left = taken + fits, left + (not fits)
    assert taken and left
    assert torch.equal(parts.G.mapping.fc0.weight, networks.G.mapping.fc0.weight)
    assert len(said.splitlines()) == 4 and "tensors taken; initialized: " in said
    assert "b16.fromrgb.weight" in said and " more" in said


def test_a_start_from_scratch_is_no_partial_start(small, public_networks):
    G, D = public_networks
    parts = built(small)
    before = states(parts)
    with pytest.raises(CheckpointError, match=r"this training is .*\(x\.pkl\)") as caught:
        transfer(parts, Networks(G, D, G), "x.pkl", partial=True)
    assert "--resume-partial" not in str(caught.value)  # it was given, and does not help
    assert str(caught.value).endswith(
        "use --cfg stylegan2 and use --resume-arch to take all of it, "
        "or leave out --resume to start from scratch"
    )
    assert all(same(states(parts)[name], before[name]) for name in before)


def test_the_same_shapes_with_another_meaning_do_not_fit(small):
    kwargs = dict(checkpoint(small).G.init_kwargs)
    slow = kwargs | {"mapping_kwargs": {"num_layers": 1, "lr_multiplier": 0.1}}
    wide = kwargs | {"first_stopband": 5.0}
    parts = built(small)
    kind, D = type(parts.G), parts.D
    with pytest.raises(CheckpointError, match=r"G\.mapping\.fc0\.weight: another gain"):
        transfer(parts, Networks(kind(**slow), D, kind(**slow)), "x.pkl", partial=False)
    with pytest.raises(CheckpointError, match="_filter: other filter taps"):
        transfer(parts, Networks(kind(**wide), D, kind(**wide)), "x.pkl", partial=False)
    before = states(parts)["G"]
    said = transfer(parts, Networks(kind(**wide), D, kind(**wide)), "x.pkl", partial=True)
    assert "up_filter" in said or "down_filter" in said
    filters = [name for name in before if name.endswith(("up_filter", "down_filter"))]
    assert filters and all(torch.equal(parts.G.state_dict()[n], before[n]) for n in filters)


def test_a_generator_alone_needs_partial(small):
    parts = built(small)
    before = states(parts)["D"]
    networks = Networks(G_ema=checkpoint(small).G_ema)
    with pytest.raises(CheckpointError, match="has no G and no D, and --resume needs a complete"):
        transfer(parts, networks, "models:/cats/1", partial=False)
    said = transfer(parts, networks, "models:/cats/1", partial=True)
    wanted = networks.G_ema.state_dict()
    assert same(parts.G.state_dict(), wanted) and same(parts.G_ema.state_dict(), wanted)
    assert same(parts.D.state_dict(), before)
    assert (
        "D: initialized, the checkpoint has none" in said
        and "taken from G_ema, the checkpoint has no G" in said
    )


def test_flags_without_a_network_are_refused(small, tiny_set, tmp_path):
    for name in ("resume_partial", "resume_arch"):
        config = dataclasses.replace(small, **{name: True})
        with pytest.raises(ConfigError, match=f"train.{name} needs a network to start from"):
            train(config, tiny_set, run_dir=tmp_path / "out")
        with pytest.raises(ConfigError, match="--resume FILE"):
            dry_run(config, tiny_set)


# Architecture


@pytest.fixture
def other(small):
    """A checkpoint whose architecture and arguments differ from the settings."""
    config = dataclasses.replace(small, cmax=6, cbase=96, map_depth=3, freezed=2, mbstd_group=2)
    parts = built(config)
    G_kwargs = parts.G.init_kwargs | {"num_layers": 6, "first_stopband": 4.0, "z_dim": 24}
    D_kwargs = parts.D.init_kwargs | {"cmap_dim": 5, "num_fp16_res": 1, "conv_clamp": 99}
    torch.manual_seed(5)
    G = type(parts.G)(**G_kwargs)
    return Networks(G, Discriminator(**D_kwargs), G)


def test_the_architecture_is_the_checkpoints_and_the_rest_the_settings(small, other):
    config = resolve(dataclasses.replace(small, resume="x.pkl", resume_arch=True, freezed=1))
    G_kwargs, D_kwargs = architecture_of(other, *parts_of(config), **SIZES)
    assert G_kwargs["channel_max"] == 6 and G_kwargs["channel_base"] == 96
    assert G_kwargs["num_layers"] == 6 and G_kwargs["z_dim"] == 24
    assert G_kwargs["mapping_kwargs"] == {"num_layers": 3}
    assert G_kwargs["magnitude_ema_beta"] == 0.5 ** (500 / 20e3)
    assert D_kwargs["cmap_dim"] == 5
    assert D_kwargs["block_kwargs"] == {"freeze_layers": 1}
    assert D_kwargs["epilogue_kwargs"] == {"mbstd_group_size": 4}
    assert not {"num_fp16_res", "conv_clamp"} & (G_kwargs.keys() | D_kwargs.keys())
    full = architecture_of(other, *parts_of(dataclasses.replace(config, fp32=True)), **SIZES)
    for kwargs in full:
        assert kwargs["num_fp16_res"] == 0 and kwargs["conv_clamp"] is None
    half = architecture_of(other, *parts_of(dataclasses.replace(config, bf16=True)), **SIZES)
    assert [kwargs["half_dtype"] for kwargs in half] == ["bfloat16"] * 2
    trained = built(config, half)
    trained = Networks(trained.G, trained.D, trained.G_ema)
    for kwargs in architecture_of(trained, *parts_of(config), **SIZES):
        assert "half_dtype" not in kwargs  # the settings decide, not the checkpoint
    parts = built(config, (G_kwargs, D_kwargs))
    transfer(parts, other, "x.pkl", partial=False)
    assert same(parts.G.state_dict(), other.G.state_dict())
    assert same(parts.D.state_dict(), other.D.state_dict())


def test_without_a_discriminator_its_architecture_is_the_settings(small, other):
    config = resolve(
        dataclasses.replace(small, resume="x.pkl", resume_arch=True, resume_partial=True)
    )
    G_kwargs, D_kwargs = architecture_of(Networks(G_ema=other.G_ema), *parts_of(config), **SIZES)
    assert G_kwargs["channel_max"] == 6
    assert D_kwargs == discriminator_kwargs(select(NetworkSettings, config), **SIZES)
    whole = dataclasses.replace(config, resume_partial=False)
    with pytest.raises(CheckpointError, match="has no G and no D"):
        architecture_of(Networks(G_ema=other.G_ema), *parts_of(whole), **SIZES)


PACK, COND = "pack the images with ", "use --cond=1 and a set of 3 classes"


@pytest.mark.parametrize(
    ("checkpoint_sizes", "sizes", "advice"),
    [
        ({}, {"resolution": 32}, f"{PACK}--resolution 16x16"),
        ({}, {"channels": 1}, f"{PACK}--mode rgb"),
        ({"channels": 1}, {}, f"{PACK}--mode grey"),
        ({}, {"c_dim": 3}, "use --cond=0"),
        ({"c_dim": 3}, {}, COND),
        ({}, {"resolution": 32, "c_dim": 3}, f"{PACK}--resolution 16x16 and use --cond=0"),
        ({"channels": 4}, {}, "use another checkpoint: no packed set for training has such images"),
    ],
)
def test_sizes_that_differ_are_named_with_what_to_change(small, checkpoint_sizes, sizes, advice):
    device = torch.device("cpu")
    theirs = build(resolve(small), **SIZES | checkpoint_sizes, device=device)
    networks = Networks(theirs.G, theirs.D, theirs.G_ema)
    config = resolve(dataclasses.replace(small, resume="x.pkl", resume_arch=True))
    both = (
        f"the checkpoint is {words_of(SIZES | checkpoint_sizes)}; "
        f"this training is {words_of(SIZES | sizes)} (x.pkl)"
    )
    with pytest.raises(CheckpointError) as caught:
        architecture_of(networks, *parts_of(config), **SIZES | sizes)
    whole = "" if "another checkpoint" in advice else " to take all of it"
    assert str(caught.value) == f"{both}; {advice}{whole}"
    plain = dataclasses.replace(config, resume_arch=False)
    ours = build(plain, **SIZES | sizes, device=device)
    with pytest.raises(CheckpointError) as caught:
        transfer(ours, networks, "x.pkl", partial=False)
    assert str(caught.value).startswith(f"{both}: ") and advice in str(caught.value)


def words_of(sizes):
    classes = f"{sizes['c_dim'] or 'no'} classes"
    return f"stylegan3-t, {sizes['resolution']} px, {classes}, {sizes['channels']} channels"


def test_another_family_is_named(small, other):
    config = resolve(dataclasses.replace(small, resume="x.pkl", resume_arch=True))
    for cfg in ("stylegan3-r", "stylegan2"):
        wrong = resolve(dataclasses.replace(config, cfg=cfg, map_depth=1))
        said = f"the checkpoint is stylegan3-t, .*this training is {cfg}, .*use --cfg stylegan3-t"
        with pytest.raises(CheckpointError, match=said):
            architecture_of(other, *parts_of(wrong), **SIZES)
        networks = checkpoint(dataclasses.replace(small, cfg=cfg))
        said = (
            f"the checkpoint is {cfg}, 16 px, .*this training is stylegan3-t, .*use --cfg {cfg} to"
        )
        with pytest.raises(CheckpointError, match=said):
            architecture_of(networks, *parts_of(config), **SIZES)


def test_a_discriminator_that_alone_differs_is_named(small):
    parts, networks = built(small), checkpoint(small)
    D = Discriminator(**networks.D.init_kwargs | {"channel_base": 32, "channel_max": 1})
    with pytest.raises(CheckpointError) as caught:
        transfer(parts, Networks(networks.G, D, networks.G_ema), "x.pkl", partial=False)
    assert str(caught.value).startswith(
        "the discriminator of the checkpoint is 16 px, no classes, 3 channels, cbase 32, cmax 1, "
        "that of this training 16 px, no classes, 3 channels, cbase 64, cmax 2 (x.pkl): "
    )


def test_channels_for_every_layer(small, tiny_set):
    for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2"):
        config = dataclasses.replace(small, cfg=cfg, cbase=15)
        said = "train.cbase is 15, and layers of 16 pixels would have no channels"
        with pytest.raises(ConfigError, match=said):
            dry_run(config, tiny_set)
        built(dataclasses.replace(small, cfg=cfg, cbase=16))  # the least
    # With the channels of a checkpoint, cbase decides nothing but those of a D that it lacks.
    config = resolve(dataclasses.replace(small, resume="x.pkl", resume_arch=True, cbase=15))
    networks = checkpoint(small)
    architecture_of(networks, *parts_of(config), **SIZES)
    partial = dataclasses.replace(config, resume_partial=True)
    with pytest.raises(ConfigError, match=r"train\.cbase is 15"):
        architecture_of(Networks(G_ema=networks.G_ema), *parts_of(partial), **SIZES)


def test_a_snapshot_must_describe_the_images_of_its_networks(small, tiny_set, tmp_path):
    networks = checkpoint(small)
    for wrong in ({"resolution": 64}, {"channels": 1}, {"label_dim": 9}):
        networks = dataclasses.replace(networks, training_set=wrong, progress={"nimg": 0})
        source = write(tmp_path / "x.pkl", networks)
        config = dataclasses.replace(small, resume=source)
        with pytest.raises(CheckpointError, match=f"contradicts itself: {next(iter(wrong))} of"):
            train(config, tiny_set, run_dir=tmp_path / next(iter(wrong)))


def test_weights_that_are_not_finite_are_refused(small, tiny_set, tmp_path):
    for name, value in (("G", "inf"), ("D", "-inf"), ("G_ema", "nan")):
        networks = dataclasses.replace(checkpoint(small), training_set={}, progress={"nimg": 0})
        with torch.no_grad():
            next(getattr(networks, name).parameters()).view(-1)[0] = float(value)
        config = dataclasses.replace(small, resume=write(tmp_path / f"{name}.pkl", networks))
        said = rf"{name}\.pkl: {name}\.\S+ has values that are not finite; use an earlier"
        with pytest.raises(CheckpointError, match=said):
            train(config, tiny_set, run_dir=tmp_path / name)


# The newest snapshot


def run_with_snapshot(root, key, kimg, age):
    """A training in the state folder with a snapshot that was written ``age`` seconds ago."""
    folder = open_run_folder(root, key, 10**6)
    describe_run(folder.work, {"fingerprint": key, "params": {}, "training_set": {}})
    snapshot = folder.work / snapshot_name(kimg * 1000)
    snapshot.write_bytes(b"")
    os.utime(snapshot, (10**9 - age, 10**9 - age))
    folder.close()
    return str(snapshot)


def resolved_resume(config, data):
    return dry_run(config, data)["resolved"]["resume"]


def test_latest_is_the_newest_snapshot_of_the_newest_training(small, tiny_set, own_state):
    config = dataclasses.replace(small, resume="latest")
    with pytest.raises(ConfigError, match=r"train.resume is latest, and no training in .* has a"):
        dry_run(config, tiny_set)
    run_with_snapshot(own_state, "a" * 12, kimg=900, age=50)
    run_with_snapshot(own_state, "b" * 12, kimg=3, age=20)
    newest = run_with_snapshot(own_state, "b" * 12, kimg=10, age=10)
    run_with_snapshot(own_state, "c" * 12, kimg=0, age=0)  # its networks are not trained
    shown = dry_run(config, tiny_set)
    assert (shown["given"]["resume"], shown["resolved"]["resume"]) == ("latest", newest)


@pytest.mark.medium
def test_the_same_command_with_latest_resumes_and_does_not_start_from_itself(
    small, tiny_set, tmp_path
):
    train(small, tiny_set, run_dir=tmp_path / "first")
    config = dataclasses.replace(small, gamma=0.3, resume="latest")
    started_from, key = resolved_resume(config, tiny_set), dry_run(config, tiny_set)["fingerprint"]
    out = train(config, tiny_set, run_dir=tmp_path / "out")
    assert read_run(out)["params"]["resume"] == started_from  # a file, to be reproduced
    assert dry_run(config, tiny_set)["fingerprint"] == key
    longer = dataclasses.replace(config, kimg=2)
    assert resolved_resume(longer, tiny_set) == started_from
    another = dataclasses.replace(config, gamma=0.4)
    assert Path(resolved_resume(another, tiny_set)).parents[1].name == key


def test_a_resumed_training_keeps_its_architecture(small, other, tmp_path):
    gone = str(tmp_path / "gone.pkl")
    config = resolve(dataclasses.replace(small, resume=gone, resume_arch=True))
    kept = tmp_path / "architecture.json"
    first = start_architecture(kept, other, *parts_of(config), **SIZES)
    assert first is not None and start_architecture(kept, None, *parts_of(config), **SIZES) == first
    one, again = (
        built(config, first),
        built(config, start_architecture(kept, None, *parts_of(config), **SIZES)),
    )
    assert one.G.init_kwargs == again.G.init_kwargs and one.D.init_kwargs == again.D.init_kwargs
    kept.write_text("{")
    with pytest.raises(CheckpointError, match=r"gone\.pkl"):
        start_architecture(kept, None, *parts_of(config), **SIZES)
    plain = dataclasses.replace(config, resume_arch=False)
    assert start_architecture(kept, other, *parts_of(plain), **SIZES) is None


@pytest.mark.medium
def test_two_steps_with_the_architecture_of_a_checkpoint(small, other, tiny_set, tmp_path, capsys):
    source = write(tmp_path / "other.pkl", other)
    config = dataclasses.replace(small, resume=source, resume_arch=True)
    out = train(config, tiny_set, run_dir=tmp_path / "out")
    assert "starting from" in capsys.readouterr().out
    first = load_networks(out / "network-snapshot-000000.pkl")
    assert first.G.init_kwargs["num_layers"] == 6 and first.D.init_kwargs["cmap_dim"] == 5
    assert same(first.G.state_dict(), other.G.state_dict())
    last = load_networks(out / "network-snapshot-000001.pkl")
    assert not torch.equal(last.G.mapping.fc0.weight, other.G.mapping.fc0.weight)
    with pytest.raises(CheckpointError, match=r"the checkpoint is .*; this training is "):
        train(dataclasses.replace(small, resume=source), tiny_set, run_dir=tmp_path / "misfit")


# FreezeD


@pytest.mark.parametrize("count", range(len(D_LAYERS) + 1))
def test_the_first_layers_are_frozen_in_the_order_of_the_network(small, count):
    D = built(dataclasses.replace(small, freezed=count)).D
    trained = {name.rpartition(".")[0] for name, _ in D.named_parameters()}
    assert [layer for layer in D_LAYERS if layer not in trained] == D_LAYERS[:count]
    assert {"b4.conv", "b4.fc", "b4.out"} <= trained
    assert D.state_dict().keys() == built(small).D.state_dict().keys()


def test_frozen_layers_have_no_gradient_and_do_not_move(small):
    config = resolve(dataclasses.replace(small, batch=4, batch_gpu=2, mbstd_group=2, freezed=4))
    parts = built(config)
    before = states(parts)["D"]
    real = RealBatch(torch.rand(4, 3, 16, 16) * 2 - 1, torch.zeros(4, 0))
    for nimg in (0, 4):
        seed_step(0, nimg)
        run_step(parts, real, lambda _: (torch.randn(4, 512), torch.zeros(4, 0)), nimg, 2)
    for name, value in parts.D.state_dict(keep_vars=True).items():
        if name.startswith(tuple(f"{layer}." for layer in D_LAYERS[:4])):
            assert value.grad is None and not value.requires_grad, name
            assert torch.equal(value, before[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(value, before[name]), name


@pytest.mark.medium
def test_a_training_with_frozen_layers_from_a_snapshot(small, tiny_set, tmp_path):
    small = dataclasses.replace(small, cfg="stylegan2")
    networks = checkpoint(small)
    source = write(tmp_path / "start.pkl", networks)
    config = dataclasses.replace(small, resume=source, freezed=4)
    out = train(config, tiny_set, run_dir=tmp_path / "out")
    start, last = networks.D.state_dict(), load_networks(out / "network-snapshot-000001.pkl").D
    for name, value in last.state_dict().items():
        if name.endswith("weight"):
            frozen = name.rpartition(".")[0] in D_LAYERS[:4]
            assert torch.equal(value, start[name]) == frozen, name


@pytest.mark.parametrize("count", [-1, 8, 1000])
def test_more_layers_than_there_are_cannot_be_frozen(small, tiny_set, count):
    config = dataclasses.replace(small, freezed=count)
    with pytest.raises(ConfigError, match=f"train.freezed must be from 0 to 7, .*not {count}"):
        dry_run(config, tiny_set)


# Settings of a transfer


def test_settings_of_a_transfer(small):
    for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2"):
        scratch = built(dataclasses.replace(small, cfg=cfg, aug="ada"))
        started = built(dataclasses.replace(small, cfg=cfg, aug="ada", resume="x.pkl"))
        assert (scratch.ada_nimg, started.ada_nimg) == (500e3, 100e3)
        assert (scratch.ema_rampup, started.ema_rampup) == (EMA_RAMPUP, None)
        assert scratch.loss.blur_sigma(0) == (10.0 if cfg == "stylegan3-r" else 0.0)
        assert started.loss.blur_sigma(0) == 0.0
    # From scratch the average follows G at once; the one of a network that was trained stays.
    assert ema_beta(500, 0, started.ema_half_life_nimg, scratch.ema_rampup) == 0.0
    assert ema_beta(32, 0, 10e3, started.ema_rampup) == pytest.approx(0.5 ** (32 / 10e3))


# Where networks come from


@pytest.fixture
def public_networks():
    """G and D of StyleGAN2-ADA, of another size than the settings of the tests."""
    torch.manual_seed(9)
    sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 8}
    G = StyleGAN2Generator(z_dim=16, c_dim=0, w_dim=16, mapping_kwargs={"num_layers": 2}, **sizes)
    return G.eval(), Discriminator(c_dim=0, **sizes).eval()


@pytest.fixture
def public_file(public, public_networks, tmp_path):
    """A pickle in the form of StyleGAN2-ADA, with its nested arguments."""
    G, D = public_networks
    kwargs = dict(G.init_kwargs)
    nested = {name: kwargs.pop(name) for name in ("channel_base", "channel_max")}
    nested |= {"num_fp16_res": 4, "conv_clamp": 256, "fused_modconv_default": "inference_only"}
    kwargs["synthesis_kwargs"] = public.easy_dict(nested)
    content = {
        "G": public.module(G, "Generator", kwargs),
        "D": public.module(D, "Discriminator", D.init_kwargs),
        "G_ema": public.module(G, "Generator", kwargs),
        "augment_pipe": None,
        "training_set_kwargs": public.easy_dict(path="cats.zip", resolution=16),
    }
    path = tmp_path / "public" / "stylegan2-cats.pkl"
    path.parent.mkdir()
    return public.write(path, content)


def trained_from(source, small, tiny_set, out, **changes):
    config = dataclasses.replace(small, resume=str(source), resume_arch=True, **changes)
    train(config, tiny_set, run_dir=out)
    return [load_networks(out / f"network-snapshot-00000{i}.pkl") for i in range(2)]


@pytest.mark.medium
def test_two_steps_from_a_public_stylegan2_pickle(
    public_file, public_networks, small, tiny_set, tmp_path
):
    G, D = public_networks
    first, last = trained_from(public_file, small, tiny_set, tmp_path / "out", cfg="stylegan2")
    assert same(first.G.state_dict(), G.state_dict())
    assert same(first.D.state_dict(), D.state_dict())
    assert not torch.equal(last.D.b4.fc.weight, D.b4.fc.weight)
    assert not torch.equal(last.G.synthesis.b4.const, G.synthesis.b4.const)


@pytest.mark.medium
def test_two_steps_from_a_url_that_is_asked_once(
    public_file, small, tiny_set, tmp_path, monkeypatch
):
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    asked = []

    class Counting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(arguments)

    handler = functools.partial(Counting, directory=public_file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{public_file.name}"
        trained_from(url, small, tiny_set, tmp_path / "one", cfg="stylegan2")
        requests = len(asked)
        assert requests >= 1
        # Other settings, so another training: it starts from the network again.
        trained_from(url, small, tiny_set, tmp_path / "two", cfg="stylegan2", gamma=0.2)
        assert len(asked) == requests
        server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.medium
def test_two_steps_from_a_run_and_from_the_registry(small, tiny_set, tmp_path, monkeypatch):
    from sg3flow.tracking.mlflow_store import connect

    monkeypatch.chdir(tmp_path)
    small = dataclasses.replace(small, cfg="stylegan2")
    store = connect()
    networks = checkpoint(small)
    path = tmp_path / "network-snapshot-000010.pkl"
    write(path, networks)
    run = store.client.create_run(store.experiment_id)
    store.client.log_artifact(run.info.run_id, str(path), "snapshots")
    source = f"runs:/{run.info.run_id}/snapshots/{path.name}"
    first, _ = trained_from(source, small, tiny_set, tmp_path / "run")
    assert same(first.D.state_dict(), networks.D.state_dict())

    folder = tmp_path / "model"
    package_generator(
        networks.G_ema,
        folder / "artifacts",
        training_set={"name": "toy"},
        metrics={},
        snapshot_sha256="ab",
    )
    store.client.create_registered_model("cats")
    version = store.client.create_model_version("cats", folder.as_uri())
    store.client.set_registered_model_alias("cats", "champion", version.version)
    with pytest.raises(CheckpointError, match="models:/cats@champion has no G and no D"):
        trained_from("models:/cats@champion", small, tiny_set, tmp_path / "whole")
    first, last = trained_from(
        "models:/cats@champion", small, tiny_set, tmp_path / "registry", resume_partial=True
    )
    assert same(first.G.state_dict(), networks.G_ema.state_dict())
    assert not same(last.G.state_dict(), networks.G_ema.state_dict())
