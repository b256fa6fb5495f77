import json
import math

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


def signal(a: ScheduleArguments, i: int) -> dict[str, float]:
    """The signal after layer i: cutoff and stopband grow geometrically until 2 layers before the
    end, and the sampling rate is the next power of two above twice the stopband (App. C)."""
    part = min(i / (a.num_layers - 2), 1)
    cutoff = 2 * (a.img_resolution / 2 / 2) ** part
    stopband = 2**2.1 * (a.img_resolution / 2 * 2**0.3 / 2**2.1) ** part
    rate = 2 ** math.ceil(math.log2(min(2 * stopband, a.img_resolution)))
    at_the_end = i >= a.num_layers - 1
    return {
        "cutoff": cutoff,
        "half_width": max(stopband, rate / 2) - cutoff,
        "sampling_rate": rate,
        "size": a.img_resolution if at_the_end else rate + 20,
        "channels": round(min(a.channel_base / 2 / cutoff, a.channel_max)),
    }


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
@pytest.mark.parametrize("resolution", [64, 256, 1024])
def test_layers_follow_the_paper(cfg, resolution):
    a = ScheduleArguments(resolution, 3, **(R if cfg[-1] == "r" else {}))
    schedule = plan_layers(a)
    assert (len(schedule.layers), schedule.num_ws) == (15, 16)
    first = signal(a, 0)
    assert (schedule.input_size, schedule.input_bandwidth) == (first["size"], 2)
    assert (schedule.input_channels, schedule.input_sampling_rate) == (first["channels"], 16)
    for i, plan in enumerate(schedule.layers):
        before, after, is_last = signal(a, max(i - 1, 0)), signal(a, i), i == 14
        for name in ("cutoff", "half_width", "sampling_rate", "size", "channels"):
            assert getattr(plan, f"in_{name}") == pytest.approx(before[name]), (i, name)
            expected = 3 if is_last and name == "channels" else after[name]
            assert getattr(plan, f"out_{name}") == pytest.approx(expected), (i, name)
        rates = (before["sampling_rate"], after["sampling_rate"])
        inner = max(rates) * (1 if is_last else 2)  # the nonlinearity runs at twice the rate
        assert (plan.up_factor, plan.down_factor) == (inner / rates[0], inner / rates[1])
        assert plan.up_taps == (1 if is_last else 6 * plan.up_factor)
        assert plan.down_taps == (1 if is_last else 6 * plan.down_factor)
        assert plan.is_critically_sampled == (i >= 12)
        assert plan.down_radial == (cfg == "stylegan3-r" and i < 12)


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
def test_padding_gives_the_size_and_keeps_the_center(cfg):
    kernel = 3 if cfg == "stylegan3-t" else 1
    for plan in plan_layers(ScheduleArguments(256, 3, **(R if kernel == 1 else {}))).layers:
        low, high = plan.padding[:2]
        assert plan.padding == (low, high, low, high)
        k = 1 if plan.is_torgb else kernel
        upsampled = (plan.in_size + k - 1) * plan.up_factor
        filtered = upsampled + low + high - (plan.up_taps - 1) - (plan.down_taps - 1)
        assert (filtered - 1) // plan.down_factor + 1 == plan.out_size
        # the zeros after the last sample are on one side only
        assert low - high - plan.up_factor in (0, -1)


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
