"""Blends and means of networks."""

import dataclasses

import pytest
import torch

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.loading import package_generator
from sg3flow.errors import CheckpointError, ConfigError, DataError
from sg3flow.latent.blending import (
    are_related,
    blend_by_layer,
    blend_by_weight,
    find_layer,
    layer_names,
    mean_of,
)
from sg3flow.latent.combined_networks import (
    ROLES,
    check_dest,
    joined_training_set,
    read_parent,
    weighted_sum,
    write_combination,
)
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.registry.model_card import Lineage, ModelFacts, model_card
from sg3flow.runs.best_snapshot import BestSnapshot

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 16}
SMALL = {"z_dim": 8, "w_dim": 8, **SIZES}


def described(name, c_dim):
    return {"name": name, "digest": f"digest of {name}", "num_images": 9, "licence": name.upper(),
            "label_dim": c_dim, "resolution": 16, "channels": 3}  # fmt: skip


def write_snapshot(path, seed, cfg="stylegan3-t", c_dim=0, **changes):
    """A snapshot in which every tensor depends on the seed."""
    extra = {} if cfg == "stylegan2" else {"num_layers": 5}
    kind = StyleGAN2Generator if cfg == "stylegan2" else StyleGAN3Generator
    settings = {**SMALL, "c_dim": c_dim, **extra, **changes}
    networks = {"G": kind(**settings), "G_ema": kind(**settings)}
    networks["D"] = Discriminator(c_dim=c_dim, **{key: settings[key] for key in SIZES})
    torch.manual_seed(seed)
    for network in networks.values():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data += torch.rand_like(tensor) * 0.1
    save_snapshot(
        path,
        **networks,
        augment_p=seed / 1000,
        training_set=described(path.stem, c_dim),
        progress={"nimg": 1000 * seed},
    )
    return read_parent(str(path))


@pytest.fixture
def pair(tmp_path):
    def make(cfg="stylegan3-t", c_dim=0):
        names = (tmp_path / "a.pkl", tmp_path / "b.pkl")
        return [write_snapshot(path, seed, cfg, c_dim) for seed, path in enumerate(names, 1)]

    return make


def state(network):
    return network.state_dict()


def assert_bit_equal(found, expected):
    found, expected = state(found), state(expected)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.int32), tensor.view(torch.int32)), name


@pytest.mark.parametrize(("cfg", "c_dim"), [("stylegan3-t", 0), ("stylegan2", 2)])
def test_the_ends_are_the_parents_bit_for_bit(pair, tmp_path, cfg, c_dim):
    first, second = pair(cfg, c_dim)
    last = layer_names(first.G_ema)[-1]
    ends = [
        (blend_by_layer(first, second, last), first),
        (blend_by_layer(first, second, "none"), second),
        (blend_by_weight(first, second, 0), first),
        (blend_by_weight(first, second, 1), second),
    ]
    for result, parent in ends:
        path = tmp_path / "out.pkl"
        write_combination(result, path)
        loaded = load_networks(path)
        for role in ROLES:
            assert_bit_equal(getattr(loaded, role), parent.networks[role])
        assert float(loaded.augment_pipe.p) == pytest.approx(parent.augment_p)


def test_a_negative_zero_stays_one(pair):
    first, second = pair()
    first.G_ema.synthesis.L0_36_16.bias.data[0] = -0.0
    assert_bit_equal(blend_by_weight(first, second, 0).networks["G_ema"], first.G_ema)


@pytest.mark.parametrize(("cfg", "layer"), [("stylegan3-t", "L2"), ("stylegan2", "b8")])
def test_each_layer_is_wholly_of_one_parent(pair, cfg, layer):
    first, second = pair(cfg, 2)
    names = layer_names(first.G_ema)
    place = find_layer(first.G_ema, layer)
    assert 0 < place < len(names) - 1 and names[place].startswith(layer)
    for role in ("G", "G_ema"):
        result = state(blend_by_layer(first, second, layer).networks[role])
        ours, theirs = (state(parent.networks[role]) for parent in (first, second))
        for name, tensor in result.items():
            part = name.split(".")[1]
            is_first = name.startswith("mapping") or names.index(part) <= place
            assert torch.equal(tensor, (ours if is_first else theirs)[name]), name
            assert not torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("mapping", ["a", "b", ""])
def test_the_mapping_network_is_that_of_the_option(pair, mapping):
    first, second = pair("stylegan3-t", 2)
    result = blend_by_layer(first, second, "L2", mapping)
    owner = second if mapping == "b" else first
    assert torch.equal(result.networks["G_ema"].mapping.w_avg, owner.G_ema.mapping.w_avg)
    assert result.made_by["mapping"] == (mapping or "a")
    assert result.made_by["up_to"] == "L2_36_16"
    assert_bit_equal(result.networks["D"], second.networks["D"])
    assert blend_by_layer(first, second, "none", "a").made_by["mapping"] == "a"


def test_a_weight_is_the_share_of_the_second(pair):
    first, second = pair()
    for role in ROLES:
        found = state(blend_by_weight(first, second, 0.25).networks[role])
        ours, theirs = (state(parent.networks[role]) for parent in (first, second))
        for name, tensor in found.items():
            expected = 0.75 * ours[name].double() + 0.25 * theirs[name].double()
            assert torch.equal(tensor, expected.float()), name


def test_layers_have_names_and_numbers(pair):
    first, _ = pair()
    names = layer_names(first.G_ema)
    assert names[0] == "input" and len(names) == 7
    assert [find_layer(first.G_ema, name) for name in names] == list(range(7))
    assert find_layer(first.G_ema, "L2") == find_layer(first.G_ema, "3") == 3
    assert find_layer(first.G_ema, "none") == -1
    for wrong in ("", "7", "-1", "L", "L2_", "x" * 500, "²", "9" * 5000):
        with pytest.raises(ConfigError, match=r"the layers are 0 input, 1 L0_36_16") as caught:
            find_layer(first.G_ema, wrong)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("weight", "greater"), [(0.3, 0), (0.7, 1)])
def test_what_cannot_be_mixed_is_that_of_the_greater_weight(tmp_path, weight, greater):
    """D of another architecture, and the classes and other facts of the training set."""
    parents = [write_snapshot(tmp_path / f"{n}.pkl", i, c_dim=2) for i, n in enumerate("ab", 1)]
    other = Discriminator(c_dim=2, **{**SIZES, "channel_max": 8})
    parents[1] = dataclasses.replace(parents[1], networks={**parents[1].networks, "D": other})
    names = (["cat", "dog"], ["katt", "hund"])
    parents = [
        dataclasses.replace(each, training_set={**each.training_set, "class_names": classes})
        for each, classes in zip(parents, names, strict=True)
    ]
    result = blend_by_weight(*parents, weight)
    assert result.networks["D"] is parents[greater].networks["D"]
    assert result.training_set["class_names"] == names[greater]


def test_a_mean_is_that_of_all(tmp_path):
    parents = [write_snapshot(tmp_path / f"{seed}.pkl", seed) for seed in (1, 2, 4)]
    result = mean_of(parents)
    for role in ROLES:
        found = state(result.networks[role])
        for name, tensor in found.items():
            each = torch.stack([state(parent.networks[role])[name] for parent in parents])
            torch.testing.assert_close(tensor, each.mean(0))
    assert result.augment_p == pytest.approx(7 / 3000)
    same = mean_of([parents[0]] * 3)
    assert_bit_equal(same.networks["G_ema"], parents[0].G_ema)
    with pytest.raises(ConfigError, match="at least two networks, not 1"):
        mean_of(parents[:1])


def test_a_sum_leaves_out_what_has_no_weight():
    bad = {"x": torch.tensor([float("nan")])}
    good = {"x": torch.tensor([3.0])}
    assert weighted_sum([bad, good], [0.0, 2.0])["x"].tolist() == [6.0]
    assert weighted_sum([good, good], [2.0, -1.0])["x"].tolist() == [3.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_resolution": 32}, "img_resolution is 16 in the first and 32 in the second"),
        ({"c_dim": 2}, "c_dim is 0 in the first and 2"),
        ({"channel_max": 8}, "channel_max is 16 in the first and 8"),
        ({"conv_clamp": 128}, "conv_clamp is 256 in the first and 128"),
        ({"mapping_kwargs": {"num_layers": 3}}, "mapping num_layers is 2 in the first and 3"),
        ({"cfg": "stylegan2"}, "the class is StyleGAN3Generator in the first"),
    ],
)
def test_other_architectures_are_one_sentence(tmp_path, changes, words):
    first = write_snapshot(tmp_path / "a.pkl", 1)
    second = write_snapshot(tmp_path / "b.pkl", 2, **changes)
    for blend in (
        lambda: blend_by_layer(first, second, "none"),
        lambda: blend_by_weight(first, second, 0.5),
        lambda: mean_of([first, second]),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            blend()
        assert "\n" not in str(caught.value) and first.address in str(caught.value)


def test_defaults_that_one_file_leaves_out_do_not_differ(tmp_path):
    first = write_snapshot(tmp_path / "a.pkl", 1)
    same = {"conv_clamp": 256, "mapping_kwargs": {"num_layers": 2, "w_avg_beta": 0.998}}
    second = write_snapshot(tmp_path / "b.pkl", 2, **same, num_fp16_res=0, half_dtype="bfloat16")
    assert blend_by_weight(first, second, 0.5).networks["G"] is not None


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_is_refused(pair, weight):
    with pytest.raises(ConfigError, match="weight must be from 0"):
        blend_by_weight(*pair(), weight)


def test_the_result_says_where_it_comes_from(pair, tmp_path):
    first, second = pair("stylegan3-t", 2)
    write_combination(blend_by_layer(first, second, "L2"), tmp_path / "c.pkl")
    loaded = load_networks(tmp_path / "c.pkl")
    assert loaded.progress["nimg"] == 2000
    assert loaded.progress["made_by"]["kind"] == "blend by layer"
    found = loaded.progress["parents"]
    assert [each["source"] for each in found] == ["a.pkl", "b.pkl"]
    assert [each["sha256"] for each in found] == [first.sha256, second.sha256]
    assert [each["nimg"] for each in found] == [1000, 2000]
    assert loaded.training_set["name"] == "a + b" and loaded.training_set["licence"] == "A; B"
    assert loaded.training_set["num_images"] == 18 and loaded.training_set["digest"] == ""
    assert loaded.training_set["made_from"] == (
        f"blend by layer (up_to L2_36_16, mapping a) of a.pkl (SHA-256 {first.sha256[:12]}), "
        f"b.pkl (SHA-256 {second.sha256[:12]})"
    )
    again = read_parent(str(tmp_path / "c.pkl"))
    assert [each["source"] for each in again.record()["parents"]] == ["a.pkl", "b.pkl"]


def test_the_model_card_names_the_parents(pair, tmp_path):
    write_combination(blend_by_weight(*pair(), 0.5), tmp_path / "c.pkl")
    described = read_parent(str(tmp_path / "c.pkl")).training_set
    row = {"metric": "fid50k_full", "value": 1.0, "num_generated": 50_000}
    best = BestSnapshot("c.pkl", 2, "fid50k_full", 1.0, {"fid50k_full": row})
    lineage = Lineage("run", "model")
    for training_set in (described, {}):
        facts = ModelFacts("StyleGAN3-T", "cats", training_set, "ab" * 32)
        card = model_card("name", "1", best, facts, lineage)
        assert ("blend by weight (weight 0.5) of a.pkl (SHA-256" in card) is bool(training_set)


def test_one_training_set_stays_as_it_is(pair):
    first, second = pair()
    second = dataclasses.replace(second, training_set=first.training_set)
    assert joined_training_set(first, [second]) == first.training_set
    assert joined_training_set(first, []) == first.training_set


def test_registered_models_have_no_discriminator(pair, tmp_path):
    models = []
    for number, parent in enumerate(pair()):
        folder = tmp_path / f"model{number}" / "artifacts"
        folder.mkdir(parents=True)
        package_generator(parent.G_ema, folder, training_set={}, metrics={}, snapshot_sha256="ab")
        models.append(read_parent(str(folder.parent)))
    result = blend_by_weight(*models, 0.5)
    with pytest.raises(CheckpointError, match=r"a snapshot needs a discriminator.*\.safetensors"):
        write_combination(result, tmp_path / "c.pkl")
    assert not (tmp_path / "c.pkl").exists()
    write_combination(result, tmp_path / "c.safetensors")
    assert_bit_equal(load_networks(tmp_path / "c.safetensors").G_ema, result.networks["G_ema"])


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan2"])
def test_whether_two_networks_are_related(pair, cfg):
    first, second = pair(cfg)
    assert are_related(first, first) and not are_related(first, second)


def test_networks_without_noise_maps_have_nothing_that_tells(tmp_path):
    for seed in (1, 2):
        write_snapshot(tmp_path / f"{seed}.pkl", seed, "stylegan2", use_noise=False)
    assert are_related(*(read_parent(str(tmp_path / f"{seed}.pkl")) for seed in (1, 2)))


def test_nothing_else_is_replaced(tmp_path):
    other = tmp_path / "other.pkl"
    other.write_bytes(b"x")
    with pytest.raises(DataError, match="is not a blend or an average made by sg3flow"):
        check_dest(other)
    with pytest.raises(ConfigError, match=r"OUT must end in .pkl"):
        check_dest(tmp_path / "a.zip")
    check_dest(tmp_path / "new.safetensors")


@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors"])
def test_a_snapshot_of_a_training_is_not_replaced(tmp_path, name):
    """A forgotten OUT makes the last SOURCE the OUT."""
    write_snapshot(tmp_path / "trained.pkl", 1)
    with pytest.raises(DataError, match="is not a blend or an average"):
        check_dest(tmp_path / "trained.pkl")
    parent = read_parent(str(tmp_path / "trained.pkl"))
    write_combination(blend_by_weight(parent, parent, 0.5), tmp_path / name)
    check_dest(tmp_path / name)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    G = StyleGAN3Generator(**SMALL, c_dim=0, num_layers=5)
    D = Discriminator(c_dim=0, **SIZES)
    G.mapping.fc0.bias.data[0] = float("nan")
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0.0, training_set={}, progress={})
    with pytest.raises(CheckpointError, match=r"mapping\.fc0\.bias has values that are not finite"):
        read_parent(str(path))
