"""Post-hoc EMA: averages of other widths from stored ones."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.errors import CheckpointError, ConfigError, DataError
from sg3flow.latent.combined_networks import write_combination
from sg3flow.latent.posthoc_ema import profile_product, profile_weights, reconstruct
from sg3flow.networks import Discriminator, StyleGAN2Generator
from sg3flow.runs.run_folder import averages_name, snapshot_name
from sg3flow.training.power_averages import PowerAverages, exponent

SIZES = {"img_resolution": 8, "img_channels": 3, "channel_base": 32, "channel_max": 4}
STEPS, PERIOD, BATCH = 256, 16, 1000  # one kimg per step


def profile(tau, end, gamma):
    return np.where(tau <= end, (gamma + 1) * tau**gamma / end ** (gamma + 1), 0)


@pytest.mark.parametrize(
    ("t_a", "gamma_a", "t_b", "gamma_b"),
    [(3, 2.5, 5, 7), (5, 2.5, 3, 7), (4, 1, 4, 6), (2, 7, 2, 7)],
)
def test_the_product_of_two_profiles_is_their_integral(t_a, gamma_a, t_b, gamma_b):
    tau = np.linspace(0, 6, 600_001)
    values = profile(tau, t_a, gamma_a) * profile(tau, t_b, gamma_b)
    expected = values.sum() * (tau[1] - tau[0])
    assert profile_product(t_a, gamma_a, t_b, gamma_b) == pytest.approx(expected, rel=1e-3)


def stored(widths=(0.05, 0.1), period=PERIOD, end=STEPS):
    return [(float(t), exponent(w)) for t in range(period, end + 1, period) for w in widths]


def test_a_stored_average_is_taken_as_it_is():
    known = stored()
    for place, (nimg, gamma) in enumerate(known):
        weights, error = profile_weights(known, nimg, gamma)
        assert weights.tolist() == np.eye(len(known))[place].tolist() and error == 0


@pytest.mark.parametrize("width", [0.05, 0.06, 0.08, 0.1, 0.12, 0.15])
def test_the_weighted_profiles_are_the_wanted_one(width):
    known, gamma = stored(), exponent(width)
    weights, error = profile_weights(known, STEPS, gamma)
    tau = np.linspace(0, STEPS, 100_001)
    found = sum(w * profile(tau, *each) for w, each in zip(weights, known, strict=True))
    wanted = profile(tau, STEPS, gamma)
    difference = ((found - wanted) ** 2).sum() / (wanted**2).sum()
    assert difference < 1e-4
    assert error == pytest.approx(difference, rel=0.1, abs=1e-7)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_few_averages_give_a_rough_fit_and_its_error_says_so():
    errors = [profile_weights(stored(period=p), STEPS, exponent(0.02))[1] for p in (16, 128)]
    assert errors[0] < errors[1] and errors[1] > 0.05


@pytest.mark.parametrize("width", [0.02, 0.08, 0.2, 0.25])
@pytest.mark.parametrize("known", [[(5.0, exponent(0.1))], stored(period=64), stored()])
def test_what_never_changed_stays_as_it_is(known, width):
    """Without a condition on their sum, the weights of few averages add up to 0.9 or less."""
    weights, _ = profile_weights(known, known[-1][0], exponent(width))
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_the_sum_of_one_is_the_nearest_such_sum():
    known, gamma = stored(period=64), exponent(0.2)
    weights, error = profile_weights(known, STEPS, gamma)
    for change in np.random.RandomState(0).randn(50, len(known)):
        other = weights + 0.01 * (change - change.mean())
        tau = np.linspace(0, STEPS, 20_001)
        found = sum(w * profile(tau, *each) for w, each in zip(other, known, strict=True))
        wanted = profile(tau, STEPS, gamma)
        assert ((found - wanted) ** 2).sum() / (wanted**2).sum() > error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, and the true averages of other widths, of a walk of G's parameters."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    G = StyleGAN2Generator(z_dim=4, c_dim=0, w_dim=4, mapping_kwargs={"num_layers": 1}, **SIZES)
    D = Discriminator(c_dim=0, **SIZES)
    storing, others = PowerAverages([0.05, 0.1], G, BATCH), PowerAverages([0.07, 0.12], G, BATCH)
    speed = [torch.randn_like(p) * 0.02 for p in G.parameters()]
    for step in range(1, STEPS + 1):
        for parameter, way in zip(G.parameters(), speed, strict=True):
            parameter.data += way * np.cos(step / 40) + torch.randn_like(parameter) * 0.02
        G.mapping.w_avg.fill_(step)
        for averages in (storing, others):
            averages.update(G, step * BATCH)
        if step % PERIOD == 0:
            storing.save(folder / averages_name(step * BATCH), G, step * BATCH)
    for kimg in (STEPS - PERIOD, STEPS):
        save_snapshot(
            folder / snapshot_name(1000 * kimg),
            G=G,
            D=D,
            G_ema=G,
            augment_p=0.0,
            training_set={"name": "x", "digest": "d"},
            progress={"nimg": 1000 * kimg},
        )
    return folder, others.state()["power_averages"], G, storing


def distance(network, tensors):
    """The mean over all tensors of the relative distance."""
    pairs = [(p.detach().double(), t) for p, t in zip(network.parameters(), tensors, strict=True)]
    return float(np.mean([float((p - t).norm() / t.norm()) for p, t in pairs]))


@pytest.mark.parametrize("width", ["0.070", "0.120"])
def test_an_average_of_another_width_comes_near_the_true_one(run, width):
    folder, true, G, _ = run
    made = reconstruct(folder, float(width))
    found = made.result.networks["G_ema"]
    assert not made.is_far and not made.is_noisy and made.num_stored == 2 * STEPS // PERIOD
    # float16 rounds by up to 5e-4; the last G and the average of 0.05 are far away.
    assert distance(found, true[width]) < 1e-3
    assert distance(G, true[width]) > 0.5
    assert distance(reconstruct(folder, 0.05).result.networks["G_ema"], true[width]) > 0.2


def test_a_narrow_width_multiplies_the_rounding_of_float16(run):
    folder = run[0]
    made = reconstruct(folder, 0.02)
    weights, _ = profile_weights(stored(), STEPS, exponent(0.02))
    assert made.gain == pytest.approx(np.sqrt((weights**2).sum())) and made.is_noisy
    assert reconstruct(folder, 0.1).gain == 1


def test_a_stored_width_gives_the_stored_tensors(run):
    folder, _, G, storing = run
    for width in (0.05, 0.1):
        found = reconstruct(folder, width).result.networks["G_ema"]
        tensors = load_file(folder / averages_name(STEPS * BATCH))
        for name, parameter in found.named_parameters():
            assert torch.equal(parameter, tensors[f"{width:.3f}/{name}"].float())
        assert distance(found, storing.state()["power_averages"][f"{width:.3f}"]) < 5e-4
        for name, buffer in found.named_buffers():
            assert torch.equal(buffer, G.get_buffer(name))


def test_an_earlier_time_has_its_own_average_and_buffers(run, tmp_path):
    folder, _, G, _ = run
    kimg = STEPS - 3 * PERIOD  # its snapshot is not there
    made = reconstruct(folder, 0.08, kimg)
    assert made.result.networks["G_ema"].mapping.w_avg.tolist() == [kimg] * 4
    assert made.num_stored == 2 * (STEPS // PERIOD - 3)
    write_combination(made.result, tmp_path / "a.pkl")
    loaded = load_networks(tmp_path / "a.pkl")
    assert loaded.progress["nimg"] == kimg * 1000
    assert loaded.progress["made_by"]["sigma_rel"] == 0.08
    assert averages_name(kimg * 1000) in loaded.progress["made_by"]["files"]
    assert loaded.progress["parents"][0]["source"] == snapshot_name(STEPS * BATCH)
    assert loaded.training_set["digest"] == "d"
    assert loaded.training_set["made_from"].startswith("post-hoc EMA (sigma_rel 0.08, nimg 208000)")
    assert torch.equal(loaded.G.synthesis.b4.const, G.synthesis.b4.const)


def test_what_cannot_be_had_is_one_sentence(run, tmp_path):
    folder = run[0]
    with pytest.raises(ConfigError, match=r"no averages at 5 kimg; it has them at 16, 32"):
        reconstruct(folder, 0.08, 5)
    with pytest.raises(ConfigError, match=r"sigma_rel must be numbers from 0\.01"):
        reconstruct(folder, 0.5)
    with pytest.raises(DataError, match=r"train with phema set"):
        reconstruct(tmp_path, 0.08)
    name = averages_name(STEPS * BATCH)
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match=r"has no snapshot"):
        reconstruct(tmp_path, 0.08)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts, tensors: facts.update(format="other"), "has no power-function averages"),
        (lambda facts, tensors: facts.update(nimg="x"), "does not say which averages"),
        (lambda facts, tensors: facts.update(widths=[]), "does not say which averages"),
        (lambda facts, tensors: facts.update(widths=["wide"]), "must be numbers"),
        (lambda facts, tensors: facts.update(widths=[[1]]), "must be numbers"),
        (lambda facts, tensors: tensors.pop("0.050/synthesis.b4.const"), "cannot be read as power"),
        (lambda facts, tensors: tensors.pop("buffers/mapping.w_avg"), "cannot be read as power"),
        (
            lambda facts, tensors: tensors.update({"0.050/synthesis.b4.const": torch.zeros(1)}),
            "does not fit the snapshots",
        ),
        (
            lambda facts, tensors: tensors["0.050/synthesis.b4.const"].fill_(float("nan")),
            "is not finite",
        ),
    ],
)
def test_a_damaged_file_is_named(run, tmp_path, change, words):
    name = averages_name(STEPS * BATCH)
    facts = {"format": "sg3flow-power-averages-1", "nimg": STEPS * BATCH, "batch": BATCH,
             "widths": ["0.050", "0.100"]}  # fmt: skip
    tensors = load_file(run[0] / name)
    change(facts, tensors)
    save_file(tensors, tmp_path / name, {"sg3flow": json.dumps(facts)})
    snapshot = snapshot_name(STEPS * BATCH)
    (tmp_path / snapshot).symlink_to(run[0] / snapshot)
    with pytest.raises(CheckpointError, match=words) as caught:
        reconstruct(tmp_path, 0.08)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 99])
def test_what_is_no_such_file_is_one_sentence(run, tmp_path, content):
    (tmp_path / averages_name(1000)).write_bytes(content)
    (tmp_path / snapshot_name(1000)).symlink_to(run[0] / snapshot_name(STEPS * BATCH))
    with pytest.raises(CheckpointError, match="cannot be read as power-function averages"):
        reconstruct(tmp_path, 0.08)
