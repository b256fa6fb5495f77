import pytest

from sg3flow.errors import MetricError
from sg3flow.metrics import parse_metric, parse_metrics
from sg3flow.metrics.names import parse_set_metrics


@pytest.mark.parametrize(
    ("name", "kind", "count", "neighbor"),
    [
        ("fid50k_full", "fid", 50_000, 0),
        ("fid1k_full", "fid", 1000, 0),
        ("fid500_full", "fid", 500, 0),
        ("kid10k_full", "kid", 10_000, 0),
        ("pr50k3_full", "pr", 50_000, 3),
        ("pr10k12_full", "pr", 10_000, 12),
        ("pr500_3_full", "pr", 500, 3),
        ("dc10k5_full", "dc", 10_000, 5),
        ("is50k", "is", 50_000, 0),
        ("is500", "is", 500, 0),
        ("mem1k_full", "mem", 1000, 0),
        ("swd8k_full", "swd", 8000, 0),
        ("fd_random1k_full", "fd_random", 1000, 0),
        ("kid_random1k_full", "kid_random", 1000, 0),
        ("pr_random1k3_full", "pr_random", 1000, 3),
        ("dc_random200_5_full", "dc_random", 200, 5),
        ("mem_random1k_full", "mem_random", 1000, 0),
        ("ppl2_wend", "ppl2_wend", 50_000, 0),
        ("ppl2_wend500", "ppl2_wend", 500, 0),
        ("eqt50k_int", "eqt_int", 50_000, 0),
        ("eqt1k_frac", "eqt_frac", 1000, 0),
        ("eqr50k", "eqr", 50_000, 0),
        ("fd_dinov2_50k_full", "fd_dinov2", 50_000, 0),
        ("kd_dinov2_b_500_full", "kd_dinov2_b", 500, 0),
        ("pr_dinov2_10k3_full", "pr_dinov2", 10_000, 3),
        ("dc_inception_500_5_full", "dc_inception", 500, 5),
        ("mem_clip_1k_full", "mem_clip", 1000, 0),
        ("cmmd_30k", "cmmd", 30_000, 0),
        ("vendi_5k", "vendi", 5000, 0),
        ("fld_5k", "fld", 5000, 0),
        ("fld_random500", "fld_random", 500, 0),
    ],
)
def test_known_forms(name, kind, count, neighbor):
    metric = parse_metric(name)
    found = (metric.name, metric.kind, metric.num_images, metric.neighbor)
    assert found == (name, kind, count, neighbor)
    assert not metric.is_older


@pytest.mark.parametrize(
    ("name", "kind", "count", "neighbor"),
    [
        ("fid50k", "fid", 50_000, 0),
        ("kid50k", "kid", 50_000, 0),
        ("pr50k3", "pr", 50_000, 3),
        ("pr500_3", "pr", 500, 3),
        ("fd_random1k", "fd_random", 1000, 0),
        ("kid_random1k", "kid_random", 1000, 0),
        ("pr_random1k3", "pr_random", 1000, 3),
    ],
)
def test_older_forms_are_other_metrics(name, kind, count, neighbor):
    metric = parse_metric(name)
    found = (metric.name, metric.kind, metric.num_images, metric.neighbor)
    assert found == (name, kind, count, neighbor)
    assert metric.is_older and metric.has_reference
    assert all(output.startswith(name) for output in metric.outputs)
    assert "_full" not in "".join(metric.outputs)


def test_what_comes_out_and_which_way_is_better():
    assert parse_metric("fid50k_full").outputs == {"fid50k_full": False}
    assert parse_metric("eqr1k").outputs == {"eqr1k": True}
    assert parse_metric("is1k").outputs == {"is1k": True}
    both = {"pr50k3_full_precision": True, "pr50k3_full_recall": True}
    assert parse_metric("pr50k3_full").outputs == both
    assert list(parse_metric("dc1k5_full").outputs)[1] == "dc1k5_full_coverage"


def test_the_name_says_the_detector():
    detectors = {
        name: parse_metric(name).detector
        for name in ("fd_dinov2_5k_full", "fd_dinov2_b_5k_full", "cmmd_5k", "vendi_5k", "fld_5k")
    }
    assert list(detectors.values()) == ["dinov2", "dinov2_b", "clip", "dinov2", "dinov2"]
    fld = parse_metric("fld_5k")
    assert fld.outputs == {"fld_5k": False, "fld_5k_gap": True, "fld_5k_memorized": False}
    assert fld.uses_held_out and not parse_metric("vendi_5k").has_reference
    # A metric has one name: these would be second ones of fid, kid, mem, cmmd, vendi and fld.
    for twice in ("fd_inception_5k_full", "cmmd_clip_5k", "vendi_dinov2_5k", "fld_dinov2_5k"):
        with pytest.raises(MetricError, match="unknown metric"):
            parse_metric(twice)


def test_what_a_metric_needs():
    needs = {
        name: (metric.uses_only_images, metric.has_reference, metric.is_equivariance)
        for name in ("fid1k_full", "is1k", "ppl2_wend1k", "eqr1k")
        for metric in [parse_metric(name)]
    }
    assert needs == {
        "fid1k_full": (True, True, False),
        "is1k": (True, False, False),
        "ppl2_wend1k": (False, False, False),
        "eqr1k": (False, False, True),
    }


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fid50kfull", "fid50k_full"),
        ("fid0_full", "fid50k_full"),
        ("fid50k_ful", "fid50k_full"),
        ("fid_50k", "fid50k"),
        ("pr50k", "pr50k3"),
        ("mem50k", "mem50k_full"),
        ("FID50k_full", "fid50k_full"),
        ("pr50k_full", "pr50k3_full"),
        ("eqt50k_integer", "eqt50k_int"),
        ("fd_randm1k_full", "fd_random50k_full"),
    ],
)
def test_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(MetricError, match=f"unknown metric '{name}'.*did you mean '{near}'"):
        parse_metric(name)


def test_lists_of_names():
    assert [m.name for m in parse_metrics(("eqr9", "fid9_full"))] == ["eqr9", "fid9_full"]
    with pytest.raises(MetricError, match="no metric given"):
        parse_metrics(())
    with pytest.raises(MetricError, match="is given twice"):
        parse_metrics(("fid9_full", "fid9_full"))


def test_metrics_of_two_sets_need_no_count():
    found = parse_set_metrics(("fid", "pr3", "kid_random", "dc_random12"), 70)
    assert [(m.kind, m.num_images, m.neighbor) for m in found] == [
        ("fid", 70, 0),
        ("pr", 70, 3),
        ("kid_random", 70, 0),
        ("dc_random", 70, 12),
    ]
    for name, near in (("kd", "kid"), ("pr", "pr3")):
        with pytest.raises(MetricError, match=f"no metric '{name}' between two sets.*'{near}'"):
            parse_set_metrics((name,), 70)
    for name in ("eqr", "fid50k_full"):
        with pytest.raises(MetricError, match=f"no metric '{name}' between two sets of images"):
            parse_set_metrics((name,), 70)
