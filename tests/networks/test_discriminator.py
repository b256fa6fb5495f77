import json

import pytest
import torch

from sg3flow.networks import Discriminator
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


def test_wrong_inputs_are_worded():
    D = build()
    with pytest.raises(ValueError, match="img must be"):
        D(torch.zeros(4, 3, 16, 16), None)


def test_half_precision_blocks_follow_the_resolution():
    flags = {res: build(num_fp16_res=2).get_submodule(f"b{res}").use_fp16 for res in (8, 16, 32)}
    assert flags == {8: False, 16: True, 32: True}
    assert not any(m.use_fp16 for n, m in build(num_fp16_res=0).named_children() if n != "b4")
