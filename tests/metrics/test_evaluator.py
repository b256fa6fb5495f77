import copy

import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics import Evaluator
from sg3flow.metrics.estimates import compare_results, error_of_difference
from sg3flow.metrics.evaluation import evaluate_snapshots
from sg3flow.metrics.features import inception, vgg
from sg3flow.precision import EXACT, Precision, computing, current

NAMES = ("fd_random20_full", "eqt8_frac", "eqr4")
CPU = torch.device("cpu")


@pytest.fixture
def evaluator(small_set):
    return Evaluator(small_set, NAMES, seed=0, batch=8, device=CPU)


def state_of(G):
    modes = [module.training for module in G.modules()]
    gradients = [p.requires_grad for p in G.parameters()]
    tensors = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    precision = torch.backends.cuda.matmul.fp32_precision
    return modes, gradients, tensors, torch.get_rng_state(), torch.is_grad_enabled(), precision


def assert_same_state(found, expected):
    assert found[:2] == expected[:2] and found[4:] == expected[4:]
    assert all(torch.equal(found[2][name], tensor) for name, tensor in expected[2].items())
    assert torch.equal(found[3], expected[3])


def test_a_network_in_memory_gives_what_its_snapshot_gives(
    evaluator, small_set, save_tiny, tiny_generator
):
    G = tiny_generator(seed=1)
    path = save_tiny(10, G)
    found = evaluator.measure(G, path.name, 10, "0" * 64)
    kept = evaluate_snapshots(path.parent, small_set, NAMES, seed=0, batch=8, device=CPU)
    assert [(r.metric, r.value) for r in found] == [(r.metric, r.value) for r in kept]
    assert [r.network_sha256 for r in found] == ["0" * 64] * 3


def test_networks_of_the_same_seeds_are_paired(small_set, tiny_generator):
    """A slightly changed network: the error of the difference is a small part of each error."""
    names = ("fd_random40_full", "kid_random40_full", "dc_random40_3_full", "mem_random40_full")
    evaluator = Evaluator(small_set, names, seed=0, batch=8, device=CPU)
    first = tiny_generator(seed=1)
    second = copy.deepcopy(first)
    for parameter in second.synthesis.parameters():
        parameter.data.mul_(1.001)
    results = [evaluator.measure(G, "now", 1, "0" * 64) for G in (first, first, second)]
    smooth = 0
    for once, again, other in zip(*results, strict=True):
        known = {each.error_terms: each.terms for each in (once, again, other)}
        same = compare_results(once.row(), again.row(), known)
        assert (same.gain, same.noise, same.how) == (0, 0, "paired")
        error, how = error_of_difference(once.row(), other.row(), known)
        assert how == "paired" and "terms" not in once.row()
        if once.standard_error and error:
            assert error < once.standard_error / 3, once.metric
            smooth += 1
    assert smooth >= 3


def test_images_and_features_are_computed_in_exact_float32(evaluator, tiny_generator):
    """Whatever precision the training has that the metrics interrupt."""
    G, seen = tiny_generator(), {}
    G.synthesis.register_forward_hook(lambda *_: seen.update(images=current()))
    evaluator.prepare()
    for name, extractor in evaluator._extractors.items():

        def watched(images, extractor=extractor):
            seen["features"] = current()
            return extractor(images)

        watched.num_features, watched.digest = extractor.num_features, extractor.digest
        watched.name, watched.resize = extractor.name, extractor.resize
        evaluator._extractors[name] = watched
    with computing(Precision(tf32=True, cudnn_benchmark=True)):
        evaluator.measure(G, "now", 1, "0" * 64)
    assert seen == {"images": EXACT, "features": EXACT}


def test_a_network_is_left_as_it_was(evaluator, tiny_generator):
    G = tiny_generator().train()
    G.synthesis.eval()
    next(G.mapping.parameters()).requires_grad_(False)
    before = state_of(G)
    for _ in range(2):
        evaluator.measure(G, "now", 1, "0" * 64)
        assert_same_state(state_of(G), before)
    bad = copy.deepcopy(G)
    for parameter in bad.synthesis.parameters():
        parameter.data.fill_(torch.nan)
    before = state_of(G)
    with pytest.raises(MetricError, match=r"now: .*not finite"):
        evaluator.measure(bad, "now", 1, "0" * 64)
    assert [module.training for module in bad.modules()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[3])


def train(G, steps, between):
    """A stand-in for training: random latents, Adam, moving averages in the buffers."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(G.parameters(), lr=0.01)
    for step in range(steps):
        img = G(torch.randn(4, G.z_dim), torch.zeros(4, 0), update_emas=True)
        optimizer.zero_grad(set_to_none=True)
        (img - 0.3).square().mean().backward()
        optimizer.step()
        between(step)
    return G.state_dict()


def test_training_is_the_same_to_the_bit_with_and_without(evaluator, tiny_generator):
    undisturbed = train(tiny_generator().train(), 4, lambda step: None)
    G = tiny_generator().train()
    values = []

    def measure(step):
        values.append(evaluator.measure(G, "now", step, "0" * 64)[0].value)

    measured = train(G, 4, measure)
    assert len(set(values)) == 4
    assert all(torch.equal(measured[name], tensor) for name, tensor in undisturbed.items())


def test_prepare_speaks_up_before_anything_is_computed(small_set, monkeypatch):
    monkeypatch.setattr(small_set, "image", None)  # no picture is to be read
    with pytest.raises(MetricError, match="unknown metric"):
        Evaluator(small_set, ("fd_random20_full", "fid"), seed=0, batch=8, device=CPU)
    for module, name in ((inception, "fid9_full"), (vgg, "pr9_3_full"), (vgg, "ppl2_wend")):
        for address in ("WEIGHTS_URL", "VGG_URL", "HEADS_URL"):
            if hasattr(module, address):
                monkeypatch.setattr(module, address, "file:///nowhere")
        names = ("fd_random20_full", name)
        with pytest.raises(MetricError, match=r"no weights of .* put the file at .* by hand"):
            Evaluator(small_set, names, seed=0, batch=8, device=CPU).prepare()


@pytest.mark.medium
def test_every_metric_of_trained_detectors(
    small_set, tiny_generator, monkeypatch, inception_state, vgg_state, lpips_heads
):
    """With weights by a rule: what comes out means nothing, but it comes out."""
    heads = {f"lin{i}.model.1.weight": head for i, head in enumerate(lpips_heads)}
    content = {
        inception.WEIGHTS_NAME: inception_state,
        vgg.VGG_NAME: vgg_state,
        vgg.HEADS_NAME: heads,
    }
    for module in (inception, vgg):
        monkeypatch.setattr(module, "load_weights", lambda url, name, *_: content[name])
    names = ("fid20_full", "kid12_full", "is20", "mem20_full", "ppl2_wend6")
    evaluator = Evaluator(pick(small_set, 12), names, seed=0, batch=20, device=CPU)
    found = evaluator.measure(tiny_generator(seed=5), "now", 1, "0" * 64)
    rows = {row.metric: row for row in found}
    outputs = ["fid20_full", "kid12_full", "is20", "mem20_full_authentic", "mem20_full_distance"]
    assert list(rows) == [*outputs, "ppl2_wend6"]
    assert all(row.standard_error is not None and row.error_rule for row in found)
    assert (rows["is20"].num_reference, rows["is20"].reference_sha256) == (None, None)
    assert rows["is20"].detector == "inception-v3-2015-12-05" and rows["is20"].higher_is_better
    assert rows["ppl2_wend6"].detector == "lpips-0.1-vgg16-torchvision"
    assert rows["ppl2_wend6"].value > 0 and not rows["ppl2_wend6"].higher_is_better
    assert rows["mem20_full_distance"].num_reference == 12


def pick(packed, count):
    """The first pictures of a set."""
    few = copy.copy(packed)
    few.num_images = count
    few.digest = f"{packed.digest}-{count}"
    return few


def test_references_are_prepared_once(evaluator, small_set, tiny_generator, monkeypatch):
    evaluator.prepare()
    monkeypatch.setattr(small_set, "image", None)
    evaluator.prepare()
    first = evaluator.measure(tiny_generator(), "a", None, "0" * 64)
    assert first == evaluator.measure(tiny_generator(), "a", None, "0" * 64)
