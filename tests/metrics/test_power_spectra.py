"""Average power spectra: closed forms, symmetry, and the files of the command."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.config import SpectraConfig
from sg3flow.errors import ConfigError, DataError, MetricError
from sg3flow.metrics.power_spectra import (
    PixelStats,
    RunningSpectrum,
    deviation,
    kaiser_window,
    pixel_stats,
)
from sg3flow.metrics.spectra_run import (
    check_folder,
    deviation_words,
    measure_spectra,
    slices_table,
    write_spectra,
)
from sg3flow.reports.spectra_figures import heat_map, slices_chart

CPU = torch.device("cpu")


def noise(count, side=32, std=30.0, seed=0):
    random = np.random.RandomState(seed)
    values = 128 + std * random.standard_normal((count, 3, side, side))
    return torch.from_numpy(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def spectrum_of(images, stats=None, beta=8.0, interp=4):
    stats = stats or pixel_stats(iter([images]))
    running = RunningSpectrum(images.shape[-1], stats, beta=beta, interp=interp, device=CPU)
    for part in torch.split(images, 7):
        running.add(part)
    return running.result()


def test_white_noise_has_0_db_at_all_frequencies():
    found = spectrum_of(noise(400))
    assert found.decibels[8:-8, 8:].mean() == pytest.approx(0, abs=0.05)
    assert 10 * math.log10(found.power.mean()) == pytest.approx(0, abs=0.05)
    assert np.abs(found.decibels).max() < 1


def test_doubled_amplitude_is_6_db_more():
    stats = PixelStats(128, 30)
    quiet, loud = spectrum_of(noise(300), stats), spectrum_of(noise(300, std=60, seed=1), stats)
    step = 20 * math.log10(2)
    # Values beyond 0..255 are cut: twice the deviation of 30 loses a little.
    expected = step + 20 * math.log10(_cut_deviation(60) / 60)
    assert (loud.decibels - quiet.decibels).mean() == pytest.approx(expected, abs=0.05)
    exact = noise(50)
    half = spectrum_of(exact, PixelStats(128, 60))
    assert (spectrum_of(exact, PixelStats(128, 30)).decibels - half.decibels) == pytest.approx(
        np.full_like(half.decibels, step), abs=1e-3
    )


def _cut_deviation(std):
    values = np.clip(np.rint(128 + std * np.random.RandomState(5).standard_normal(10**6)), 0, 255)
    return values.std()


def test_a_wave_is_a_peak_at_its_frequency():
    side, cycles = 32, 5
    x = np.arange(side)
    wave = 128 + 100 * np.cos(2 * np.pi * cycles * x / side)
    image = np.broadcast_to(wave[None, None, None, :], (1, 1, side, side)).copy()
    found = spectrum_of(torch.from_numpy(np.rint(image).astype(np.uint8)))
    frequencies, horizontal, _ = found.slices()
    assert frequencies[horizontal.argmax()] == pytest.approx(cycles / side)
    full = found.full_decibels()
    row, column = np.unravel_index(full.argmax(), full.shape)
    size = len(full)
    assert row == size // 2 and abs(column - size // 2) == 4 * cycles


def test_the_diagonal_slice_is_by_distance():
    x = np.arange(32)
    wave = 128 + 100 * np.cos(2 * np.pi * 3 * (x[:, None] + x) / 32)
    image = torch.from_numpy(np.rint(wave).astype(np.uint8))[None, None]
    frequencies, _, at_45 = spectrum_of(image).slices()
    assert frequencies[at_45.argmax()] == pytest.approx(3 * math.sqrt(2) / 32, abs=0.5 / 128)


@pytest.mark.parametrize(("side", "interp"), [(16, 4), (15, 1), (16, 1), (9, 3)])
def test_it_is_the_transform_in_full(side, interp):
    images = noise(3, side)
    found = spectrum_of(images, PixelStats(100.0, 20.0), beta=5.0, interp=interp)
    window = kaiser_window(side, 5.0)
    assert np.square(window).sum() == pytest.approx(1)
    x = (images.numpy().astype(float) - 100) / 20 * window
    size = side * interp
    power = np.square(np.abs(np.fft.fft2(x, (size, size)))).mean(axis=(0, 1))
    full = np.fft.fftshift(10 * np.log10(power))
    np.testing.assert_allclose(found.full_decibels(), full, atol=1e-3)
    per_image = np.square(np.abs(np.fft.fft2(x, (size, size)))).mean(axis=1)[..., : size // 2 + 1]
    wanted = per_image.std(axis=0, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(found.error, wanted, rtol=2e-2, atol=1e-5 * wanted.max())


def test_deviation_is_the_root_of_the_mean_square_over_the_plane():
    stats = PixelStats(128, 30)
    a, b = (spectrum_of(noise(40, 9, std, std), stats, interp=2) for std in (30, 20))
    wanted = np.square(a.full_decibels() - b.full_decibels()).mean()
    assert deviation(a, b).decibels == pytest.approx(math.sqrt(wanted))
    assert deviation(a, a).decibels == 0
    with pytest.raises(MetricError, match="images of 9 and 12 pixels"):
        deviation(a, spectrum_of(noise(2, 12), interp=2))


def test_two_samples_of_one_distribution_differ_by_the_noise():
    stats = PixelStats(128, 30)
    found = deviation(spectrum_of(noise(200), stats), spectrum_of(noise(200, seed=1), stats))
    assert found.decibels == pytest.approx(found.noise, rel=0.15)
    assert math.isnan(deviation(spectrum_of(noise(1)), spectrum_of(noise(1))).noise)


def test_what_has_no_spectrum_is_refused():
    flat = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
    with pytest.raises(MetricError, match="one value"):
        spectrum_of(flat)
    running = RunningSpectrum(8, PixelStats(0, 1), beta=8, interp=1, device=CPU)
    with pytest.raises(MetricError, match="no images"):
        running.result()
    with pytest.raises(MetricError, match=r"of 8x8 pixels as the others, found 9x8"):
        running.add(torch.zeros(1, 3, 8, 9, dtype=torch.uint8))


def folder(path, images):
    path.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f"{number:03d}.png")
    return path


CONFIG = SpectraConfig(num=24, interp=2, batch=10, device="cpu")


def test_sets_beside_the_reals(tmp_path):
    reals = folder(tmp_path / "photos", noise(24, 16))
    same = folder(tmp_path / "same kind", noise(30, 16, seed=1))
    quiet = folder(tmp_path / "quiet", noise(24, 16, std=15, seed=2))
    found = measure_spectra(CONFIG, [str(same), str(quiet)], reals)
    assert [each.name for each in found.series] == ["reals", "same-kind", "quiet"]
    assert found.series[0].deviation is None and found.series[1].spectrum.num_images == 24
    near, far = (each.deviation for each in found.measured)
    assert near.decibels < 1.5 * near.noise
    assert far.decibels == pytest.approx(20 * math.log10(2), abs=0.6)
    words = deviation_words(found.series[2])
    assert f"{far.decibels:.2f} dB from the reals (noise {far.noise:.2f} dB), 24 images" in words
    out = tmp_path / "out"
    check_folder(out)
    paths = write_spectra(out, found, CONFIG)
    assert sorted(path.name for path in paths) == [
        "quiet.npz", "reals.npz", "same-kind.npz", "slices.csv", "spectra.json"
    ]  # fmt: skip
    check_folder(out)  # ours: it may be replaced
    report = json.loads((out / "spectra.json").read_text())
    assert report["spectra"][2]["deviation_db"] == far.decibels
    assert report["spectra"][0]["deviation_db"] is None
    with np.load(out / "quiet.npz") as stored:
        arrays = dict(stored)
    assert arrays["power_db"].shape == (32, 32) and arrays["num_images"] == 24
    assert arrays["frequency"][16] == 0
    rows = list(csv.DictReader((out / "slices.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        "frequency", "reals_0", "reals_45", "same-kind_0", "same-kind_45", "quiet_0", "quiet_45"
    ]  # fmt: skip
    assert len(rows) == 17 and float(rows[-1]["frequency"]) == 0.5
    assert slices_table(found.series).count("\n") == 18
    for draw in (heat_map, slices_chart):
        assert draw(found.series).startswith(b"\x89PNG")


def test_without_reals_a_set_is_normalized_by_itself(tmp_path):
    found = measure_spectra(CONFIG, [str(folder(tmp_path / "a", noise(24, 16, std=9)))], None)
    (only,) = found.series
    assert only.deviation is None and "from the reals" not in deviation_words(only)
    assert 10 * math.log10(only.spectrum.power.mean()) == pytest.approx(0, abs=0.1)


def test_a_network_beside_the_set_of_its_training(small_set, save_tiny, tiny_generator):
    path = save_tiny(10, tiny_generator(seed=1))
    by_file = measure_spectra(CONFIG, [str(path)], small_set.path)
    by_run = measure_spectra(CONFIG, [str(path.parent)], small_set.path)
    for found in (by_file, by_run):
        assert [each.name for each in found.series] == ["reals", "network-snapshot-000010"]
    one, other = (found.series[1].spectrum.power for found in (by_file, by_run))
    np.testing.assert_array_equal(one, other)
    assert by_file.measured[0].deviation.decibels > 0


def test_sources_that_cannot_be_measured(tmp_path):
    a, small = folder(tmp_path / "a", noise(3, 16)), folder(tmp_path / "b", noise(3, 12))
    with pytest.raises(ConfigError, match="--source"):
        measure_spectra(CONFIG, [], a)
    with pytest.raises(
        MetricError, match=r"^b: expected images of 16x16 pixels as the others, found 12x12"
    ):
        measure_spectra(CONFIG, [str(small)], a)
    wide = folder(tmp_path / "wide", noise(2, 16)[:, :, :8])
    with pytest.raises(MetricError, match="16x8 pixels; spectra are of squares"):
        measure_spectra(CONFIG, [str(wide)], None)
    with pytest.raises(MetricError, match="smaller --interp"):
        measure_spectra(
            SpectraConfig(interp=64), [str(folder(tmp_path / "c", noise(1, 160)))], None
        )
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="--outdir"):
        check_folder(other)
    twice = measure_spectra(CONFIG, [str(a), str(folder(tmp_path / "x" / "a", noise(3, 16)))], None)
    assert [each.name for each in twice.series] == ["a-1", "a-2"]
