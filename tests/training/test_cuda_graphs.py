"""Sections of a step replayed from static tensors equal the eager step, bit for bit.

No GPU is needed: the stand-in of a graph runs the recorded function again on the tensors of the
recording, so that stale inputs, results that are overwritten, gradients that are added twice and
numbers that are drawn at the wrong time give other results.
"""

import contextlib
import copy
import types

import pytest
import torch
from graph_steps import (
    BATCH,
    RerunRecorder,
    assert_equal,
    make_parts,
    state_of,
    take_steps,
)

from sg3flow import distributed
from sg3flow.errors import ConfigError
from sg3flow.training.cuda_graphs import (
    CudaRecorder,
    GraphSections,
    NoiseTape,
)
from sg3flow.training.work_folder import capture_state, restore

RECORDERS = (None, RerunRecorder())


@pytest.mark.parametrize(
    ("cfg", "settings"),
    [
        ("stylegan3-t", {}),
        ("stylegan3-r", {"cond": False}),  # with the blur of its first images
        ("stylegan2", {}),  # style mixing, noise, path lengths
        ("stylegan2", {"aug": "noaug", "cond": False}),
        ("stylegan3-t", {"loss": "relativistic"}),  # D scores reals in both main phases
    ],
)
def test_replayed_sections_equal_the_eager_step(cfg, settings):
    eager, graphs = (make_parts(cfg, recorder, **settings) for recorder in RECORDERS)
    count = 5 if cfg == "stylegan2" else 4  # all phases, path lengths twice, and ADA
    for parts in (eager, graphs):
        take_steps(parts, range(count))
    assert_equal(state_of(graphs), state_of(eager))


def test_micro_batches_add_up_and_a_resumed_training_records_again():
    settings = {"batch_gpu": 2, "freezed": 1}
    eager, first, second = (
        make_parts("stylegan2", recorder, **settings) for recorder in (*RECORDERS, RECORDERS[1])
    )
    take_steps(eager, range(4), 2)
    take_steps(first, range(2), 2)
    restore(second, copy.deepcopy(capture_state(first, 2 * BATCH)))
    take_steps(second, range(2, 4), 2)
    assert_equal(state_of(second), state_of(eager))


def test_a_state_is_restored_into_recorded_sections():
    eager, graphs = (make_parts("stylegan3-t", recorder) for recorder in RECORDERS)
    before = copy.deepcopy(capture_state(graphs, 0))
    take_steps(graphs, range(2))
    restore(graphs, before)
    graphs.collector.clear()
    graphs.collector.load_state(before["stats"])
    for parts in (eager, graphs):
        take_steps(parts, range(2))
    assert_equal(state_of(graphs), state_of(eager))


def test_each_section_is_recorded_once():
    parts = make_parts("stylegan2", RerunRecorder(), batch_gpu=2)
    take_steps(parts, range(1), 2)
    recorded = list(parts.loss.sections._sections.values())
    names = [key[0] for key in parts.loss.sections._sections]
    assert names == ["Gmain/G", "Gmain/D", "Greg/G", "Dmain/G", "Dmain/D", "Dreg/D"]
    take_steps(parts, range(1, 3), 2)
    assert list(parts.loss.sections._sections.values()) == recorded


def scaled(factor: torch.nn.Module):
    return lambda x: (x.detach() + 1, x * factor.weight, x - 1)


def test_a_section_gives_gradients_and_results_of_its_inputs():
    layer = torch.nn.Linear(1, 1, bias=False)
    sections = GraphSections(RerunRecorder())
    for value in (2.0, 3.0):
        x = torch.full((1, 1), value, requires_grad=True)
        constant, y, _ = sections.run("scaled", scaled(layer), (x,), layer)
        assert float(y.detach()) == value * float(layer.weight.detach())
        assert float(constant) == value + 1 and not constant.requires_grad
        (y.sum() * 5).backward()
        assert float(x.grad) == 5 * float(layer.weight.detach())
    assert float(layer.weight.grad) == 5 * (2 + 3)
    # Without gradients there is no backward pass.
    layer.requires_grad_(False)
    _, y, _ = sections.run("fixed", scaled(layer), (torch.ones(1, 1),), layer)
    assert not y.requires_grad


def test_gradients_of_two_replays_do_not_share_memory():
    layer = torch.nn.Linear(2, 2, bias=False)
    sections = GraphSections(RerunRecorder())
    gradients = []
    for value in (1.0, 7.0):
        layer.weight.grad = None
        (y,) = sections.run("product", lambda x: (layer(x),), (torch.full((1, 2), value),), layer)
        y.sum().backward()
        gradients.append(layer.weight.grad)
    assert gradients[0].tolist() == [[1, 1], [1, 1]]
    assert gradients[1].tolist() == [[7, 7], [7, 7]]


def test_inputs_of_another_shape_are_another_recording():
    layer = torch.nn.Linear(1, 1, bias=False)
    sections = GraphSections(RerunRecorder())
    for count in (1, 2, 1):
        (y,) = sections.run("layer", lambda x: (layer(x),), (torch.ones(count, 1),), layer)
        assert y.shape == (count, 1)
    assert len(sections._sections) == 2


def test_noise_is_drawn_before_each_replay_in_the_order_of_the_section():
    tape = NoiseTape()

    def draws() -> list[torch.Tensor]:
        with tape.playing():
            return [distributed.randn([2]), distributed.randn([3])]

    torch.manual_seed(0)
    expected = [torch.randn([2]), torch.randn([3]), torch.randn([2]), torch.randn([3])]
    torch.manual_seed(0)
    first = [drawn.clone() for drawn in draws()]
    again = [drawn.clone() for drawn in draws()]  # the capture after the warm-up
    tape.draw_again()
    found = [*first, *draws()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_graph_is_captured_after_a_warm_up_in_another_stream(monkeypatch):
    """The calls of torch.cuda, in their order; nothing runs on a GPU."""
    calls = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            calls.append("replay")

    @contextlib.contextmanager
    def within(stream):
        calls.append(f"in {stream.name}")
        yield
        calls.append(f"out of {stream.name}")

    @contextlib.contextmanager
    def graph(found, pool, capture_error_mode):
        assert isinstance(found, Graph)
        calls.append(f"capture in {pool}, {capture_error_mode}")
        yield
        calls.append("captured")

    stand_in = types.SimpleNamespace(
        Stream=Stream,
        current_stream=lambda: Stream("main"),
        stream=within,
        CUDAGraph=Graph,
        graph=graph,
        graph_pool_handle=lambda: "a pool",
    )
    monkeypatch.setattr(torch, "cuda", stand_in)
    recorder = CudaRecorder()
    recorder.warm_up(lambda: calls.append("run"))
    assert calls == [
        "side waits for main", "in side", "run", "run", "run", "out of side", "main waits for side"
    ]  # fmt: skip
    calls.clear()
    result = torch.ones(1)
    recording = recorder.record(lambda: (result,), recorder.new_pool())
    recording.replay()
    assert recording.outputs[0] is result
    assert calls == ["capture in a pool, thread_local", "captured", "replay"]

    def refuse():
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with pytest.raises(ConfigError, match=r"cannot capture .*\(operation not permitted when .*\);"):
        recorder.record(refuse, None)
