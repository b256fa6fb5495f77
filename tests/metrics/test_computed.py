"""`sg3flow.metrics.compute`: the values of the commands, in every form of images."""

import numpy as np
import pytest
import torch
from PIL import Image

import sg3flow
from sg3flow.config import EvaluateImagesConfig, PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.packing import pack_images
from sg3flow.errors import CheckpointError, ConfigError, DataError, MetricError
from sg3flow.metrics import MetricValues, compute
from sg3flow.metrics.evaluation import evaluate_network
from sg3flow.metrics.evaluation_run import evaluate_images
from sg3flow.metrics.names import counted_name


def photos(count, seed, size=16):
    random = np.random.RandomState(seed)
    coarse = (random.randint(0, 256, (4, 4, 3)).astype(np.uint8) for _ in range(count))
    return [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two folders, the images in them, and a packed set of the second."""
    root = tmp_path_factory.mktemp("sets")
    images = {"a": photos(12, 0), "b": photos(10, 1)}
    for name, drawn in images.items():
        (root / name).mkdir()
        for i, image in enumerate(drawn):
            image.save(root / name / f"{i:03d}.png")
    pack_images(root / "b", root / "b.zip", root / "b.parquet", PackConfig())
    return root, images


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))


def test_folders_archives_lists_and_arrays_give_one_value(sets):
    root, images = sets
    arrays = [np.asarray(image) for image in images["a"]]
    expected = compute("fd_random", root / "a", root / "b")
    for a, b in [
        (str(root / "a"), str(root / "b.zip")),
        (images["a"], images["b"]),
        (arrays, PackedSet(root / "b.zip")),
        (np.stack(arrays), images["b"]),
    ]:
        assert compute("fd_random", a, b).value == expected.value
    assert expected.value > 0 and float(expected) == expected.value
    assert compute("fd_random", root / "b", root / "a").value != compute("fd_random", a, a).value


def test_it_is_the_value_of_the_command(sets):
    root, _ = sets
    config = EvaluateImagesConfig(metrics=("kid_random",), device="cpu")
    table = evaluate_images(config, root / "a", root / "b", None)
    found = compute("kid_random", root / "a", root / "b", device="cpu")
    assert f"{found.value:.4g}"[:5] in table
    assert found.results[0].num_generated == 12 and found.results[0].num_reference == 10


def test_order_and_roles_count(sets):
    root, images = sets
    precision = compute("pr_random3", root / "a", images["b"]).values
    swapped = compute("pr_random3", images["b"], root / "a").values
    assert list(precision) == ["pr_random3_precision", "pr_random3_recall"]
    assert precision["pr_random3_precision"] == swapped["pr_random3_recall"]


def test_a_metric_of_several_values_says_so(sets):
    root, _ = sets
    found = compute("pr_random3", root / "a", root / "b")
    assert isinstance(found, MetricValues)
    with pytest.raises(MetricError, match=r"pr_random3_precision, pr_random3_recall; use \.values"):
        found.value  # noqa: B018
    assert repr(found).count("\n") >= 1


def test_it_shows_value_error_counts_and_warnings(sets):
    root, _ = sets
    shown = repr(compute("fd_random", root / "a", root / "b"))
    assert shown.startswith("fd_random ") and "(12 against 10 images)" in shown
    assert "warning: fd_random: 12 and 10 images for 254 features" in shown


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_any_mode(sets, mode):
    root, images = sets
    converted = [image.convert(mode) for image in images["a"]]
    assert compute("fd_random", converted, root / "b").value > 0


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    from sg3flow.checkpoints import save_snapshot
    from sg3flow.networks import Discriminator, StyleGAN3Generator

    torch.manual_seed(0)
    sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 8}
    G = StyleGAN3Generator(z_dim=8, c_dim=0, w_dim=8, num_layers=5, **sizes)
    path = tmp_path_factory.mktemp("network") / "network-snapshot-000003.pkl"
    D = Discriminator(c_dim=0, **sizes)
    described = {"mirror": True}
    save_snapshot(
        path, G=G, D=D, G_ema=G, augment_p=0.0, training_set=described, progress={"nimg": 3000}
    )
    return path


def test_a_network_gives_the_values_of_the_command(sets, network):
    root, _ = sets
    packed = PackedSet(root / "b.zip")
    cpu = torch.device("cpu")
    names = ["fd_random20_full", "fd_random10_full"]
    expected = evaluate_network(str(network), packed, names, seed=3, batch=32, device=cpu)
    values = [result.value for result in expected]
    settings = {"seed": 3, "device": "cpu"}
    found = [compute(name, network, root / "b.zip", **settings).value for name in names]
    assert found == values and values[0] != values[1]
    assert compute("fd_random", str(network), packed, **settings).value == values[1]
    loaded = sg3flow.load(network, device="cpu")
    assert compute(names[0], loaded, packed, **settings).value == values[0]
    assert compute("eqt2_int", loaded, packed, **settings).results[0].num_reference is None


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("fd_random", "fd_random500_full"),
        ("fid", "fid500_full"),
        ("pr3", "pr500_3_full"),
        ("dc_random5", "dc_random500_5_full"),
        ("is", "is500"),
        ("swd", "swd500_full"),
        ("eqt_int", "eqt500_int"),
        ("eqr", "eqr500"),
        ("ppl2_wend", "ppl2_wend"),
        ("fid50k_full", "fid50k_full"),
        ("fid50k", "fid50k"),
        ("pr50k3", "pr50k3"),
    ],
)
def test_a_name_without_a_count_gets_that_of_the_images(name, counted):
    assert counted_name(name, 500) == counted


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("fd_randm", "a", "b"), MetricError, "did you mean 'fd_random'"),
        (("fd_random20_full", "a", "b"), MetricError, "between two sets of images"),
        ((3, "a", "b"), MetricError, "metric must be a name"),
        (("x" * 1000, "a", "b"), MetricError, "metric must be a name"),
        (("fd_random", "a", None), ConfigError, "b must be a folder"),
        (("fd_random", 3, "b"), ConfigError, "a must be a folder"),
        (("fd_random", "a", "starter"), ConfigError, "give the network as a"),
        (("fd_random", "nowhere", "b"), DataError, "nowhere"),
        (("fd_random", [], "b"), DataError, "a is an empty list"),
        (("fd_random", [np.zeros((4, 4, 3), np.uint8)], "b"), DataError, "a list of one image"),
        (
            ("fd_random", np.zeros((4, 4, 3), np.uint8), "b"),
            ConfigError,
            r"a is one image, uint8 \[",
        ),
        (("fd_random", "a", np.zeros((4, 4, 1), np.uint8)), ConfigError, "b is one image"),
        (("fd_random", ["a.png"], "b"), DataError, r"a\[0\] must be a Pillow image"),
        (("fd_random", [np.zeros((4, 4, 3))], "b"), DataError, r"not float64 \[4, 4, 3\]"),
        (("fd_random", [np.zeros((4, 4, 2), np.uint8)], "b"), DataError, r"uint8 \[4, 4, 2\]"),
        (("fd_random", "none.pkl", "b.zip"), CheckpointError, "none.pkl"),
        (("fd_random", "starter", [1]), ConfigError, "b must be a packed set"),
        (("fd_random", "starter", "a.txt"), DataError, "a.txt"),
        (("fd_wrong", "starter", "b.zip"), MetricError, "unknown metric 'fd_wrong'"),
        (("fd_random", "starter", None), DataError, "was not found.*in Python, b"),
    ],
)
def test_wrong_arguments(sets, monkeypatch, arguments, kind, words):
    monkeypatch.chdir(sets[0])
    with pytest.raises(kind, match=words) as caught:
        compute(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 1.0}, {"batch": 0}, {"batch": True}, {"device": "tpu"},
              {"device": 3}]
)  # fmt: skip
def test_wrong_settings(sets, wrong):
    root, _ = sets
    with pytest.raises(ConfigError):
        compute("fd_random", root / "a", root / "b", **wrong)
