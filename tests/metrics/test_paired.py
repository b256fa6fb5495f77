"""Error terms of single images, and differences of networks that drew the same seeds."""

import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.metrics.distances import (
    _factor,
    _stats,
    frechet_distance,
    frechet_estimate,
)
from sg3flow.metrics.equivariance import equivariance
from sg3flow.metrics.error_terms import (
    beside,
    digest_of,
    from_npy,
    is_terms_file,
    npy_bytes,
    read_terms,
    stored_form,
    write_terms,
)
from sg3flow.metrics.estimates import (
    compare_results,
    error_of_difference,
    images_to_tell,
    mean_estimate,
    ratio_estimate,
    too_few_images,
)
from sg3flow.metrics.feature_collector import path_length
from sg3flow.metrics.frechet_error import Against, frechet_terms, sums_of
from sg3flow.metrics.neighborhoods import density_coverage_estimates, precision_recall_estimates
from sg3flow.metrics.polynomial_mmd import kernel_estimate

_ROW = {
    "metric": "fid9_full",
    "value": 5.0,
    "standard_error": 0.3,
    "higher_is_better": False,
    "reference_sha256": "r",
    "detector_sha256": "d",
    "num_generated": 9,
    "num_reference": 8_000,
    "seed": 0,
}


def _row(value, terms, **changes):
    """A row, and its terms by digest."""
    stored = stored_form(terms)
    error = float(np.sqrt(np.square(stored.astype(np.float64)).sum()))
    row = _ROW | {"value": value, "standard_error": error, "error_terms": digest_of(stored)}
    return row | changes, {row["error_terms"]: stored}


def terms_against(features, reference, ddof=0):
    against = Against(reference.mean, np.trace(reference.cov), _factor(reference.cov), ddof)
    return frechet_terms(features, sums_of(features, against.factor), against)


def _length(estimate):
    return math.sqrt(np.square(estimate.terms).sum())


@pytest.mark.parametrize(("count", "features", "ddof"), [(40, 5, 0), (6, 10, 0), (12, 4, 1)])
def test_frechet_terms_are_the_derivative_by_the_weight_of_an_image(count, features, ddof):
    random = np.random.RandomState(0)
    x = (random.randn(count, features) @ random.randn(features, features)).astype(np.float32)
    reference = _stats(random.randn(200, features).astype(np.float32) + 0.3)
    terms = terms_against(x, reference, ddof)
    assert abs(terms.sum()) < 1e-9 * np.abs(terms).sum()

    def distance(weights):
        mean = weights @ x
        centered = x.astype(np.float64) - mean
        cov = centered.T @ (centered * weights[:, None]) * (count / (count - ddof))
        return frechet_distance(reference.mean, reference.cov, mean, cov)

    step, equal = 1e-5, np.full(count, 1 / count)
    for item in range(count):
        toward = np.eye(count)[item] - equal  # more of this image, less of all
        slope = (distance(equal + step * toward) - distance(equal - step * toward)) / (2 * step)
        wanted = slope / math.sqrt(count * (count - 1))
        assert terms[item] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_kernel_terms_are_what_leaving_an_image_out_changes():
    """And their length is the error, where each subset is the whole set."""
    random = np.random.RandomState(0)
    real, drawn = random.randn(30, 4), random.randn(30, 4) * 1.2 + 0.2
    found = kernel_estimate(real, drawn, 1, 30, seed=0)
    assert _length(found) == pytest.approx(found.standard_error)

    def within(b):
        kernel = (b @ b.T / 4 + 1) ** 3
        return (kernel.sum() - np.trace(kernel)) / (len(b) * (len(b) - 1))

    def across(b):
        return -2 * ((real @ b.T / 4 + 1) ** 3).mean()

    wanted = np.zeros(30)
    for part, factor in ((within, 28), (across, 29)):  # degrees two and one of a U-statistic
        left_out = np.array([part(np.delete(drawn, i, axis=0)) for i in range(30)])
        wanted += factor * (left_out.mean() - left_out)
    assert found.terms == pytest.approx(wanted / math.sqrt(30 * 29), rel=1e-6)


def test_kernel_terms_have_the_error_of_subsets_too():
    random = np.random.RandomState(1)
    real, drawn = random.randn(400, 3), random.randn(300, 3) + 0.5
    found = kernel_estimate(real, drawn, 40, 50, seed=0)
    assert len(found.terms) == 300 + 40  # images, then subsets
    assert _length(found) == pytest.approx(found.standard_error, rel=0.1)
    assert np.square(found.terms[300:]).sum() > 0


def test_the_length_of_the_terms_is_the_error():
    random = np.random.RandomState(0)
    real, drawn = (torch.from_numpy(random.randn(60, 3)).float() for _ in "ab")
    estimates = [
        mean_estimate(random.randn(30)),
        ratio_estimate(random.rand(9), random.rand(9)),
        equivariance(random.rand(12, 2) + 0.1),
        *precision_recall_estimates(real, drawn, 2),
        *density_coverage_estimates(real, drawn, 2),
    ]
    for estimate in estimates:
        assert _length(estimate) == pytest.approx(estimate.standard_error), estimate
    assert mean_estimate([4.0]).terms is None


def test_terms_have_the_direction_of_the_value():
    assert mean_estimate([1.0, 2, 6]).terms[2] > 0
    # More squared error in a motion: a larger ratio, and less equivariance.
    assert ratio_estimate([1.0, 5], [2.0, 2]).terms[1] > 0
    assert equivariance(np.array([[0.1, 2], [0.5, 2]])).terms[1] < 0
    far = np.zeros((20, 2), np.float32)
    far[:, 0] = np.arange(20) % 2
    far[3] = 9  # what is farthest from the reference adds most
    reference = _stats(np.random.RandomState(0).randn(50, 2).astype(np.float32))
    assert frechet_estimate(far, reference).terms.argmax() == 3


def test_path_lengths_left_out_have_no_terms():
    lengths = np.arange(300.0)
    found = path_length(lengths)
    assert len(found.terms) == 300 and not found.terms[:2].any() and found.terms[-2] == 0
    assert _length(found) == pytest.approx(found.standard_error)


def _networks(random, count, features, apart):
    """Features of two networks of the same latents; ``apart`` is how much they differ."""
    z = random.randn(count, features)
    own = np.eye(features) * 1.1 + 0.1
    change = np.random.RandomState(7).randn(features, features)
    return [(z @ each + 0.2).astype(np.float32) for each in (own, own + apart * change)]


@pytest.mark.parametrize(("apart", "tighter"), [(0.01, 5), (0.3, 1)])
def test_the_paired_error_is_the_scatter_of_the_difference(apart, tighter):
    """Of many draws: its size, the coverage of two errors, and how much tighter it is."""
    reference = _stats(np.random.RandomState(99).randn(500, 6).astype(np.float32))
    differences, paired, separate = [], [], []
    for seed in range(200):
        rows, known = [], {}
        for features in _networks(np.random.RandomState(seed), 150, 6, apart):
            stats = _stats(features)
            value = frechet_distance(stats.mean, stats.cov, reference.mean, reference.cov)
            row, terms = _row(value, terms_against(features, reference))
            rows, known = [*rows, row], known | terms
        error, how = error_of_difference(*rows, known)
        assert how == "paired"
        differences.append(rows[0]["value"] - rows[1]["value"])
        paired.append(error)
        separate.append(error_of_difference(*rows, {})[0])
    scatter = np.std(differences, ddof=1)
    assert np.mean(paired) == pytest.approx(scatter, rel=0.2)
    inside = np.abs(np.array(differences) - np.mean(differences)) <= 2 * np.array(paired)
    assert 0.91 <= inside.mean() <= 0.99
    assert np.mean(separate) > tighter * np.mean(paired)


def test_the_paired_error_of_means_and_kernel_distances_covers():
    random = np.random.RandomState(3)
    real = random.randn(120, 4)
    found = {"mean": [], "kernel": []}
    for seed in range(80):
        a, b = (each.astype(float) for each in _networks(np.random.RandomState(seed), 100, 4, 0.05))
        pairs = {
            "mean": [mean_estimate(np.square(each).sum(axis=1)) for each in (a, b)],
            "kernel": [kernel_estimate(real, each, 3, 60, seed=0) for each in (a, b)],
        }
        for name, (new, old) in pairs.items():
            error = math.sqrt(np.square(new.terms - old.terms).sum())
            found[name].append((new.value - old.value, error, new.standard_error))
    for name, rows in found.items():
        differences, errors, single = np.array(rows).T
        assert errors.mean() == pytest.approx(differences.std(ddof=1), rel=0.25), name
        assert single.mean() > 3 * errors.mean(), name


_terms = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)
_OPPOSITE = {"better": "worse", "worse": "better", "within noise": "within noise"}


@given(_terms, _terms, st.floats(-9, 9), st.floats(-9, 9))
def test_paired_verdicts_turn_around(first, second, value, other):
    (a, of_a), (b, of_b) = _row(value, first), _row(other, second)
    terms = of_a | of_b
    there, back = compare_results(a, b, terms), compare_results(b, a, terms)
    assert there.word == _OPPOSITE[back.word]
    assert (there.gain, there.noise, there.how) == (-back.gain, back.noise, "paired")


def test_equal_networks_differ_by_nothing_and_without_an_error():
    row, terms = _row(5.0, [0.25, -0.5, 0.3])
    found = compare_results(row, row, terms)
    assert (found.word, found.reason) == ("within noise", "equal")
    assert (found.gain, found.noise, found.how) == (0.0, 0.0, "paired")


def test_what_is_common_cancels():
    (a, of_a), (b, of_b) = _row(5.0, [3.0, -4.0, 1.0]), _row(4.5, [3.0, -4.0, 1.1])
    apart = compare_results(b, a)
    assert apart.word == "within noise" and apart.reason.endswith(", unpaired")
    together = compare_results(b, a, of_a | of_b)
    assert together.word == "better" and together.noise == pytest.approx(0.2, rel=1e-5)
    assert together.reason == "difference 0.5, noise up to 0.2, paired"


@pytest.mark.parametrize("missing", ["one side", "both", "another length", "null"])
def test_without_the_terms_of_both_the_errors_count_one_by_one(missing):
    (a, of_a), (b, of_b) = _row(5.0, [0.3, 0.4]), _row(4.5, [0.3, 0.5])
    terms = of_a | of_b
    if missing == "another length":
        b, of_b = _row(4.5, [0.3, 0.5, 0.0], standard_error=b["standard_error"])
        terms = of_a | of_b
    elif missing == "null":
        b = b | {"error_terms": None}
    else:
        terms = of_a if missing == "one side" else {}
    error, how = error_of_difference(a, b, terms)
    assert how == "unpaired"
    assert error == pytest.approx(math.hypot(a["standard_error"], b["standard_error"]))


def test_other_seeds_are_not_paired():
    (a, of_a), (b, of_b) = _row(5.0, [0.3]), _row(4.5, [0.3], seed=1)
    assert compare_results(a, b, of_a | of_b).reason == "the seed differs"


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        (4.9, 90, "9 images are too few for a difference of 0.1 in fid9_full: about 330 would"),
        (4.5, None, ""),
        (5.0, None, ""),
        (4.99, None, "more than the 8,000 of the reference set; count the two as equal"),
        (4.9999, None, "more than 1,000,000 would be needed; count the two as equal"),
    ],
)
def test_too_few_images_are_told_with_the_number_that_would_do(value, wanted, words):
    base, new = _ROW | {"standard_error": 0.0}, _ROW | {"value": value, "standard_error": 0.3}
    if value == 4.5:
        new = new | {"standard_error": 0.1}
    outcome = compare_results(new, base)
    said = too_few_images(new, outcome)
    assert words in said if words else said == ""
    if wanted is not None:
        assert images_to_tell(9, outcome) == 330  # 9 * (0.6 / 0.1)^2 = 324, rounded up
    without = too_few_images(new | {"num_reference": None, "num_generated": "9"}, outcome)
    assert without == ""


def test_a_file_of_terms_gives_them_back_by_digest(tmp_path):
    path, terms = tmp_path / "evaluation.npz", stored_form([0.5, -0.25])
    write_terms(path, {"a.pkl/fid9_full": terms, "b.pkl/fid9_full": terms + 1})
    found = read_terms(path)
    assert set(found) == {digest_of(terms), digest_of(terms + 1)}
    assert np.array_equal(found[digest_of(terms)], terms)
    first = path.read_bytes()
    write_terms(path, {"a.pkl/fid9_full": terms, "b.pkl/fid9_full": terms + 1})
    assert path.read_bytes() == first and is_terms_file(path)
    assert beside(tmp_path / "evaluation.json") == path
    assert np.array_equal(np.load(path)["a.pkl/fid9_full"], terms)


def test_damaged_or_foreign_files_have_no_terms(tmp_path):
    path = tmp_path / "evaluation.npz"
    assert read_terms(path) == {}
    path.write_bytes(b"no zip file")
    assert read_terms(path) == {} and not is_terms_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
    assert read_terms(path) == {} and not is_terms_file(path)
    whole = npy_bytes(stored_form([1, 2, 3]))
    assert np.array_equal(from_npy(whole), [1, 2, 3])
    # Cut off, of another type, of two axes, and with a header of terabytes.
    other = [np.zeros(3), np.zeros((2, 2), np.float32)]
    for content in (
        whole[:-1],
        b"",
        *map(npy_bytes, other),
        whole.replace(b"(3,)", b"(9999999999,)"),
    ):
        assert from_npy(content) is None
