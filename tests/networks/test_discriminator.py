import json
import math

import pytest
import torch

from sg3flow.networks import Discriminator
from sg3flow.networks.discriminator import DiscriminatorBlock, DiscriminatorEpilogue
from sg3flow.networks.layers import minibatch_std

SMALL = {"channel_base": 256, "channel_max": 16}


def build(c_dim=0, resolution=32, **options):
    torch.manual_seed(0)
    return Discriminator(c_dim, resolution, 3, **{**SMALL, **options})


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("resolution", [8, 32])
def test_rebuilds_from_plain_arguments_and_weights(c_dim, resolution):
    D = build(c_dim, resolution, epilogue_kwargs={"mbstd_group_size": 2})
    arguments = json.loads(json.dumps(D.init_kwargs))
    again = Discriminator(**arguments)
    again.load_state_dict(D.state_dict(), strict=True)
    img, c = torch.randn(4, 3, resolution, resolution), torch.eye(4)[:, :c_dim]
    logits = D(img, c)
    assert logits.shape == (4, 1) and logits.dtype == torch.float32
    assert torch.equal(logits, D(img, c))
    assert torch.equal(logits, again(img, c))


def test_labels_change_the_logits():
    D = build(3)
    img = torch.randn(4, 3, 32, 32)
    assert not torch.equal(D(img, torch.eye(4)[:, :3]), D(img, torch.eye(4)[:, :3].flip(1)))
    assert build(3, cmap_dim=7).b4.out.weight.shape == (7, 16)


@pytest.mark.parametrize("frozen", [0, 1, 4, 5])
def test_freezing_counts_layers_from_the_image(frozen):
    D = build(block_kwargs={"freeze_layers": frozen})
    order = [f"b32.{n}" for n in ("fromrgb", "conv0", "conv1", "skip")]
    order += [f"b{r}.{n}" for r in (16, 8) for n in ("conv0", "conv1", "skip")]
    parameters = {k.rsplit(".", 1)[0] for k, _ in D.named_parameters() if not k.startswith("b4")}
    assert parameters == set(order[frozen:])
    assert D.state_dict().keys() == build().state_dict().keys()


def test_groups_of_the_minibatch_deviation_are_spread_over_the_batch():
    x = torch.randn(8, 3, 4, 4)
    y = minibatch_std(x, group_size=4, num_channels=1)
    assert y.shape == (8, 4, 4, 4) and torch.equal(y[:, :3], x)
    for i in range(2):
        group = x[i::2]
        expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[i::2, 3], expected.expand(4, 4, 4))


def test_group_may_be_the_batch_or_be_cut_to_it():
    x = torch.randn(3, 2, 4, 4)
    whole = minibatch_std(x, group_size=None, num_channels=1)
    assert torch.equal(whole, minibatch_std(x, group_size=4, num_channels=1))
    with pytest.raises(ValueError, match="do not divide into groups of 2"):
        minibatch_std(x, group_size=2, num_channels=1)


def test_channels_of_the_minibatch_deviation_are_parts_of_the_features():
    x = torch.randn(4, 6, 2, 2)
    y = minibatch_std(x, group_size=4, num_channels=2)
    deviation = (x.var(dim=0, unbiased=False) + 1e-8).sqrt()
    for channel, part in enumerate((deviation[:3], deviation[3:])):
        torch.testing.assert_close(y[:, 6 + channel], part.mean().expand(4, 2, 2))


def test_a_block_is_the_mean_of_two_branches():
    """Each of its branches is scaled by the root of a half, so that the sum keeps its power."""
    torch.manual_seed(0)
    block = DiscriminatorBlock(4, 4, 6, 3, first_layer=0, use_fp16=False, conv_clamp=256)
    x = torch.randn(2, 4, 8, 8)
    expected = (block.conv1(block.conv0(x)) + block.skip(x)) * math.sqrt(0.5)
    assert expected.shape == (2, 6, 4, 4)
    torch.testing.assert_close(block(x), expected)


def test_the_last_block_projects_on_the_label():
    """Deviations of the batch, two layers, and the product with the embedded label."""
    torch.manual_seed(0)
    x = torch.randn(4, 6, 4, 4)
    last = DiscriminatorEpilogue(6, cmap_dim=5, conv_clamp=256, mbstd_group_size=2)
    assert (last.conv.activation, last.fc.activation, last.out.activation) == (
        "lrelu", "lrelu", "linear"
    )  # fmt: skip
    features = last.out(last.fc(last.conv(minibatch_std(x, 2, 1)).flatten(1)))
    cmap = torch.randn(4, 5)
    expected = (features * cmap).sum(dim=1, keepdim=True) / math.sqrt(5)
    torch.testing.assert_close(last(x, cmap), expected)
    torch.testing.assert_close(last(x, None), features)


def test_the_label_enters_by_eight_layers_of_its_own():
    D = build(3)
    assert (D.mapping.num_layers, D.mapping.w_dim, D.b4.cmap_dim) == (8, 16, 16)
    small = Discriminator(3, 32, 3, channel_base=64, channel_max=32)
    assert small.mapping.w_dim == 16  # the channels at 4x4
    img, c = torch.randn(4, 3, 32, 32), torch.eye(4)[:, :3]
    x = img
    for res in D.resolutions:
        x = D.get_submodule(f"b{res}")(x)
    torch.testing.assert_close(D(img, c), D.b4(x, D.mapping(None, c)))


def test_wrong_inputs_are_worded():
    D = build()
    with pytest.raises(ValueError, match="img must be"):
        D(torch.zeros(4, 3, 16, 16), None)


def test_half_precision_blocks_follow_the_resolution():
    flags = {res: build(num_fp16_res=2).get_submodule(f"b{res}").use_fp16 for res in (8, 16, 32)}
    assert flags == {8: False, 16: True, 32: True}
    assert not any(m.use_fp16 for n, m in build(num_fp16_res=0).named_children() if n != "b4")
