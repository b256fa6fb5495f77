import pytest

from sg3flow.errors import MetricError
from sg3flow.metrics import parse_metric, parse_metrics


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("fid50k_full", "fid", 50_000),
        ("fid1k_full", "fid", 1000),
        ("fid500_full", "fid", 500),
        ("fd_random1k_full", "fd_random", 1000),
        ("eqt50k_int", "eqt_int", 50_000),
        ("eqt1k_frac", "eqt_frac", 1000),
        ("eqr50k", "eqr", 50_000),
    ],
)
def test_known_forms(name, kind, count):
    metric = parse_metric(name)
    assert (metric.name, metric.kind, metric.num_images) == (name, kind, count)
    assert metric.higher_is_better == kind.startswith("eq")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fid50kfull", "fid50k_full"),
        ("fid0_full", "fid50k_full"),
        ("FID50k_full", "fid50k_full"),
        ("eqt50k_integer", "eqt50k_int"),
        ("fd_randm1k_full", "fd_random50k_full"),
    ],
)
def test_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(MetricError, match=f"unknown metric '{name}'.*did you mean '{near}'"):
        parse_metric(name)


def test_lists_of_names():
    assert [m.name for m in parse_metrics(("eqr9", "fid9_full"))] == ["eqr9", "fid9_full"]
    with pytest.raises(MetricError, match="no metrics"):
        parse_metrics(())
    with pytest.raises(MetricError, match="stands twice"):
        parse_metrics(("fid9_full", "fid9_full"))
