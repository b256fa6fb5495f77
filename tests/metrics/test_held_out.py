"""Vendi score, CMMD and feature likelihood over images and networks, and what they compare with."""

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.config import EvaluateImagesConfig
from sg3flow.distributed import ALONE
from sg3flow.errors import DataError, MetricError
from sg3flow.metrics import Evaluator, compute
from sg3flow.metrics.estimates import compare_results
from sg3flow.metrics.evaluation import ImageSet
from sg3flow.metrics.evaluation_run import _held_out_of, evaluate_images
from sg3flow.metrics.names import parse_metrics

CPU = torch.device("cpu")
FLD = ("fld_random24", "fld_random24_gap", "fld_random24_memorized")


def photos(count, seed):
    random = np.random.RandomState(seed)
    coarse = (random.randint(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(count))
    return [Image.fromarray(c).resize((16, 16), Image.Resampling.BICUBIC) for c in coarse]


def saved(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def sets(tmp_path):
    """Generated images, training images and held-out images, in folders."""
    return [saved(tmp_path / name, photos(30, seed)) for seed, name in enumerate("abc")]


def test_copies_of_training_images_are_told_by_held_out_images(sets):
    a, b, c = sets
    honest = compute("fld_random", a, b, held_out=c).values
    copies = compute("fld_random", b, b, held_out=c).values
    assert list(honest) == ["fld_random", "fld_random_gap", "fld_random_memorized"]
    assert copies["fld_random_memorized"] == 1 and honest["fld_random_memorized"] < 0.3
    assert copies["fld_random"] > honest["fld_random"] + 10
    assert copies["fld_random_gap"] < honest["fld_random_gap"] - 10


def test_copies_cost_nothing_in_the_other_metrics(sets):
    a, b, _ = sets
    assert compute("cmmd_random", b, b).value == pytest.approx(0, abs=1e-9)
    assert compute("cmmd_random", a, b).value > 1e-6
    assert compute("vendi_random", [photos(1, 0)[0]] * 20, b).value == pytest.approx(1)
    assert compute("vendi_random", a, b).value > 1.001


def test_rows_say_what_was_held_out(sets, small_set, tiny_generator):
    G, held_out = tiny_generator(seed=1), ImageSet(sets[2])
    names = ("fld_random24", "vendi_random24", "cmmd_random24")
    rows = []
    for unseen in (held_out, None):
        evaluator = Evaluator(small_set, names, seed=0, batch=8, device=CPU, held_out=unseen)
        evaluator.prepare()
        results = evaluator.measure(G, "now", 1, "0" * 64)
        rows.append({each.metric: each.row() for each in results})
    assert tuple(rows[0])[:3] == FLD
    digests = [[each[name]["held_out_sha256"] for name in each] for each in rows]
    assert digests == [[held_out.digest] * 3 + [None] * 2, [None] * 5]
    higher = [rows[0][name]["higher_is_better"] for name in FLD]
    assert higher == [False, True, False]
    assert rows[0]["vendi_random24"]["higher_is_better"]
    assert rows[0]["vendi_random24"]["reference_sha256"] is None
    outcome = compare_results(rows[0][FLD[0]], rows[1][FLD[0]])
    assert outcome.word == "not comparable" and "held-out images" in outcome.reason
    # What needs no held-out images is the same with and without them.
    for name in names[1:]:
        assert rows[0][name]["value"] == rows[1][name]["value"]
    assert all(row["standard_error"] is not None for row in rows[0].values())


def test_without_held_out_images_a_note_says_what_is_taken(sets, capsys):
    a, b, c = sets
    config = EvaluateImagesConfig(metrics=("fld_random",), device="cpu")
    evaluate_images(config, a, b, None)
    assert "every second image of the reference set" in capsys.readouterr().err
    evaluate_images(config, a, b, None, c)
    assert "note:" not in capsys.readouterr().err
    evaluate_images(EvaluateImagesConfig(metrics=("vendi_random",), device="cpu"), a, b, None, c)
    assert "--held-out is for fld" in capsys.readouterr().err


def test_held_out_images_that_are_of_no_use(sets, tmp_path):
    a, b, _ = sets
    config = EvaluateImagesConfig(metrics=("fld_random",), device="cpu")
    with pytest.raises(DataError, match="missing"):
        evaluate_images(config, a, b, None, tmp_path / "missing")
    one = saved(tmp_path / "one", photos(1, 5))
    with pytest.raises((DataError, MetricError), match="at least"):
        evaluate_images(config, a, b, None, one)


def test_the_set_itself_is_not_held_out(sets, small_set):
    a, b, _ = sets
    with pytest.raises(MetricError, match=r"held-out images .* are those of the set"):
        compute("fld_random", a, b, held_out=b)
    of_network = Evaluator(
        small_set, ["fld_random24"], seed=0, batch=8, device=CPU, held_out=ImageSet(small_set.path)
    )
    with pytest.raises(MetricError, match=r"held-out images .* are those of the set"):
        of_network.prepare()
    assert compute("vendi_random", a, b, held_out=b).value > 1  # no matter to other metrics


def test_a_note_if_held_out_images_have_another_size(sets, small_set, capsys):
    assert small_set.resolution != 8
    metrics = parse_metrics(["fld_random24"])
    for side in (small_set.resolution, 8):
        folder = sets[0].parent / f"of_{side}"
        saved(folder, [image.resize((side, side)) for image in photos(2, 3)])
        assert _held_out_of(small_set, folder, metrics, ALONE) is not None
        assert ("has 8x8 pixels" in capsys.readouterr().err) == (side == 8)
