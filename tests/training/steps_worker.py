"""Training steps in float64, in one or several processes, and counts of their collective calls.

The functions run in the processes of ``joined_processes``, or in the test itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from graph_steps import RerunRecorder

from sg3flow import distributed
from sg3flow.cli import run_stage
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet, WindowedShuffle, endless_batches
from sg3flow.ops import modulated_conv2d
from sg3flow.ops.conv_forms import chosen_per_sample
from sg3flow.training import conv_choice
from sg3flow.training.assembly import Parts, build, resolve
from sg3flow.training.cuda_graphs import GraphSections
from sg3flow.training.gradient_average import GradientAverage
from sg3flow.training.step import RealBatch, random_draw, run_step, seed_step
from sg3flow.training.work_folder import capture_state, check_equal

BATCH = 8
CPU = torch.device("cpu")


def steps(cfg: str, num_steps: int, data: Path, graphs: bool = False) -> dict[str, Any]:
    """The state and the statistics after some steps, the first with all phases.

    They are equal in all processes.
    """
    with distributed.process_group(CPU):
        count = distributed.world_size()
        config = resolve(
            TrainConfig(
                cfg=cfg, gpus=count, batch=BATCH, gamma=1.0, cond=True, cbase=128, cmax=4,
                map_depth=2, mbstd_group=2, aug="fixed", p=0.5,
            )
        )  # fmt: skip
        items = TrainingSet(PackedSet(data), labels=True)
        parts = build(config, resolution=16, channels=3, c_dim=items.label_dim, device=CPU)
        if graphs:
            parts.loss.sections = GraphSections(RerunRecorder())
        make_double(parts)
        sampler = WindowedShuffle(len(items), 0, rank=distributed.rank(), num_processes=count)
        batches = endless_batches(items, sampler, BATCH // count, workers=0, pin_memory=False)
        for nimg in range(0, num_steps * BATCH, BATCH):
            real = RealBatch.of(next(batches), CPU)
            real = RealBatch(real.img.double(), real.c)
            seed_step(0, nimg)
            draw = random_draw(items, parts.G.z_dim, BATCH, CPU)
            run_step(parts, real, draw, nimg, config.batch_gpu)
        check_equal(parts)
        state = capture_state(parts, nimg)
        stats = {
            name: torch.tensor([s.num, s.mean, s.std]) for name, s in parts.collector.read().items()
        }
        return state | {"stats": stats}


def train_stage(line: list[str]) -> None:
    """``stages/train.py LINE``, in a process that torchrun has started."""
    sys.argv = ["stages/train.py", *line]
    run_stage("train", help="")


def make_double(parts: Parts) -> None:
    for network in (parts.G, parts.D, parts.G_ema):
        network.double()
    parts.loss.pl_mean = parts.loss.pl_mean.double()
    parts.ada_target, parts.ada_nimg = 0.6, 1000.0


class Net(torch.nn.Module):
    """Parameters of odd sizes; the second input decides which of them get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(3, 7)
        self.unused = torch.nn.Linear(5, 1, bias=False)
        self.second = torch.nn.Linear(7, 2, bias=False)
        self.third = torch.nn.Linear(7, 11)

    def forward(self, x: torch.Tensor, uses_third: bool) -> torch.Tensor:
        hidden = self.first(x).tanh()
        y = self.second(hidden).square().sum()
        return y + self.third(hidden).square().sum() if uses_third else y


def averaged(bucket_bytes: int) -> dict[str, Any]:
    """Averages of a net after some passes, and the calls of torch.distributed in their order."""
    calls: list[str] = []
    with distributed.process_group(CPU):
        net = Net()
        average = GradientAverage(net.parameters(), bucket_bytes)
        random = torch.Generator().manual_seed(distributed.rank())
        found = []
        counting(calls)
        for uses_third in (True, True, False, True):
            net.zero_grad()
            for last in (False, True):  # two micro-batches
                loss = net(torch.randn(4, 3, generator=random), uses_third)
                if last:
                    average.arm()
                calls.append("backward")
                loss.backward()
                calls.append("done")
            later = distributed.sum_later(torch.full([2], float(distributed.rank() + 1)))
            repaired = average.finish()
            gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
            found.append({"gradients": gradients, "later": later.values, "repaired": repaired})
    return {"passes": found, "calls": calls}


def repaired(bucket_bytes: int) -> dict[str, Any]:
    """As ``averaged``, with gradients of process 1 that are not finite."""
    with distributed.process_group(CPU):
        net = Net()
        average = GradientAverage(net.parameters(), bucket_bytes)
        for p in net.parameters():
            p.grad = torch.full_like(p, 2.0)
        if distributed.rank() == 1:
            net.first.weight.grad[0, 0] = torch.nan
            net.third.bias.grad[0] = torch.inf
        return {"repaired": average.finish(), "gradients": [p.grad for p in net.parameters()]}


def counting(calls: list[str]) -> None:
    """Write down every collective call of this process from now on."""

    def counted(name: str, call: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return call(*arguments, **options)

        return run

    for name in ("all_reduce", "all_gather", "broadcast"):
        setattr(dist, name, counted(name, getattr(dist, name)))


def collectives(cfg: str) -> dict[str, Any]:
    """The collective calls of steps, of a saved state and of a comparison of the networks."""
    with distributed.process_group(CPU):
        config = resolve(
            TrainConfig(
                cfg=cfg, gpus=2, batch=4, gamma=1.0, cbase=128, cmax=4, map_depth=1,
                mbstd_group=1, batch_gpu=1,
            )
        )  # fmt: skip
        parts = build(config, resolution=16, channels=3, c_dim=0, device=CPU)
        calls: list[str] = []
        counting(calls)
        found = {}
        for number in (0, 3):  # all phases; the main ones and ADA
            calls.clear()
            real = RealBatch(torch.zeros(2, 3, 16, 16), torch.zeros(2, 0))
            latents = torch.randn(2, 512), torch.zeros(2, 0)
            seed_step(0, number)
            run_step(parts, real, lambda phase, latents=latents: latents, 4 * number, 1)
            found[f"step {number}"] = list(calls)
        for name, run in (
            ("state", lambda: capture_state(parts, 0)),
            ("check", lambda: check_equal(parts)),
        ):
            calls.clear()
            run()
            found[name] = list(calls)
        return found


def agreed_forms(folder: Path) -> dict[str, Any]:
    """The form that each process uses after process 0 has measured."""
    conv_choice.has_choice = lambda device: True
    timed: list[str] = []

    def timer(run: Any) -> float:
        timed.append(run.args[-1])
        return 1.0 if run.args[-1] == "shared" else 2.0

    x, w, s = torch.randn(2, 9, 4, 4), torch.randn(5, 9, 3, 3), torch.ones(2, 9)
    with distributed.process_group(CPU):
        record = conv_choice.settle_forms(
            "auto",
            CPU,
            lambda: modulated_conv2d(x, w, s, padding=1),
            kept=folder / "forms.json" if distributed.is_main_process() else None,
            memory=folder / "memory.json",
            timer=timer,
        )
    per_sample = chosen_per_sample(x, w, 1, 1)
    return {"record": json.dumps(record), "timed": len(timed), "per_sample": per_sample}
