"""Three training steps in float64, in one or several processes; writes the weights.

Run by test_processes.py, with torchrun's variables or without:
`steps_worker.py DATA OUT CFG [CFG...]`. OUT is the common start of the file names.
"""

import sys
from pathlib import Path

import torch

from sg3flow import distributed
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet, WindowedShuffle, endless_batches
from sg3flow.training.assembly import build, resolve
from sg3flow.training.step import RealBatch, random_draw, run_step, seed_step
from sg3flow.training.work_folder import capture_state, check_equal

BATCH = 8


def main(data: Path, out: str, *cfgs: str) -> None:
    device = torch.device("cpu")
    with distributed.process_group(device):
        for cfg in cfgs:
            train(cfg, data, Path(f"{out}{cfg}.pt"), device)


def train(cfg: str, data: Path, out: Path, device: torch.device) -> None:
    count = distributed.world_size()
    config = resolve(
        TrainConfig(
            cfg=cfg, gpus=count, batch=BATCH, gamma=1.0, cond=True, cbase=256, cmax=8,
            map_depth=2, mbstd_group=2, aug="fixed", p=0.5,
        )
    )  # fmt: skip
    items = TrainingSet(PackedSet(data), labels=True)
    parts = build(config, resolution=16, channels=3, c_dim=items.label_dim, device=device)
    for network in (parts.G, parts.D, parts.G_ema):
        network.double()
    parts.loss.pl_mean = parts.loss.pl_mean.double()
    parts.ada_target, parts.ada_nimg = 0.6, 1000.0
    sampler = WindowedShuffle(len(items), 0, rank=distributed.rank(), num_processes=count)
    batches = endless_batches(items, sampler, BATCH // count, workers=0, pin_memory=False)
    for nimg in range(0, 5 * BATCH, BATCH):
        real = RealBatch.of(next(batches), device)
        real = RealBatch(real.img.double(), real.c)
        seed_step(0, nimg)
        draw = random_draw(items, parts.G.z_dim, BATCH, device)
        run_step(parts, real, draw, nimg, config.batch_gpu)
    check_equal(parts)
    state = capture_state(parts, nimg)
    stats = parts.collector.read()
    if distributed.is_main_process():
        moments = {name: torch.tensor([s.num, s.mean, s.std]) for name, s in stats.items()}
        torch.save(state | {"stats": moments}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
