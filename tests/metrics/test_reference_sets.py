"""Which reals a name compares with: `fid50k_full` with all, once; `fid50k` with flips, capped."""

import json

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import Networks
from sg3flow.errors import MetricError
from sg3flow.metrics import Evaluator, image_metrics
from sg3flow.metrics.evaluation import _was_mirrored, evaluate_network, evaluate_snapshots
from sg3flow.metrics.evaluation_run import snapshot_metrics
from sg3flow.metrics.features import RandomFeatures, inception
from sg3flow.metrics.reference_set import Reference, WithFlips, stats_folder
from sg3flow.runs.best_snapshot import differing_meaning

CPU = torch.device("cpu")
SETTINGS = {"seed": 0, "batch": 16, "device": CPU}
FULL = ("fd_random20_full", "kid_random20_full", "pr_random20_3_full")
OLDER = ("fd_random20", "kid_random20", "pr_random20_3")


@pytest.fixture
def doubled_set(pack, draw_faces):
    """The images of ``small_set`` and then, as files, the same flipped left to right."""
    faces = draw_faces(48, seed=0, size=32)
    return pack(torch.cat([faces, faces.flip(3)]), "doubled")


@pytest.fixture
def rows_of(tiny_generator):
    """``rows_of(packed, names, mirror)``: one network's rows by the ending of their names."""

    def measure(packed, names, mirror):
        evaluator = Evaluator(packed, names, mirror=mirror, **SETTINGS)
        return evaluator.measure(tiny_generator(seed=1), "now", 1, "0" * 64)

    return measure


def values(rows):
    return [row.value for row in rows]


def test_a_full_name_counts_each_picture_once_also_for_a_mirrored_training(
    small_set, doubled_set, rows_of
):
    every = (*FULL, "dc_random20_3_full", "mem_random20_full", "swd20_full")
    plain, mirrored = (rows_of(small_set, every, mirror) for mirror in (False, True))
    assert mirrored == plain
    assert {(row.num_reference, row.reference_flips) for row in mirrored} == {(48, False)}
    # The flips would be seen: those of the faces look different to the detector.
    flipped = rows_of(doubled_set, FULL[:2], False)
    assert all(abs(a - b) > 1e-4 for a, b in zip(values(plain[:2]), values(flipped), strict=True))


def test_a_full_name_takes_no_flips_during_a_mirrored_training(
    small_set, tiny_generator, tmp_path, rows_of
):
    names = ("fd_random20_full", "fd_random20")
    measure = snapshot_metrics(names, small_set, batch=16, device=CPU, mirror=True)
    (tmp_path / "network-snapshot-000001.pkl").write_bytes(b"any")
    found = measure(tiny_generator(seed=1), tmp_path / "network-snapshot-000001.pkl", 1000)
    full, older = values(rows_of(small_set, names, True))
    assert found == {"fd_random20_full": full, "fd_random20": older} and full != older


def test_a_training_records_values_by_their_own_names(small_set):
    measure = snapshot_metrics(("pr_random20_3", "fd_random20"), small_set, batch=16, device=CPU)
    outputs = ("pr_random20_3_precision", "pr_random20_3_recall", "fd_random20")
    assert measure is not None and measure.names == outputs


def test_an_older_name_with_flips_equals_a_doubled_folder(small_set, doubled_set, rows_of):
    mirrored, explicit = rows_of(small_set, OLDER, True), rows_of(doubled_set, OLDER, False)
    assert values(mirrored) == pytest.approx(values(explicit), abs=1e-6, rel=1e-6)
    assert values(mirrored) == pytest.approx(
        values(rows_of(doubled_set, FULL, False)), abs=1e-6, rel=1e-6
    )
    conditions = {(r.num_reference, r.reference_flips, r.reference_limit) for r in mirrored}
    assert conditions == {(96, True, 50_000)}
    assert [row.metric for row in mirrored][2:] == [
        "pr_random20_3_precision",
        "pr_random20_3_recall",
    ]
    # Without mirror they are the metrics over all images, as long as there are few enough.
    assert values(rows_of(small_set, OLDER, False)) == values(rows_of(small_set, FULL, False))


@pytest.mark.medium
def test_the_public_names_equal_a_doubled_folder(
    pack, draw_faces, rows_of, monkeypatch, inception_state
):
    """With Inception's weights by a rule."""
    monkeypatch.setattr(inception, "load_weights", lambda *_: inception_state)
    faces = draw_faces(8, seed=0, size=32)
    some, doubled = pack(faces), pack(torch.cat([faces, faces.flip(3)]), "doubled")
    mirrored = rows_of(some, ("fid10", "kid10"), True)
    explicit = rows_of(doubled, ("fid10_full", "kid10_full"), False)
    assert values(mirrored) == pytest.approx(values(explicit), abs=1e-6, rel=1e-6)
    assert [row.metric for row in mirrored] == ["fid10", "kid10"]
    assert {row.num_reference for row in (*mirrored, *explicit)} == {16}


@pytest.mark.parametrize("name", OLDER)
def test_an_older_name_takes_at_most_its_limit(small_set, doubled_set, rows_of, monkeypatch, name):
    monkeypatch.setattr(image_metrics, "_OLDER_LIMIT", 30)
    limited = rows_of(small_set, (name,), True)
    assert {(row.num_reference, row.reference_limit) for row in limited} == {(30, 30)}
    explicit = rows_of(doubled_set, (name,), False)
    assert values(limited) == pytest.approx(values(explicit), abs=1e-6, rel=1e-6)
    (full,) = {row.num_reference for row in rows_of(small_set, (f"{name}_full",), True)}
    assert full == 48


def test_the_flips_come_after_the_images(small_set):
    both = WithFlips(small_set)
    assert both.num_images == 96
    for index in (0, 47):
        np.testing.assert_array_equal(both.image(index), small_set.image(index))
        np.testing.assert_array_equal(both.image(48 + index), small_set.image(index)[:, ::-1])


def cached_keys():
    """The keys in the cache, by their rule."""
    found = {}
    for path in stats_folder().iterdir():
        with np.load(path) as arrays:
            key = json.loads(str(arrays["key"]))
        found[key["rule"]] = key
    return found


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("limit", [30, 1000])
def test_flips_and_limit_are_in_the_cache_key(small_set, flips, limit):
    extractor = RandomFeatures()
    reference = Reference(small_set, extractor, 16, CPU, flips=flips)
    reference.prepare_features(limit)
    reference.prepare_stats(limit)
    # Statistics and features of all images without flips have the keys of earlier versions.
    common = {"format": "sg3flow-stats-1", "data": small_set.digest}
    common |= {"detector": extractor.digest, "resize": extractor.resize}
    order = "pictures in order, " + ("then the same flipped left to right" if flips else "no flips")
    count = str(min(limit, 96 if flips else 48))
    features = {"rule": order, "pictures": count}
    stats = {"rule": f"{order}, covariance divided by n", "pictures": count}
    if not flips and limit == 1000:
        stats = {"rule": "all pictures, no flips, covariance divided by n"}
    assert cached_keys() == {key["rule"]: key for key in (common | features, common | stats)}


def test_statistics_of_a_sample_come_from_its_features(small_set):
    sample = Reference(small_set, RandomFeatures(), 16, CPU, flips=True)
    sample.prepare_features(30)
    sample.prepare_stats(30)
    found = sample.features(30).double().numpy()
    assert sample.stats(30).count == 30
    assert np.abs(sample.stats(30).mean - found.mean(axis=0)).max() < 1e-6
    alone = Reference(small_set, RandomFeatures(), 7, CPU, flips=True)
    alone.prepare_stats(30)
    assert np.abs(alone.stats(30).cov - np.cov(found.T, bias=True)).max() < 1e-6


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.medium
def test_the_snapshot_says_whether_its_training_was_mirrored(
    small_set, save_tiny, tiny_generator, rows_of, mirror
):
    path = save_tiny(3, tiny_generator(seed=1), mirror=mirror)
    (found,) = evaluate_snapshots(path.parent, small_set, OLDER[:1], **SETTINGS)
    (alone,) = evaluate_network(str(path), small_set, OLDER[:1], **SETTINGS)
    assert found.reference_flips is alone.reference_flips is mirror
    assert found.value == alone.value == values(rows_of(small_set, OLDER[:1], mirror))[0]
    (other,) = evaluate_snapshots(path.parent, small_set, OLDER[:1], mirror=not mirror, **SETTINGS)
    assert other.reference_flips is not mirror and other.value != found.value
    (full,) = evaluate_snapshots(path.parent, small_set, FULL[:1], **SETTINGS)
    assert full.reference_flips is False


def test_a_public_pickle_calls_it_xflip():
    assert _was_mirrored(Networks(training_set={"xflip": True}), "x.pkl") is True
    assert _was_mirrored(Networks(training_set={"xflip": False}), "x.pkl") is False


@pytest.mark.medium
def test_what_the_snapshots_do_not_say_is_not_guessed(small_set, save_tiny, tiny_generator):
    path = save_tiny(3, tiny_generator(seed=1), mirror=None)
    with pytest.raises(MetricError, match=r"000003\.pkl does not say whether .* give --mirror or"):
        evaluate_snapshots(path.parent, small_set, OLDER[:1], **SETTINGS)
    assert evaluate_snapshots(path.parent, small_set, FULL[:1], **SETTINGS)
    save_tiny(3, tiny_generator(seed=1), mirror=True)
    save_tiny(5, tiny_generator(seed=2), mirror=False)
    with pytest.raises(
        MetricError, match=r"000005\.pkl was trained without mirror, an earlier snapshot with; give"
    ):
        evaluate_snapshots(path.parent, small_set, OLDER[:1], **SETTINGS)
    assert len(evaluate_snapshots(path.parent, small_set, FULL[:1], **SETTINGS)) == 2
    rows = evaluate_snapshots(path.parent, small_set, OLDER[:1], mirror=True, **SETTINGS)
    assert [row.reference_flips for row in rows] == [True, True]


def test_rows_with_other_flips_or_limits_mean_something_else():
    row = {"reference_sha256": "r", "detector_sha256": "d"}
    new = row | {"reference_flips": False, "reference_limit": 50_000}
    assert differing_meaning(new, new) == []
    assert differing_meaning(new | {"reference_flips": True}, new) == [
        "the flips of the reference set"
    ]
    assert differing_meaning(new | {"reference_limit": None}, new) == [
        "the limit of the reference set"
    ]
    # Rows of earlier versions have neither key, and only metrics where both are fixed.
    assert differing_meaning(new, row) == differing_meaning(row, new) == []
