"""The work of a training besides its steps: reading images, saving.

    python benchmarks/training_loop.py --data data/packed.zip --cfg stylegan3-t --batch 8

Prints the images per second of the readers with 0 to 3 processes, and those that the steps need;
the time of steps that read ahead over that of steps on images in memory (by turns, medians); and
the time of saving a state and a snapshot, as a share of the time between two of them.
"""

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from sg3flow.checkpoints import save_snapshot
from sg3flow.config import TrainConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet, WindowedShuffle, endless_batches
from sg3flow.device import flushed_denormals, pick_device
from sg3flow.training.assembly import Parts, build, resolve
from sg3flow.training.step import RealBatch, random_draw, run_step, seed_step
from sg3flow.training.work_folder import StateFolder, capture_state

TICK_KIMG, SNAP_TICKS = 4, 50


def readers(items: TrainingSet, config: TrainConfig, workers: int):
    sampler = WindowedShuffle(len(items), seed=0)
    return endless_batches(items, sampler, config.batch, workers=workers, pin_memory=False)


def reading_rate(items: TrainingSet, config: TrainConfig, workers: int, batches: int = 40) -> float:
    """Images per second, after the readers have started."""
    stream = readers(items, config, workers)
    list(islice(stream, 4))
    start = time.perf_counter()
    list(islice(stream, batches))
    return batches * config.batch / (time.perf_counter() - start)


def step_sec(parts: Parts, config: TrainConfig, items: TrainingSet, batch, nimg: int) -> float:
    start = time.perf_counter()
    real = RealBatch.of(batch(), parts.device)
    seed_step(0, nimg)
    draw = random_draw(items, parts.G.z_dim, config.batch, parts.device)
    run_step(parts, real, draw, nimg, config.batch_gpu)
    if parts.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_steps(parts: Parts, config: TrainConfig, items: TrainingSet, steps: int):
    """Medians of steps on read images and of steps on images in memory, by turns."""
    stream = readers(items, config, config.workers)
    held = next(stream)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * steps + 4):
        # Both kinds meet the same mix of phases: R1 is due every 16 steps.
        nimg = (number // 2) * config.batch
        batch = (lambda: next(stream)) if number % 2 == 0 else (lambda: held)
        taken = step_sec(parts, config, items, batch, nimg)
        if number >= 4:
            times[number % 2].append(taken)
    return tuple(map(statistics.median, times))


def saving_sec(parts: Parts, folder: Path) -> tuple[float, float]:
    start = time.perf_counter()
    StateFolder(folder).save(capture_state(parts, 0))
    state = time.perf_counter() - start
    start = time.perf_counter()
    save_snapshot(
        folder / "snapshot.pkl", G=parts.G, D=parts.D, G_ema=parts.G_ema, augment_p=0.0,
        training_set={"name": "benchmark"}, progress={"nimg": 0},
    )  # fmt: skip
    return state, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cfg", default="stylegan3-t")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cbase", type=int, default=32768)
    parser.add_argument("--cmax", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    items = TrainingSet(PackedSet(args.data))
    config = resolve(
        TrainConfig(
            cfg=args.cfg, gpus=1, batch=args.batch, gamma=1.0, cbase=args.cbase, cmax=args.cmax,
            workers=1 if device.type == "cpu" else 3,
        )
    )  # fmt: skip
    packed = items.packed
    form = {"resolution": packed.resolution, "channels": packed.channels, "c_dim": 0}
    parts = build(config, device=device, **form)
    with flushed_denormals(), tempfile.TemporaryDirectory() as folder:
        rates = {workers: reading_rate(items, config, workers) for workers in (0, 1, 2, 3)}
        reading, held = compare_steps(parts, config, items, args.steps)
        state, snapshot = saving_sec(parts, Path(folder))
    for workers, rate in rates.items():
        print(f"{workers} reading processes: {rate:.0f} images/s")
    print(f"steps need {config.batch / held:.1f} images/s")
    print(f"step with reading {reading:.3f} s, without {held:.3f} s: ratio {reading / held:.3f}")
    tick = TICK_KIMG * 1000 / config.batch * reading
    print(
        f"state {state:.2f} s, snapshot {snapshot:.2f} s; a tick of {TICK_KIMG} kimg {tick:.0f} s"
    )
    share = (state + snapshot / SNAP_TICKS) / tick
    print(f"saving takes at most {100 * share:.2f}%, with a state every tick")


if __name__ == "__main__":
    main()
