import sys
from pathlib import Path

import torch

from sg3flow.networks import Discriminator
from sg3flow.training.training_run import format_summary, summarize

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from traffic import like_a_gpu


def test_rows_account_for_every_number(small_generator):
    G = small_generator("stylegan3-t")
    before = {k: v.clone() for k, v in G.state_dict().items()}
    rows = summarize(G, torch.zeros(2, 32), torch.zeros(2, 0))
    assert sum(r.num_parameters for r in rows) == sum(p.numel() for p in G.parameters())
    assert sum(r.num_buffers for r in rows) == sum(b.numel() for b in G.buffers())
    by_name = {r.name: r for r in rows}
    assert by_name["synthesis.L0_36_8"].output_shape == (2, 8, 36, 36)
    assert rows[-1].name == "StyleGAN3Generator" and rows[-1].output_shape == (2, 3, 32, 32)
    assert rows[-1].dtype == "float32"
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items())


def test_fused_layers_of_a_discriminator_have_rows():
    """As on a GPU, whose fused forms take several layers together."""
    D = Discriminator(0, 16, 3, channel_base=256, channel_max=16).to("meta")
    with like_a_gpu():
        rows = summarize(D, torch.zeros(4, 3, 16, 16, device="meta"), torch.zeros(4, 0))
    assert sum(r.num_parameters for r in rows) == sum(p.numel() for p in D.parameters())
    assert {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip"} <= {r.name for r in rows}


def test_table_is_aligned_and_totalled(small_generator):
    G = small_generator("stylegan2")
    rows = summarize(G, torch.zeros(1, 32), torch.zeros(1, 0))
    lines = format_summary(rows).splitlines()
    assert lines[0].split() == ["layer", "parameters", "buffers", "output", "dtype"]
    assert len(lines) == len(rows) + 4
    total = sum(p.numel() for p in G.parameters())
    assert lines[-1].split()[:2] == ["total", str(total)]
