import json

import pytest

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.layer_schedule import ScheduleArguments, plan_layers

SAME = {"torgb": "is_torgb", "fp16": "use_fp16", "critically_sampled": "is_critically_sampled"}
R = {
    "channel_base": 65536,
    "channel_max": 1024,
    "conv_kernel": 1,
    "use_radial_filters": True,
}


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
def test_matches_golden(golden, cfg, resolution):
    expected = json.loads((golden / "schedules.json").read_text())[f"{cfg}-{resolution}"]
    schedule = plan_layers(ScheduleArguments(resolution, 3, **(R if cfg[-1] == "r" else {})))
    assert schedule.num_ws == expected["num_ws"]
    assert schedule.input_size == expected["input"]["size"]
    assert schedule.input_sampling_rate == expected["input"]["sampling_rate"]
    assert schedule.input_bandwidth == expected["input"]["bandwidth"]
    assert len(schedule.layers) == len(expected["layers"])
    for plan, layer in zip(schedule.layers, expected["layers"], strict=True):
        for key, value in layer.items():
            found = getattr(plan, SAME.get(key, key))
            assert (list(found) if key == "padding" else found) == pytest.approx(value), key


def test_sixteen_pixels_are_enough():
    schedule = plan_layers(ScheduleArguments(16, 3))
    assert schedule.layers[-1].out_size == 16


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"img_resolution": 8}, "at least 16"),
        ({"img_resolution": 48}, "power of two"),
        ({"img_resolution": 64, "num_critical": 14}, "num_critical"),
        ({"img_resolution": 64, "first_cutoff": 9}, "no transition band"),
    ],
)
def test_an_impossible_schedule_is_worded(options, part):
    with pytest.raises(ValueError, match=part):
        plan_layers(ScheduleArguments(img_channels=3, **options))


def test_other_networks_word_their_limits():
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2Generator(8, 0, 8, 24, 3)
    with pytest.raises(ValueError, match="at least 8"):
        Discriminator(0, 4, 3)
    with pytest.raises(ValueError, match="'orig'"):
        StyleGAN2Generator(8, 0, 8, 32, 3, architecture="orig")
    with pytest.raises(ValueError, match="'skip'"):
        Discriminator(0, 32, 3, architecture="skip")
    with pytest.raises(TypeError, match="no_such_option"):
        StyleGAN3Generator(8, 0, 8, 32, 3, no_such_option=1)


@pytest.mark.parametrize(
    "options", [{"channel_base": 31}, {"channel_max": 0}, {"channel_base": -9}]
)
def test_every_layer_has_a_channel(options):
    with pytest.raises(ValueError, match=r"Discriminator: a layer would have .* channels"):
        Discriminator(0, 32, 3, **options)
    with pytest.raises(ValueError, match=r"StyleGAN2: a layer would have .* channels"):
        StyleGAN2Generator(8, 0, 8, 32, 3, **options)
    few = {**options, "channel_base": options.get("channel_base", 32) // 2}
    with pytest.raises(ValueError, match=r"StyleGAN3: a layer would have .* channels"):
        StyleGAN3Generator(8, 0, 8, 32, 3, **few)


@pytest.mark.parametrize("sizes", [(0, 0, 8), (-1, 3, 8), (8, -1, 8)])
def test_sizes_of_a_mapping_network_are_checked(sizes):
    with pytest.raises(ValueError, match="a mapping network needs an input"):
        StyleGAN2Generator(*sizes, 32, 3, channel_base=32)
