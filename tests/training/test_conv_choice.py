"""The choice of forms by times that a stand-in for a GPU's clock gives; convolutions are real."""

import contextlib
import functools
import json
import logging
import types
from pathlib import Path

import pytest
import torch
from joined_processes import results_of

from sg3flow.config import TrainConfig
from sg3flow.errors import ConfigError
from sg3flow.files import write_json
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator
from sg3flow.ops import conv_forms, modulated_conv2d
from sg3flow.ops.conv_forms import (
    FORMS,
    ConvLayer,
    ModulatedLayer,
    ProductLayer,
    seen_layers,
    use_forms,
)
from sg3flow.precision import Precision, computing
from sg3flow.runs import reproduce as reproduction
from sg3flow.runs.code_state import given_values
from sg3flow.runs.run_folder import OPTIONS, describe_run, read_provenance, snapshot_name
from sg3flow.runs.snapshot_retention import Retention
from sg3flow.runs.worktree import Worktree, read_record
from sg3flow.settings import state_root
from sg3flow.training import conv_choice, training_run
from sg3flow.training.assembly import select
from sg3flow.training.batch_size_finder import MemorySettings
from sg3flow.training.conv_choice import FormMeter, cuda_timer, run_networks, settle_forms
from sg3flow.training.job import _check_device, deciding_settings, prepare
from sg3flow.training.loop import Clock, LoopSettings, TrainingLoop
from sg3flow.training.notification import Notifier
from sg3flow.training.work_folder import open_run_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def pure_ops(monkeypatch):
    """Without compiled kernels, so that every convolution is one of torch; nothing chosen."""
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    use_forms({})
    yield
    use_forms({})


@pytest.fixture
def like_a_gpu(monkeypatch):
    monkeypatch.setattr(conv_choice, "has_choice", lambda device: True)


class FakeClock:
    """Milliseconds by the name of a form, 10 for others; it runs what it is asked to time."""

    def __init__(self, **times: float | Exception):
        self.times = {name.replace("_", "-"): time for name, time in times.items()}
        self.asked: list[str] = []
        self.groups: dict[str, set[int]] = {}  # of the convolutions within modulated ones

    def __call__(self, run: functools.partial) -> float:
        with seen_layers() as seen:
            run()
        (name,) = run.args[-1:]
        self.groups[name] = {each.groups for each in seen if isinstance(each, ConvLayer)}
        self.asked.append(name)
        time = self.times.get(name, 10.0)
        if isinstance(time, Exception):
            raise time
        return time


def conv(inputs: int = 9) -> ConvLayer:
    x, w = (2, inputs, 4, 4), (8, inputs, 3, 3)
    return ConvLayer(x, w, 1, (1, 1), 1, False, ("cpu", torch.float32))


def modulated() -> ModulatedLayer:
    return ModulatedLayer((2, 9, 4, 4), (5, 9, 3, 3), 1, 1, ("cpu", torch.float32))


def test_the_fastest_form_is_chosen_if_it_is_clearly_faster():
    def chosen(**times):
        return FormMeter(CPU, FakeClock(**times)).measure([conv()])[conv()].form

    assert chosen() == "nchw"
    assert chosen(nhwc=5.0) == "nhwc"
    assert chosen(nhwc=5.0, nhwc_padded=4.0) == "nhwc-padded"
    assert chosen(nchw_padded=9.6) == "nchw"  # 4 % may be chance
    assert chosen(nchw_padded=9.5) == "nchw-padded"


def test_aligned_channels_are_not_padded():
    clock = FakeClock(nchw_padded=1.0)
    assert FormMeter(CPU, clock).measure([conv(8)])[conv(8)].form == "nchw"
    assert clock.asked == ["nchw", "nhwc"]


def test_a_form_that_fails_is_not_chosen(caplog):
    clock = FakeClock(nhwc=RuntimeError("out of memory"), nchw_padded=5.0)
    with caplog.at_level(logging.WARNING):
        found = FormMeter(CPU, clock).measure([conv()])[conv()]
    assert found.form == "nchw-padded" and "nhwc" not in found.ms
    assert "conv x2x9x4x4 w8x9x3x3" in caplog.text and "out of memory" in caplog.text


def test_modulated_layers_are_compared_with_the_best_forms_within():
    clock = FakeClock(grouped=10.0, shared=7.0, nhwc=3.0)
    chosen = FormMeter(CPU, clock).measure([modulated()])
    names = {str(layer): found.form for layer, found in chosen.items()}
    assert names == {
        "conv x1x18x4x4 w10x9x3x3 stride1 pad1x1 groups2 float32": "nhwc",
        "conv x2x9x4x4 w5x9x3x3 stride1 pad1x1 groups1 float32": "nhwc",
        "modulated x2x9x4x4 w5x9x3x3 pad1 up1 float32": "shared",
    }
    assert clock.asked == [*FORMS, *FORMS, "grouped", "shared"]
    assert clock.groups["grouped"] == {2} and clock.groups["shared"] == {1}
    assert conv_forms.chosen_per_sample(*tensors(), 1, 1) is None  # nothing is in use yet


def tensors():
    return torch.randn(2, 9, 4, 4), torch.randn(5, 9, 3, 3)


def test_products_of_unaligned_matrices_may_be_padded():
    place = ("cpu", torch.float32)
    odd, even = (ProductLayer((2, m, 8), (2, 8, 4), place) for m in (5, 8))
    clock = FakeClock(nchw_padded=5.0)
    chosen = FormMeter(CPU, clock).measure([odd, even])
    assert (chosen[odd].form, chosen[even].form) == ("nchw-padded", "nchw")
    assert clock.asked == ["nchw", "nchw-padded"]
    # With k = 1, weights of each sample are such a product.
    layer = ModulatedLayer((2, 9, 4, 4), (5, 9, 1, 1), 0, 1, place)
    chosen = FormMeter(CPU, FakeClock(nchw_padded=5.0)).measure([layer])
    assert {str(each).partition(" ")[0] for each in chosen} == {"product", "conv", "modulated"}


def test_what_was_measured_is_not_measured_again():
    first = FormMeter(CPU, FakeClock(nhwc=5.0))
    first.measure([conv(), conv(), modulated()])
    clock = FakeClock(nchw_padded=1.0)
    second = FormMeter(CPU, clock, first.measured)
    assert second.measure([conv(), modulated()]) == first.chosen and clock.asked == []


def test_a_measurement_shifts_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    FormMeter(CPU, FakeClock()).measure([conv(), modulated()])
    assert torch.equal(torch.randn(3), expected)


def settle(tmp_path, timer, name="training", setting="auto"):
    layers = tensors()

    def run():
        modulated_conv2d(*layers, torch.ones(2, 9), padding=1, per_sample=None)

    kept = tmp_path / name / "conv-forms.json"
    kept.parent.mkdir(exist_ok=True)
    return settle_forms(
        setting, CPU, run, kept=kept, memory=tmp_path / "cache" / "conv-forms.json", timer=timer
    )


def forms_of(record) -> dict[str, str]:
    return {row["name"].partition(" ")[0]: row["form"] for row in record["layers"]}


def test_a_choice_is_read_as_it_was_written():
    place = ("cpu", torch.float16)
    layers = [conv(), modulated(), ProductLayer((2, 5, 8), (2, 8, 4), place)]
    for layer in layers:
        values = json.loads(json.dumps(conv_choice._values_of(layer)))
        assert conv_choice._layer_of(values, CPU) == layer


def test_a_training_uses_keeps_and_records_its_choice(like_a_gpu, tmp_path, caplog):
    record = settle(tmp_path, FakeClock(shared=2.0, nhwc=3.0))
    assert record["setting"] == "auto"
    assert forms_of(record) == {"conv": "nhwc", "modulated": "shared"}
    assert conv_forms.chosen_per_sample(*tensors(), 1, 1) is False
    # The same training resumes with it, whatever a measurement would say now.
    use_forms({})
    (tmp_path / "cache" / "conv-forms.json").unlink()
    clock = FakeClock(grouped=1.0)
    assert settle(tmp_path, clock) == record and clock.asked == []
    assert conv_forms.chosen_per_sample(*tensors(), 1, 1) is False
    # A damaged file is measured again, and says so.
    (tmp_path / "training" / "conv-forms.json").write_text('[{"layer": 3}]')
    assert forms_of(settle(tmp_path, clock))["modulated"] == "grouped"
    assert clock.asked and "is damaged" in caplog.text


def test_another_training_remembers_what_was_measured_on_this_card(
    like_a_gpu, tmp_path, monkeypatch
):
    monkeypatch.setattr(conv_choice, "machine_key", lambda device: "one")
    first, clock = settle(tmp_path, FakeClock(shared=2.0)), FakeClock(grouped=1.0)
    assert settle(tmp_path, clock, "second") == first and clock.asked == []
    monkeypatch.setattr(conv_choice, "machine_key", lambda device: "two")
    assert forms_of(settle(tmp_path, clock, "third"))["modulated"] == "grouped" and clock.asked
    content = json.loads((tmp_path / "cache" / "conv-forms.json").read_text())
    assert set(content) == {"one", "two"} and content["one"].keys() == content["two"].keys()
    # A cache that is no JSON, or cannot be written, costs a measurement and nothing else.
    (tmp_path / "cache" / "conv-forms.json").write_text("{")
    assert forms_of(settle(tmp_path, FakeClock(shared=2.0), "fourth"))["modulated"] == "shared"
    (tmp_path / "cache" / "conv-forms.json").unlink()
    (tmp_path / "cache" / "conv-forms.lock").unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("in the way")
    assert forms_of(settle(tmp_path, FakeClock(shared=2.0), "fifth"))["modulated"] == "shared"


def test_a_machine_is_its_card_driver_and_libraries(monkeypatch):
    card = types.SimpleNamespace(name="A card", multi_processor_count=7)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    key = json.loads(conv_choice.machine_key(torch.device("cuda", 0)))
    assert (key["card"], key["processors"], key["torch"]) == ("A card", 7, torch.__version__)
    assert {"cuda", "cudnn", "driver", "tf32", "benchmark"} <= key.keys()
    for tf32 in (False, True):
        with computing(Precision(tf32=tf32)):
            assert json.loads(conv_choice.machine_key(torch.device("cuda", 0)))["tf32"] is tf32


def test_without_measuring_one_form_holds_for_all(like_a_gpu, tmp_path):
    def fail(run):
        pytest.fail("measured")

    record = settle(tmp_path, fail, setting="shared")
    assert record == {"setting": "shared", "layers": []}
    on_gpu = [t.to("meta") for t in tensors()]
    assert conv_forms.chosen_per_sample(*on_gpu, 1, 1) is False
    settle(tmp_path, fail, setting="grouped")
    assert conv_forms.chosen_per_sample(*on_gpu, 1, 1) is True
    assert not (tmp_path / "training" / "conv-forms.json").exists()


def test_on_a_cpu_nothing_is_measured_and_another_form_is_refused(tmp_path):
    assert settle(tmp_path, None) == {}
    config = TrainConfig(cfg="stylegan3-t", gpus=1, batch=4, gamma=1.0, conv_form="shared")
    with pytest.raises(ConfigError, match=r"train.conv_form shared: the device is cpu"):
        _check_device(CPU, config)
    config = TrainConfig(cfg="stylegan3-t", gpus=1, batch=4, gamma=1.0, cuda_graphs=True)
    with pytest.raises(ConfigError, match=r"train.cuda_graphs: the device is cpu"):
        _check_device(CPU, config)


def test_only_another_form_than_auto_is_another_training():
    def deciding(**settings):
        config = TrainConfig(cfg="stylegan3-t", gpus=1, batch=4, gamma=1.0, **settings)
        return deciding_settings(given_values(config))

    assert deciding() == deciding(conv_form="auto")
    assert deciding(conv_form="shared") == deciding() | {"conv_form": "shared"}
    assert deciding(cuda_graphs=True) == deciding() | {"cuda_graphs": True}


def test_every_layer_of_the_networks_is_measured():
    shape = {"img_resolution": 16, "img_channels": 3, "channel_base": 128, "channel_max": 4}
    D = Discriminator(c_dim=2, **shape, epilogue_kwargs={"mbstd_group_size": 2})
    for G_type, count in ((StyleGAN3Generator, 2), (StyleGAN2Generator, 8)):  # equal ones are one
        G = G_type(z_dim=8, c_dim=2, w_dim=8, **shape)
        before = {name: value.clone() for name, value in G.state_dict().items()}
        torch.manual_seed(0)
        expected = torch.randn(3)
        torch.manual_seed(0)
        with seen_layers() as seen:
            run_networks(G, D, 2, [1])
        assert torch.equal(torch.randn(3), expected)
        assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
        found = [s.x[0] for s in seen if isinstance(s, ModulatedLayer)]
        assert (found.count(2), found.count(1)) == (count, count)
        convs = [s for s in seen if isinstance(s, ConvLayer) and s.groups == 1 and s.x[0] == 2]
        assert len(convs) >= 5  # of D


def test_a_time_is_the_median_between_events(monkeypatch):
    calls = []
    now = iter([0, 5, 0, 1, 0, 3, 0, 100, 0, 2, 0, 4, 0, 6])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(now)
            calls.append("record")

        def synchronize(self):
            calls.append("synchronize")

        def elapsed_time(self, end):
            return float(end.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert cuda_timer(lambda: calls.append("run")) == 4
    assert calls == ["run"] * 3 + ["record", "run", "record", "synchronize"] * 7


@pytest.fixture
def start(like_a_gpu, tiny_set, tiny_config, monkeypatch, tmp_path):
    """Starts the tiny training by a clock, without a step, and gives its run folder."""
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))

    def run(clock: FakeClock) -> Path:
        settle = functools.partial(settle_forms, timer=clock)
        monkeypatch.setattr(training_run, "settle_forms", settle)
        job = prepare(tiny_config, tiny_set)
        folder = open_run_folder(state_root(), job.key, job.final_nimg)
        with contextlib.closing(folder):
            write_json(folder.work / OPTIONS, job.options())
            describe_run(folder.work, job.description())
            recording = training_run._Recording(
                folder, Notifier("", folder.work), Retention(), None
            )
            training_run._assemble(job, CPU, recording, lambda *_: None)
        return folder.work

    return run


def test_the_record_of_a_run_has_the_forms(start, tmp_path):
    work = start(FakeClock(shared=1.0))
    found = read_provenance(work)["conv_forms"]
    assert found["setting"] == "auto" and "shared" in {row["form"] for row in found["layers"]}
    assert json.loads((work.parent / "conv-forms.json").read_text()) == found["layers"]
    assert (tmp_path / "cache" / "conv-forms.json").exists()


def test_a_shorter_training_has_the_forms_of_the_longer_one(start, tmp_path):
    first, clock = start(FakeClock(shared=1.0)), FakeClock(grouped=1.0)
    later = first.parent / "states" / "state-9999999999.pt"
    later.touch()
    later.with_suffix(".json").write_text("{}")
    (tmp_path / "cache" / "conv-forms.json").unlink()
    second = start(clock)
    assert second.parent.name.startswith(f"{first.parent.name}-") and clock.asked == []
    forms = [read_provenance(work)["conv_forms"] for work in (first, second)]
    assert forms[0] == forms[1]


def test_a_reproduction_has_the_recorded_forms(start, tiny_set, tmp_path, monkeypatch):
    """The real record and assembly; git, the search for data and the steps are stand-ins."""
    work = start(FakeClock(shared=1.0))
    record = read_record(work, {snapshot_name(0): ""})
    place = Worktree(tmp_path / "reproduction", tmp_path)
    place.folder.mkdir()
    (tmp_path / "cache" / "conv-forms.json").unlink()  # as on another machine
    clock, made = FakeClock(grouped=1.0), []

    def train(record, worktree, packed):
        monkeypatch.setenv("SG3FLOW_STATE_DIR", str(worktree.state))
        made.append(start(clock))

    network = types.SimpleNamespace(recorded="", kept_in=lambda folder: "")
    for name, result in {
        "_checked_length": 1,
        "find_network": network,
        "prepare_worktree": place,
        "find_data": tiny_set,
        "_fingerprint": record.run["fingerprint"],
        "compare": reproduction.ReproductionResult(True, {}, []),
    }.items():
        monkeypatch.setattr(reproduction, name, lambda *_, result=result, **__: result)
    monkeypatch.setattr(reproduction, "_train", train)
    reproduction.reproduce(record, tmp_path, lambda line: None)
    assert clock.asked == [] and made[0] != work
    assert read_provenance(made[0])["conv_forms"] == read_provenance(work)["conv_forms"]


def test_a_snapshot_is_measured_in_the_usual_forms(tiny_config):
    on_gpu = [t.to("meta") for t in tensors()]
    layer = ModulatedLayer.of(*on_gpu, 1, 1)
    found = []

    def measure(G_ema, path, nimg):
        found.append(conv_forms.chosen_per_sample(*on_gpu, 1, 1))
        return {}

    parts = types.SimpleNamespace(G_ema=None)
    settings, memory = select(LoopSettings, tiny_config), select(MemorySettings, tiny_config)
    loop = TrainingLoop(settings, memory, parts, None, iter(()), Clock(), None, measure)
    use_forms({layer: True}, per_sample=False)
    loop._measure_snapshot(measure)
    assert found == [None]
    assert conv_forms.chosen_per_sample(*on_gpu, 1, 1) is True
    assert conv_forms.chosen_per_sample(on_gpu[0][:1], on_gpu[1], 1, 1) is False


@pytest.mark.medium
def test_all_processes_have_the_choice_of_the_first(tmp_path):
    import steps_worker

    first, second = results_of(2, steps_worker.agreed_forms, tmp_path)
    assert first["timed"] > 0 and second["timed"] == 0
    assert first["per_sample"] is second["per_sample"] is False
    assert first["record"] == second["record"]
