"""Which form each convolution of a training has on a GPU: measured once, agreed on, and kept.

A choice by speed changes the rounding. So the main process measures and the others get its choice;
a resumed training reads the choice from its state folder; the record of the run has it; and what
one training measured on a card is remembered for the next one.

cuDNN's own choice by speed (`torch.backends.cudnn.benchmark`) is none of the forms: nobody can ask
which algorithm it has taken, so that it could be neither recorded nor repeated.
"""

import dataclasses
import functools
import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from sg3flow import distributed
from sg3flow.errors import cut
from sg3flow.files import file_lock, write_json
from sg3flow.ops import modulated_conv2d, setup_filter
from sg3flow.ops.conv_forms import (
    FORMS,
    USUAL,
    Choice,
    ConvForm,
    ConvLayer,
    Layer,
    ModulatedLayer,
    ProductLayer,
    conv_in_form,
    product_in_form,
    seen_layers,
    use_forms,
)
from sg3flow.precision import current
from sg3flow.resources import call_nvml

AUTO, GROUPED, SHARED = "auto", "grouped", "shared"
_NAMES: dict[str, Choice] = {**FORMS, GROUPED: True, SHARED: False}
_PADDED = ConvForm(padded=True)

# Another form than the usual one must be faster by this factor: less may be chance.
MARGIN = 1.05
_WARM_UP_RUNS, _TIMED_RUNS = 3, 7

# Milliseconds that a function takes on the device.
Timer = Callable[[Callable[[], object]], float]

_log = logging.getLogger(__name__)


def cuda_timer(run: Callable[[], object]) -> float:
    """The median of several runs between two events on the GPU, after a warm-up."""
    for _ in range(_WARM_UP_RUNS):
        run()
    times: list[float] = []
    for _ in range(_TIMED_RUNS):
        begin, end = _event(), _event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The chosen form of a layer and the milliseconds of each form that ran."""

    form: str
    ms: dict[str, float]


class FormMeter:
    """Measures layers, each once.

    Args:
        known: what was measured before, by the name of the layer.
    """

    def __init__(
        self, device: torch.device, timer: Timer, known: Mapping[str, Measured] | None = None
    ) -> None:
        self._device, self._timer = device, timer
        self.measured = dict(known or {})
        self.chosen: dict[Layer, Measured] = {}

    def measure(self, layers: Iterable[Layer]) -> dict[Layer, Measured]:
        """The measured forms of layers, and of the convolutions within modulated ones."""
        for layer in layers:
            if isinstance(layer, ModulatedLayer):
                self._measure_modulated(layer)
            elif isinstance(layer, ProductLayer):
                self._measure_product(layer)
            else:
                self._measure_conv(layer)
        return self.chosen

    def _measure_product(self, layer: ProductLayer) -> None:
        if layer in self.chosen:
            return
        names = [str(USUAL)] if layer.is_aligned else [str(USUAL), str(_PADDED)]
        a, b, _ = self._tensors_of(layer.a, layer.b, layer.place[1])
        run = functools.partial(_product, (a, b.detach().to(a.dtype).requires_grad_()))
        self.chosen[layer] = self._best(str(layer), {n: functools.partial(run, n) for n in names})

    def _measure_conv(self, layer: ConvLayer) -> None:
        if layer in self.chosen:
            return
        names = [name for name, form in FORMS.items() if not (form.padded and layer.is_aligned)]
        run = functools.partial(_conv, layer, self._tensors_of(layer.x, layer.w, layer.place[1]))
        self.chosen[layer] = self._best(str(layer), {n: functools.partial(run, n) for n in names})

    def _measure_modulated(self, layer: ModulatedLayer) -> None:
        """With weights of each sample or with scaled activations, each with its best form."""
        if layer in self.chosen:
            return
        run = functools.partial(
            _modulated, layer, self._tensors_of(layer.x, layer.w, layer.place[1])
        )
        runs = {name: functools.partial(run, name) for name in (GROUPED, SHARED)}
        for once in runs.values():
            with seen_layers() as seen:
                once()
            self.measure(each for each in list(seen) if not isinstance(each, ModulatedLayer))
        use_forms({each: _NAMES[found.form] for each, found in self.chosen.items()})
        try:
            self.chosen[layer] = self._best(str(layer), runs)
        finally:
            use_forms({})

    def _tensors_of(
        self, x: tuple[int, ...], w: tuple[int, ...], dtype: torch.dtype
    ) -> list[torch.Tensor]:
        """Input, weights and styles, on the device."""
        # Of a generator of its own: a measurement must not shift the numbers of a training.
        random = torch.Generator(self._device).manual_seed(0)
        drawn = [torch.randn(s, generator=random, device=self._device) for s in (x, w, x[:2])]
        drawn[0] = drawn[0].to(dtype)
        return [tensor.requires_grad_() for tensor in drawn]

    def _best(self, name: str, runs: Mapping[str, Callable[[], object]]) -> Measured:
        """The fastest form; the first one, unless another is faster by the margin."""
        if name in self.measured and self.measured[name].form in runs:
            return self.measured[name]
        usual = next(iter(runs))
        if len(runs) == 1:
            return Measured(usual, {})
        times = {form: self._time(name, form, run) for form, run in runs.items()}
        fastest = min(times, key=lambda form: times[form])
        chosen = fastest if times[fastest] * MARGIN <= times[usual] else usual
        found = {form: round(ms, 4) for form, ms in times.items() if ms < math.inf}
        self.measured[name] = Measured(chosen, found)
        return self.measured[name]

    def _time(self, name: str, form: str, run: Callable[[], object]) -> float:
        """Milliseconds; infinity if a form does not run, for example for lack of memory."""
        try:
            return self._timer(run)
        except RuntimeError as error:
            reason = cut(" ".join(str(error).split()), 200)
            _log.warning("%s cannot be computed as %s and will not be: %s", name, form, reason)
            return math.inf


def _conv(layer: ConvLayer, tensors: list[torch.Tensor], form: str) -> object:
    """Forward and backward pass of a convolution."""
    x, w = tensors[0], tensors[1].to(layer.place[1])
    y = conv_in_form(FORMS[form], x, w, layer.stride, layer.padding, layer.groups, layer.transposed)
    return torch.autograd.grad(y, tensors[:2], torch.ones_like(y))


def _product(tensors: tuple[torch.Tensor, torch.Tensor], form: str) -> object:
    """A matrix product and its gradients."""
    y = product_in_form(FORMS[form], *tensors)
    return torch.autograd.grad(y, tensors, torch.ones_like(y))


def _modulated(layer: ModulatedLayer, tensors: list[torch.Tensor], form: str) -> object:
    """Forward and backward pass of a modulated convolution."""
    x, w, s = tensors
    f = setup_filter([1, 3, 3, 1]).to(x.device)
    y = modulated_conv2d(
        x,
        w,
        s,
        padding=layer.padding,
        f=f,
        up=layer.up,
        per_sample=form == GROUPED,
        normalize="rms",
    )
    return torch.autograd.grad(y, tensors, torch.ones_like(y))


def settle_forms(
    setting: str,
    device: torch.device,
    run: Callable[[], object],
    *,
    kept: Path | None,
    memory: Path,
    timer: Timer = cuda_timer,
) -> dict[str, Any]:
    """Choose the forms of a training's convolutions and use them from now on.

    A collective call. On a CPU nothing is chosen: its forms are fixed by `ops/modulation.py`.

    Args:
        setting: ``auto``: measure; ``grouped`` and ``shared``: that form for every modulated layer.
        run: computes every layer once, with the shapes of the training.
        kept: where the choice of this training is kept; None: this is not the main process.
        memory: the file with what was measured before, on this card and others.

    Returns:
        The choice for the record of the run; empty on a CPU.
    """
    if not has_choice(device):
        use_forms({})
        return {}
    if setting != AUTO:
        use_forms({}, per_sample=setting == GROUPED)
        return {"setting": setting, "layers": []}
    rows: list[dict[str, Any]] = []
    if kept is not None:
        rows = _read_rows(kept) or _measured_rows(device, run, memory, timer)
        write_json(kept, rows)
    rows = json.loads(distributed.broadcast(json.dumps(rows).encode()))
    use_forms({_layer_of(row["layer"], device): _NAMES[row["form"]] for row in rows})
    return {"setting": setting, "layers": rows}


def has_choice(device: torch.device) -> bool:
    """Whether forms are chosen on a device."""
    return device.type == "cuda"


def _measured_rows(
    device: torch.device, run: Callable[[], object], memory: Path, timer: Timer
) -> list[dict[str, Any]]:
    use_forms({})
    with seen_layers() as seen:
        run()
    machine = machine_key(device)
    meter = FormMeter(device, timer, _remembered(memory, machine))
    print(f"measuring the forms of {len(seen)} convolutions", flush=True)
    chosen = meter.measure(list(seen))
    if device.type == "cuda":  # the memory of measuring is not that of the training
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    _remember(memory, machine, meter.measured)
    return [
        {"layer": _values_of(layer), "name": str(layer), **dataclasses.asdict(found)}
        for layer, found in chosen.items()
    ]


def machine_key(device: torch.device) -> str:
    """What a measured time depends on besides the layer: card, driver, libraries and precision."""
    parts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or "",  # type: ignore[no-untyped-call]
        "driver": str(call_nvml("nvmlSystemGetDriverVersion") or ""),
        "tf32": current().tf32,
        "benchmark": current().cudnn_benchmark,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        parts |= {"card": card.name, "processors": card.multi_processor_count}
    return json.dumps(parts, sort_keys=True)


def _read_rows(kept: Path) -> list[dict[str, Any]]:
    """The choice that a training kept; empty: none, or a damaged one."""
    try:
        rows = json.loads(kept.read_text(encoding="utf-8"))
        for row in rows:
            _layer_of(row["layer"], torch.device("cpu"))
            _NAMES[row["form"]]
        return list(rows)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        _log.warning("%s is damaged (%s): the forms are measured again", kept.name, error)
        return []


def _values_of(layer: Layer) -> dict[str, Any]:
    """Plain values of a layer; the device is left out."""
    values = dataclasses.asdict(layer)
    values["dtype"] = str(values.pop("place")[1]).removeprefix("torch.")
    return values


def _layer_of(values: Mapping[str, Any], device: torch.device) -> Layer:
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    place = (device.type, getattr(torch, given.pop("dtype")))
    kinds: dict[str, Callable[..., Layer]] = {
        "groups": ConvLayer,
        "up": ModulatedLayer,
        "a": ProductLayer,
    }
    kind = next(kind for field, kind in kinds.items() if field in given)
    return kind(**given, place=place)


def _remembered(memory: Path, machine: str) -> dict[str, Measured]:
    """What was measured on this machine; a file that cannot be read holds nothing."""
    try:
        layers = json.loads(memory.read_text(encoding="utf-8"))[machine]
        return {name: Measured(str(row["form"]), dict(row["ms"])) for name, row in layers.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, machine: str, measured: Mapping[str, Measured]) -> None:
    """Add to the memory; without a folder to write to, the next training measures again."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(memory.with_suffix(".lock")):
            try:
                content = dict(json.loads(memory.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                content = {}
            earlier = content.get(machine)
            rows = {name: dataclasses.asdict(found) for name, found in measured.items()}
            content[machine] = {**(earlier if isinstance(earlier, dict) else {}), **rows}
            write_json(memory, content)
    except OSError as error:
        _log.warning("%s cannot be written (%s)", memory, error.strerror or error)


@torch.no_grad()
def run_networks(G: Any, D: Any, batch_gpu: int, others: Iterable[int] = ()) -> None:
    """Compute the layers of G and D as a pass of a training does, without changing any state.

    Args:
        others: further sizes of passes, of G only.
    """
    device = next(G.parameters()).device
    for n in (batch_gpu, *others):
        z = torch.zeros([n, G.z_dim], device=device)
        c = torch.zeros([n, G.c_dim], device=device)
        img = G.synthesis(G.mapping(z, c), noise_mode="none")
        if n == batch_gpu:
            D(img, c)
