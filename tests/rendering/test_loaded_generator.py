"""The Python API: the pictures of the commands, w, classes, and what a wrong argument says."""

import base64
import io
import re
import warnings
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sg3flow
from sg3flow.checkpoints import save_snapshot
from sg3flow.cli.stage_commands import render_app
from sg3flow.errors import CheckpointError, ConfigError, DataError, Sg3flowError
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.rendering.images import load_model, png_bytes

SIZES = {"img_resolution": 16, "channel_base": 512, "channel_max": 16}
NAMES = ["cat", "dog", "wild"]


def write_network(path, kind=StyleGAN3Generator, c_dim=0, channels=3, described=None, **more):
    torch.manual_seed(4)
    G = kind(z_dim=16, c_dim=c_dim, w_dim=16, img_channels=channels, **SIZES, **more)
    D = Discriminator(c_dim=c_dim, img_channels=channels, **SIZES)
    for parameter in G.parameters():  # noise strengths of 0 would hide the noise
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    G.mapping.w_avg.normal_()
    training_set = {"label_dim": c_dim, "class_names": NAMES[:c_dim]} | (described or {})
    save_snapshot(
        path,
        G=G, D=D, G_ema=G, augment_p=0.0, training_set=training_set, progress={"nimg": 0},
    )  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def G(folder):
    return sg3flow.load(write_network(folder / "plain.pkl"), device="cpu")


@pytest.fixture(scope="module")
def labeled(folder):
    return sg3flow.load(write_network(folder / "labeled.pkl", c_dim=3), device="cpu")


@pytest.fixture(scope="module")
def older(folder):
    network = write_network(folder / "older.pkl", StyleGAN2Generator)
    return sg3flow.load(network, device="cpu")


@pytest.fixture
def render(tmp_path):
    """Runs a render command and gives the content of the file that it writes."""

    def run(G, command, *arguments, file):
        given = [command, "--network", G.source, "--outdir", tmp_path, "--device", "cpu"]
        result = CliRunner().invoke(render_app, list(map(str, [*given, *arguments])))
        assert result.exit_code == 0, result.stderr
        return (tmp_path / file).read_bytes()

    return run


def png_of(image):
    """The file that a command would write for this image."""
    pixels = np.asarray(image)
    return png_bytes(pixels.reshape(*pixels.shape[:2], -1))


# Pictures


def test_a_picture_equals_that_of_the_command_byte_for_byte(G, render):
    assert png_of(G.image(2)) == render(G, "images", "--seeds", "2", file="seed0002.png")
    moved = G.image(5, psi=0.7, translate=(0.25, -0.1), rotate=30)
    options = ("--seeds", "5", "--trunc", "0.7", "--translate=0.25,-0.1", "--rotate", "30")
    assert png_of(moved) == render(G, "images", *options, file="seed0005.png")
    assert moved.tobytes() != G.image(5).tobytes()


def test_a_class_by_number_and_by_name(labeled, render):
    dog = labeled.image(2, class_="dog")
    file = render(labeled, "images", "--seeds", "2", "--class", "1", file="seed0002.png")
    assert png_of(dog) == png_of(labeled.image(2, class_=np.int64(1))) == file
    assert dog.tobytes() != labeled.image(2, class_=0).tobytes()


def test_noise_of_an_older_network(older, render):
    options = ("--seeds", "3", "--noise-mode", "random")
    file = render(older, "images", *options, file="seed0003.png")
    assert png_of(older.image(3, noise_mode="random")) == file
    assert older.image(3, noise_mode="none").tobytes() != older.image(3).tobytes()


def test_a_grid_equals_that_of_the_command(labeled, render):
    file = render(labeled, "grid", "--seeds", "1,7-9", "--columns", "2", file="grid.png")
    assert png_of(labeled.grid([1, 7, 8, 9], columns=2)) == file


def test_a_video_equals_that_of_the_command(G, render, tmp_path):
    options = ("--seeds", "0-3", "--grid", "2x1", "--w-frames", "3", "--fps", "10")
    file = render(G, "video", *options, file="interpolation.mp4")
    path = G.video(tmp_path / "own.mp4", range(4), grid=(2, 1), w_frames=3, fps=10)
    assert path == tmp_path / "own.mp4" and path.read_bytes() == file
    assert G.video(str(path), range(2), w_frames=2) == path  # our own is replaced
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 4


def test_images_are_those_of_the_seeds_in_their_order(G, labeled):
    one, other = G.images([3, 1], psi=0.5)
    assert one.tobytes() == G.image(3, psi=0.5).tobytes()
    assert other.tobytes() == G.image(1, psi=0.5).tobytes()
    in_turn = labeled.images(range(4))
    expected = [labeled.image(i, class_=i % 3) for i in range(4)]
    assert [image.tobytes() for image in in_turn] == [image.tobytes() for image in expected]
    assert labeled.images([4], class_="cat")[0].tobytes() == labeled.image(4, class_=0).tobytes()
    assert len(G.images()) == 8


def test_without_truncation_unless_asked(G, render):
    assert G.image(2).tobytes() == G.image(2, psi=1).tobytes() != G.image(2, psi=0.7).tobytes()
    assert G.image(1, psi=0).tobytes() == G.image(2, psi=0).tobytes()


def test_gray_images(folder):
    gray = sg3flow.load(write_network(folder / "gray.pkl", channels=1), device="cpu")
    assert gray.image(1).mode == "L" and gray.image(1).size == (16, 16)
    assert "16 px gray" in repr(gray)
    assert gray.grid(range(2)).mode == "RGB"


# w


def test_w_gives_the_picture_of_its_seed(G, labeled):
    w = G.w(3, psi=0.6)
    assert isinstance(w, np.ndarray) and w.dtype == np.float32
    assert w.shape == (G.num_ws, G.w_dim)
    assert G.from_w(w).tobytes() == G.image(3, psi=0.6).tobytes()
    for form in (w[None], w.tolist(), torch.from_numpy(w).requires_grad_()):
        assert G.from_w(form).tobytes() == G.from_w(w).tobytes()
    moved = G.from_w(w, translate=(0.1, 0), rotate=5)
    assert moved.tobytes() == G.image(3, psi=0.6, translate=(0.1, 0), rotate=5).tobytes()
    named = labeled.from_w(labeled.w(3, class_="wild"))
    assert named.tobytes() == labeled.image(3, class_=2).tobytes()


def test_psi_pulls_w_to_the_average(G):
    half = G.w_avg + 0.5 * (G.w(3) - G.w_avg)
    np.testing.assert_allclose(G.w(3, psi=0.5), half, rtol=1e-5, atol=1e-6)
    assert G.from_w(G.w_avg).tobytes() == G.image(9, psi=0).tobytes()


def test_truncation_of_the_first_layers(G, render):
    options = ("--seeds", "3", "--trunc", "0.5", "--truncation-cutoff", "4")
    file = render(G, "images", *options, file="seed0003.png")
    given = {"psi": 0.5, "truncation_cutoff": 4}
    assert png_of(G.image(3, **given)) == png_of(G.images([3], **given)[0]) == file
    assert G.from_w(G.w(3, **given)).tobytes() == G.image(3, **given).tobytes()
    assert G.grid([3], **given).tobytes() != G.grid([3], psi=0.5).tobytes()


def test_one_vector_serves_all_layers(G):
    w = G.w(3)
    w[:] = w[0]
    assert G.from_w(w[0]).tobytes() == G.from_w(w).tobytes()
    assert G.from_w(w[None, :1]).tobytes() == G.from_w(w).tobytes()


def test_what_w_gives_is_the_callers_own(G):
    before = G.image(3).tobytes()
    w, average = G.w(3), G.w_avg
    w += 1
    average += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        G.from_w(w)
    assert G.image(3).tobytes() == before and not np.array_equal(G.w_avg, average)


# Facts


def test_facts_and_repr(G, labeled, older, folder):
    assert (G.resolution, G.channels, G.num_ws, G.w_dim) == (16, 3, G.network.num_ws, 16)
    assert (G.config, older.config, G.device) == ("stylegan3-t", "stylegan2", "cpu")
    turning = {"conv_kernel": 1, "use_radial_filters": True}
    other = sg3flow.load(write_network(folder / "turning.pkl", **turning), device="cpu")
    assert other.config == "stylegan3-r"
    count = sum(parameter.numel() for parameter in G.network.parameters())
    for words in ("config stylegan3-t", "16 px", f"parameters {count:,}", "unconditional"):
        assert words in repr(G)
    assert "classes 3 (cat, dog, wild)" in repr(labeled) and "\n" not in repr(labeled)
    assert (labeled.num_classes, labeled.class_names) == (3, NAMES)
    assert (G.num_classes, G.class_names) == (0, [])


def test_repr_shows_no_secret(G):
    model = load_model(Path(G.source).as_uri() + "?key=secret", "cpu")
    assert "secret" not in repr(sg3flow.LoadedGenerator(model, "file:///somewhere?key=secret"))


def test_a_notebook_shows_facts_and_samples(labeled):
    page = labeled._repr_html_()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 8 and len(page) < 100_000
    first = Image.open(io.BytesIO(base64.b64decode(pictures[1])))
    assert first.tobytes() == labeled.image(1, class_=1).tobytes()
    assert "stylegan3-t" in page and "seed 1, dog" in page
    assert "http" not in page and "<script" not in page


def test_labels_that_are_vectors(folder):
    described = {"label_kind": "vectors", "sample_labels": [[0.5, -1.0, 2.0]]}
    path = write_network(folder / "vectors.pkl", c_dim=3, described=described)
    drawn = sg3flow.load(path, device="cpu")
    assert drawn.num_classes == 0 and "labels of 3 numbers" in repr(drawn)
    given = drawn.image(1, label=[0.5, -1, 2])
    assert given.tobytes() == drawn.images([1])[0].tobytes()
    assert given.tobytes() == drawn.image(1, label=np.array([0.5, -1, 2])).tobytes()
    for wrong in ({"class_": 1}, {"label": [1.0]}, {}):
        with pytest.raises(ConfigError):
            drawn.image(1, **wrong)


# Wrong arguments


WRONG = {
    "seed": [-1, 2**32, 1.5, "2", None, True, [1]],
    "psi": [3, -2.1, float("nan"), "1", None, True, 10**400],
    "translate": [0.1, (1,), (0, "x"), "ab", (float("inf"), 0), (0, 2000), None],
    "truncation_cutoff": [-1, 99, 1001, 1.5, "4", True],
    "rotate": ["90", float("nan"), 1e9, None],
    "noise_mode": ["loud", 3, None],
    "class_": [3, -1, "horse", 1.5, [1], True],
    "label": ["0.5", 3, [], ["a"], [float("nan")], [1e39]],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_wrong_argument_is_one_sentence(G, labeled, name, value):
    network = labeled if name in ("class_", "label") else G
    with pytest.raises(ConfigError) as caught:
        network.image(**{name: value})
    said = str(caught.value)
    assert "\n" not in said and len(said) < 300
    assert name.strip("_") in said or "class" in said or "noise mode" in said


def test_a_number_too_long_to_print(G):
    with pytest.raises(ConfigError, match=r"seed must be a whole number .* integer of 5001 digits"):
        G.image(10**5000)


@pytest.mark.parametrize("seeds", ["0-3", 5, None, [], [1, "2"], [-1], range(200_000), [[1]]])
def test_wrong_seeds(G, seeds):
    with pytest.raises(ConfigError, match="seed"):
        G.images(seeds)


@pytest.mark.parametrize(
    "w", [None, "w", [], [[1, 2]], np.zeros((2, 16, 16)), np.zeros(15), {"w": 1}, [["a"] * 16]]
)
def test_a_wrong_w(G, w):
    with pytest.raises(ConfigError, match=r"^w "):
        G.from_w(w)


def test_a_w_that_is_not_finite(G):
    with pytest.raises(ConfigError, match="not finite"):
        G.from_w(np.full(16, np.nan))


def test_a_class_is_asked_for_with_the_names(labeled, G):
    for method in (labeled.image, labeled.w):
        with pytest.raises(ConfigError, match=r"give class_, from 0 to 2 \(cat, dog, wild\)"):
            method(1)
    with pytest.raises(ConfigError, match=r"no class 'dgo' \(did you mean 'dog'\?\)"):
        labeled.image(1, class_="dgo")
    for class_ in (0, 5):
        with pytest.raises(ConfigError, match="unconditional"):
            G.image(1, class_=class_)
    with pytest.raises(
        ConfigError, match="class_ must be a whole number from 0 to 2 or a name, not"
    ):
        labeled.image(1, class_=3)
    with pytest.raises(ConfigError, match="not both"):
        labeled.image(1, class_=0, label=[1, 0, 0])


def test_only_stylegan3_moves(older):
    for moved in ({"rotate": 5}, {"translate": (0.1, 0)}):
        with pytest.raises(ConfigError, match="only StyleGAN3"):
            older.image(1, **moved)
    assert older.image(1, translate=(0, 0), rotate=0).size == (16, 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "a.gif"},
        {"path": 3},
        {"grid": (0, 1)},
        {"grid": (100, 100)},
        {"grid": 4},
        {"grid": "2x2"},
        {"grid": (3, 1)},
        {"w_frames": 0},
        {"fps": 1000},
        {"num_keyframes": -1},
        {"seeds": []},
    ],
)
def test_a_wrong_video(G, wrong, tmp_path):
    given = {"path": tmp_path / "a.mp4", "seeds": [0, 1], "w_frames": 1} | wrong
    with pytest.raises(ConfigError):
        G.video(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_video_replaces_no_foreign_file(G, tmp_path):
    path = tmp_path / "holiday.mp4"
    path.write_bytes(b"a film")
    with pytest.raises(DataError, match="is not replaced"):
        G.video(path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        G.video(tmp_path / "file" / "a.mp4", [0], w_frames=1)
    assert path.read_bytes() == b"a film"


@pytest.mark.parametrize(("source", "device"), [(3, "cpu"), (None, "cpu"), ("a.pkl", 3)])
def test_wrong_arguments_of_load(source, device):
    with pytest.raises(ConfigError, match="must be"):
        sg3flow.load(source, device)


def test_what_cannot_be_loaded(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no file"):
        sg3flow.load(tmp_path / "none.pkl")
    with pytest.raises(ConfigError, match="device must be one of"):
        sg3flow.load("starter", device="tpu")
    assert (
        issubclass(CheckpointError, sg3flow.Sg3flowError) and sg3flow.Sg3flowError is Sg3flowError
    )


def test_values_that_are_not_finite_name_the_network(folder):
    path = write_network(folder / "broken.pkl")
    broken = sg3flow.load(path, device="cpu")
    next(iter(broken.network.synthesis.parameters())).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"broken\.pkl: .*not finite"):
        broken.image(1)
    with pytest.raises(CheckpointError, match=r"broken\.pkl: .*not finite"):
        broken.from_w(broken.w_avg)
