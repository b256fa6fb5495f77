import functools
import http.server
import math
import threading

import pytest
import torch

from sg3flow.errors import CheckpointError, MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics import evaluator
from sg3flow.metrics.error_terms import digest_of
from sg3flow.metrics.evaluation import evaluate_network, evaluate_snapshots, find_snapshots
from sg3flow.metrics.features import RandomFeatures

NAMES = ("fd_random40_full", "fd_random20_full", "eqt8_int", "eqt8_frac", "eqr8")


def evaluate(run_dir, packed, names=NAMES, **changes):
    settings = {"seed": 0, "batch": 8, "device": torch.device("cpu")} | changes
    return evaluate_snapshots(run_dir, packed, names, **settings)


def values(results):
    return {(result.snapshot, result.metric): result.value for result in results}


@pytest.fixture
def run_dir(save_tiny, tiny_generator):
    save_tiny(2, tiny_generator(seed=2))
    return save_tiny(10, tiny_generator(seed=1)).parent


@pytest.mark.medium
def test_every_result_says_what_it_compares(run_dir, small_set):
    done = []
    results = evaluate(run_dir, small_set, increment=done.append)
    assert [(r.kimg, r.metric) for r in results] == [(k, n) for k in (2, 10) for n in NAMES]
    assert [r.snapshot for part in done for r in part] == [r.snapshot for r in results]
    assert len(done) == 2
    frechet, motion = results[5], results[7]
    snapshot = run_dir / "network-snapshot-000010.pkl"
    assert frechet.row() == {
        "snapshot": "network-snapshot-000010.pkl",
        "kimg": 10,
        "metric": "fd_random40_full",
        "value": frechet.value,
        "standard_error": frechet.standard_error,
        "error_rule": "jackknife over 10 blocks of generated pictures",
        "num_generated": 40,
        "num_reference": 48,
        "detector": "random-conv-64",
        "detector_sha256": RandomFeatures().digest,
        "reference_sha256": small_set.digest,
        "network_sha256": sha256_file(snapshot),
        "resize": RandomFeatures.resize,
        "seed": 0,
        "higher_is_better": False,
        "torch": torch.__version__,
        "reference_flips": False,
        "reference_limit": None,
        "covariance_divisor": "N",
        "held_out_sha256": None,
        "error_terms": digest_of(frechet.terms),
    }
    assert motion.metric == "eqt8_int" and motion.higher_is_better and motion.num_generated == 8
    absent = ("num_reference", "detector", "detector_sha256", "reference_sha256", "resize")
    absent += ("reference_flips", "reference_limit")
    assert [getattr(motion, name) for name in absent] == [None] * 7
    assert all(math.isfinite(result.value) for result in results)


@pytest.mark.parametrize("batch", [1, 13])
def test_the_batch_decides_nothing(run_dir, small_set, batch):
    expected = values(evaluate(run_dir, small_set, snapshots="last"))
    found = values(evaluate(run_dir, small_set, snapshots="last", batch=batch))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.medium
def test_a_repeat_is_equal_and_another_seed_is_not(run_dir, small_set):
    first, again = (values(evaluate(run_dir, small_set, NAMES[:3])) for _ in range(2))
    other = values(evaluate(run_dir, small_set, NAMES[:3], seed=1))
    assert first == again
    assert all(first[key] != other[key] for key in first)


def test_a_metric_does_not_depend_on_its_company(run_dir, small_set):
    together = values(evaluate(run_dir, small_set, snapshots="last"))
    for name in ("fd_random20_full", "eqt8_frac"):
        alone = values(evaluate(run_dir, small_set, (name,), snapshots="last"))
        assert alone == {
            ("network-snapshot-000010.pkl", name): pytest.approx(
                together["network-snapshot-000010.pkl", name], rel=1e-12
            )
        }


def test_labeled_networks_get_labels_of_the_data(save_tiny, tiny_generator, pack, draw_faces):
    labeled = pack(draw_faces(12, seed=0, size=32), labels=[0, 1, 2] * 4)
    run_dir = save_tiny(1, tiny_generator(c_dim=3)).parent
    assert len(evaluate(run_dir, labeled, ("fd_random16_full", "eqr4"))) == 2
    unlabeled = pack(draw_faces(12, seed=0, size=32), "unlabeled")
    with pytest.raises(MetricError, match=r"000001\.pkl: .*labels of length 3, the data has 0"):
        evaluate(run_dir, unlabeled, ("fd_random16_full",))


def test_one_network_of_any_name(run_dir, small_set, tmp_path):
    source = tmp_path / "net work.pkl"
    source.write_bytes((run_dir / "network-snapshot-000010.pkl").read_bytes())
    settings = {"seed": 0, "batch": 8, "device": torch.device("cpu")}
    (result,) = evaluate_network(str(source), small_set, NAMES[:1], **settings)
    assert (result.snapshot, result.kimg) == (str(source), None)
    assert result.value == evaluate(run_dir, small_set, NAMES[:1], snapshots="last")[0].value
    with pytest.raises(CheckpointError, match="no file"):
        evaluate_network(str(tmp_path / "no.pkl"), small_set, NAMES[:1], **settings)


def test_the_credentials_of_an_address_stay_out_of_the_results(run_dir, small_set):
    path = run_dir / "network-snapshot-000010.pkl"
    handler = functools.partial(_Quiet, directory=run_dir)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/{path.name}"
        settings = {"seed": 0, "batch": 8, "device": torch.device("cpu")}
        (result,) = evaluate_network(f"http://me:secret@{place}", small_set, NAMES[:1], **settings)
        server.shutdown()
    assert result.snapshot == f"http://{place}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class _Counted(RandomFeatures):
    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)


def test_a_detector_sees_no_more_pictures_than_its_metrics_want(run_dir, small_set, monkeypatch):
    (expected,) = evaluate(run_dir, small_set, ("fd_random10_full",), snapshots="last")
    extractors = {"inception": _Counted(), "random": _Counted()}
    monkeypatch.setattr(evaluator, "load_extractor", lambda name, *_: extractors[name])
    names = ("fid10_full", "fd_random40_full")
    results = evaluate(run_dir, small_set, names, snapshots="last")
    assert {kind: found.seen for kind, found in extractors.items()} == {
        "inception": 16,
        "random": 40,
    }
    assert results[0].value == pytest.approx(expected.value, rel=1e-12)


def test_only_whole_snapshots_are_taken_oldest_first(tmp_path):
    names = ["network-snapshot-001000.pkl", "network-snapshot-000999.pkl", "fakes000999.png"]
    names += [".network-snapshot-002000.pkl.ab12.tmp", "network-snapshot-1234567.pkl"]
    for name in names:
        (tmp_path / name).touch()
    found = [int(path.stem[17:]) for path in find_snapshots(tmp_path)]
    assert found == [999, 1000, 1234567]


def test_no_run_and_no_snapshots(tmp_path):
    with pytest.raises(MetricError, match="there is no training run at"):
        find_snapshots(tmp_path / "nothing")
    with pytest.raises(MetricError, match="has no network-snapshot"):
        find_snapshots(tmp_path)


def test_values_that_are_not_finite_name_the_snapshot(save_tiny, tiny_generator, small_set):
    G = tiny_generator()
    G.mapping.w_avg.fill_(math.nan)
    for parameter in G.synthesis.parameters():
        parameter.data.fill_(math.nan)
    run_dir = save_tiny(5, G).parent
    for names in (NAMES[:1], NAMES[2:3]):
        with pytest.raises(MetricError, match=r"network-snapshot-000005\.pkl: .*not finite"):
            evaluate(run_dir, small_set, names)


def test_a_network_that_does_not_fit(save_tiny, tiny_generator, small_set, pack, draw_faces):
    run_dir = save_tiny(1, tiny_generator(kind="stylegan2")).parent
    assert len(evaluate(run_dir, small_set, NAMES[:1])) == 1
    with pytest.raises(MetricError, match="no input transform"):
        evaluate(run_dir, small_set)
    with pytest.raises(MetricError, match=r"generates 32x32x3, .* has 64x64x3"):
        evaluate(run_dir, pack(draw_faces(4, seed=0), "large"), NAMES[:1])


def test_a_damaged_snapshot_is_named(run_dir, small_set):
    path = run_dir / "network-snapshot-000010.pkl"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="network-snapshot-000010"):
        evaluate(run_dir, small_set, NAMES[:1])
