"""A step on a GPU does not synchronize with it: tested without a GPU, on the `meta` device.

There operations have shapes and types but no values: reading a value is an error, and copies from
and to the CPU can be recorded. The only synchronization of a step is ADA, which reads one number
every 4 batches.
"""

import collections
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sg3flow.config import TrainConfig
from sg3flow.training.assembly import build, resolve
from sg3flow.training.cuda_graphs import EagerSections
from sg3flow.training.step import RealBatch, run_step

DEVICE = torch.device("meta")
BATCH, SIDE = 4, 16
# These ask for values, or for how many there are of some kind.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Watch(TorchDispatchMode):
    """Records copies between CPU and device, and reads of values."""

    def __init__(self):
        super().__init__()
        self.crossings: collections.Counter[str] = collections.Counter()
        self.questions: list[str] = []
        self.dtypes: set[torch.dtype] = set()
        self.made_on_cpu = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [a for a in (*args, out) if isinstance(a, torch.Tensor)]
        devices = {t.device.type for t in tensors}
        self.dtypes |= {t.dtype for t in tensors if t.device == DEVICE}
        self.made_on_cpu += isinstance(out, torch.Tensor) and out.device.type == "cpu"
        name = func.overloadpacket.__name__
        if name in ASKING and "meta" in devices:
            self.questions.append(f"{name} {_caller()}")
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.crossings[_caller()] += 1
        return out


def _caller() -> str:
    """The innermost function of the package."""
    ours = [f for f in traceback.extract_stack() if "/sg3flow/" in f.filename]
    return ours[-1].name if ours else "outside"


@pytest.fixture
def gpu_like(monkeypatch):
    monkeypatch.setattr("sg3flow.networks.layers._HALF_DEVICES", ("cuda", "meta"))


def watched_step(nimg, **settings):
    config = TrainConfig(gpus=1, batch=BATCH, gamma=1.0, cbase=1024, cmax=16, **settings)
    config = resolve(config)
    parts = build(config, resolution=SIDE, channels=3, c_dim=0, device=DEVICE)
    labels = torch.zeros(BATCH, 0, device=DEVICE)
    real = RealBatch(torch.zeros(BATCH, 3, SIDE, SIDE, device=DEVICE), labels)

    def draw(phase):
        return torch.randn(BATCH, parts.G.z_dim, device=DEVICE), labels

    with Watch() as watch:
        parts.loss.sections = WatchedSections(watch)
        run_step(parts, real, draw, nimg, BATCH)
    return watch


class WatchedSections(EagerSections):
    """Checks that nothing in a section comes from the CPU: a CUDA graph can hold it."""

    def __init__(self, watch):
        self.watch = watch

    def run(self, name, function, *rest, **options):
        before, on_cpu = self.watch.crossings.total(), self.watch.made_on_cpu
        results = super().run(name, function, *rest, **options)
        assert (self.watch.crossings.total(), self.watch.made_on_cpu) == (before, on_cpu), name
        return results


@pytest.mark.parametrize(
    ("cfg", "optimizer"),
    [("stylegan3-t", "fused"), ("stylegan3-r", "foreach"), ("stylegan2", "plain")],
)
def test_a_step_with_all_phases_waits_for_nothing(gpu_like, cfg, optimizer):
    watch = watched_step(0, cfg=cfg, optimizer=optimizer, aug="fixed", p=0.9)
    assert watch.questions == []
    assert set(watch.crossings) == {"sent"}  # from pinned memory
    assert torch.float16 in watch.dtypes


def test_full_precision_and_bfloat16(gpu_like):
    dtypes = watched_step(BATCH, cfg="stylegan3-t", fp32=True, aug="noaug").dtypes
    assert torch.float16 not in dtypes
    dtypes = watched_step(BATCH, cfg="stylegan3-t", bf16=True, aug="noaug").dtypes
    assert torch.bfloat16 in dtypes and torch.float16 not in dtypes


def test_ada_reads_one_number_every_four_batches(gpu_like):
    assert watched_step(2 * BATCH, cfg="stylegan3-t", aug="ada").questions == []
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        watched_step(3 * BATCH, cfg="stylegan3-t", aug="ada")
