import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from sg3flow.metrics.distances import FeatureStats
from sg3flow.metrics.features import RandomFeatures
from sg3flow.metrics.reference_set import Reference, cached_stats, image_batches, stats_folder

CPU = torch.device("cpu")
KEY = {"data": "d", "detector": "e"}


def reference_stats(packed, extractor, batch):
    reference = Reference(packed, extractor, batch, CPU)
    reference.prepare_stats()
    return reference.stats()


def counted(calls):
    def compute():
        calls.append(1)
        return FeatureStats(7, np.arange(3.0), np.eye(3) / 3)

    return compute


def test_computed_once_and_equal_bit_for_bit():
    calls = []
    first, second = cached_stats(KEY, counted(calls)), cached_stats(KEY, counted(calls))
    assert len(calls) == 1
    assert first.count == second.count == 7
    assert np.array_equal(first.mean, second.mean) and np.array_equal(first.cov, second.cov)


def test_every_part_of_the_key_counts():
    calls = []
    for key in (KEY, KEY | {"data": "x"}, KEY | {"detector": "x"}, KEY | {"resize": "x"}):
        cached_stats(key, counted(calls))
    assert len(calls) == 4


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "pickle", "nan"])
def test_damaged_file_is_computed_again(damage):
    calls = []
    cached_stats(KEY, counted(calls))
    (path,) = stats_folder().iterdir()
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[:-40])
    elif damage == "flipped":
        path.write_bytes(content.replace(np.arange(3.0).tobytes(), np.ones(3).tobytes()))
    elif damage == "foreign":
        np.savez(path, key="another", count=7, mean=np.ones(3), cov=np.eye(3))
    elif damage == "pickle":
        np.savez(path, key=np.array(["x", {}], dtype=object), count=7, mean=1, cov=2)
    else:
        with np.load(path) as arrays:
            key = arrays["key"]
        np.savez(path, key=key, count=7, mean=np.full(3, np.nan), cov=np.eye(3))
    assert cached_stats(KEY, counted(calls)).mean.tolist() == [0, 1, 2]
    assert cached_stats(KEY, counted(calls)).mean.tolist() == [0, 1, 2]
    assert len(calls) == 2
    assert list(stats_folder().iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_a_warning(cache, capsys):
    cache.write_text("a file where the folder should be")
    assert cached_stats(KEY, counted([])).count == 7
    assert "warning: cannot write to the cache" in capsys.readouterr().err


@pytest.mark.medium
def test_two_processes_at_once_leave_one_whole_file(cache):
    script = textwrap.dedent("""
        import numpy as np, time
        from sg3flow.metrics.reference_set import cached_stats
        from sg3flow.metrics.distances import FeatureStats
        def compute():
            time.sleep(0.5)
            return FeatureStats(5, np.arange(300.0), np.eye(300))
        for _ in range(3):
            print(cached_stats({"data": "both"}, compute).mean.sum())
    """)
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs == ["44850.0\n" * 3] * 2
    assert [path.suffix for path in stats_folder().iterdir()] == [".npz"]


def test_a_changed_picture_changes_the_key(pack, draw_faces):
    images = draw_faces(10, seed=0, size=32)
    changed = images.clone()
    changed[3, 0, 5, 5] ^= 1
    sets = [pack(images, "a"), pack(images, "b"), pack(changed, "c")]
    means = [reference_stats(packed, RandomFeatures(), batch=4).mean for packed in sets]
    assert len(list(stats_folder().iterdir())) == 2
    assert np.array_equal(means[0], means[1]) and not np.array_equal(means[0], means[2])


@pytest.mark.parametrize("batch", [1, 7, 48, 100])
def test_reference_does_not_depend_on_the_batch(small_set, batch, monkeypatch, tmp_path):
    whole = RandomFeatures()(torch.cat(list(image_batches(small_set, 48)))).double().numpy()
    stats = reference_stats(small_set, RandomFeatures(), batch)
    assert stats.count == 48
    assert np.abs(stats.mean - whole.mean(axis=0)).max() < 1e-6
    assert np.abs(stats.cov - np.cov(whole.T, bias=True)).max() < 1e-6


def test_pictures_come_in_order(small_set):
    batches = list(image_batches(small_set, 20))
    assert [len(batch) for batch in batches] == [20, 20, 8]
    pictures = torch.cat(batches).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(pictures[i], small_set.image(i)) for i in range(48))


def test_features_are_kept_and_statistics_come_from_them(small_set, monkeypatch):
    reference = Reference(small_set, RandomFeatures(), 8, CPU)
    reference.prepare_features(10**6)
    alone = reference_stats(small_set, RandomFeatures(), 8)
    monkeypatch.setattr(small_set, "image", None)  # no picture is to be read again
    monkeypatch.setattr(
        "sg3flow.metrics.reference_set.cached_stats", lambda key, compute: compute()
    )
    reference.prepare_stats()
    assert np.array_equal(reference.stats().cov, alone.cov)
    again = Reference(small_set, RandomFeatures(), 8, CPU)
    again.prepare_features(10**6)
    assert torch.equal(again.features(10**6), reference.features(10**6))
    assert again.features(10**6).shape == (48, 254)


def test_of_large_sets_some_pictures_stand_for_all(small_set):
    reference = Reference(small_set, RandomFeatures(), 8, CPU)
    for limit in (20, 48):
        reference.prepare_features(limit)
    some, everything = reference.features(20), reference.features(100)
    assert reference.count(20) == 20 and reference.count(100) == 48
    nearest = torch.cdist(some.double(), everything.double()).min(dim=1)
    assert nearest.values.max() < 1e-4 and len(set(nearest.indices.tolist())) == 20
    assert not torch.equal(some, everything[:20])


def test_damaged_features_are_computed_again(small_set):
    first = Reference(small_set, RandomFeatures(), 8, CPU)
    first.prepare_features(48)
    (path,) = stats_folder().iterdir()
    path.write_bytes(path.read_bytes()[:-500])
    again = Reference(small_set, RandomFeatures(), 8, CPU)
    again.prepare_features(48)
    assert torch.equal(again.features(48), first.features(48))
