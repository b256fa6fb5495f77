"""Steps of tiny trainings, ordinary ones and with recorded sections, and their states."""

from collections.abc import Callable
from typing import Any

import torch

from sg3flow.config import TrainConfig
from sg3flow.training.assembly import Parts, build, resolve
from sg3flow.training.cuda_graphs import EagerSections, GraphSections, Recorder, Recording, Tensors
from sg3flow.training.step import RealBatch, run_step, seed_step
from sg3flow.training.work_folder import capture_state

BATCH, CLASSES = 4, 3


class RerunRecorder:
    """Stands in for graphs without a GPU: a replay runs the function again on the same tensors."""

    def new_pool(self) -> Any:
        """Nothing: Python holds the memory."""
        return None

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run once."""
        run()

    def record(self, run: Callable[[], Tensors], pool: Any) -> Recording:
        """Remember a function; as with a graph, its results hold nothing before a replay."""
        outputs = tuple(torch.full_like(found, torch.nan) for found in run())
        has_gradients = torch.is_grad_enabled()

        def replay() -> None:
            with torch.set_grad_enabled(has_gradients):
                results = run()
            for output, found in zip(outputs, results, strict=True):
                output.copy_(found)

        return Recording(outputs, replay)


def make_parts(
    cfg: str, recorder: Recorder | None, device: str = "cpu", resolution: int = 16, **settings
) -> Parts:
    """A training with initial weights; without a recorder, its steps are ordinary ones."""
    options = {
        "gpus": 1, "batch": BATCH, "gamma": 1.0, "cbase": 128, "cmax": 4, "map_depth": 1,
        "mbstd_group": 2, "aug": "ada", "cond": True,
    }  # fmt: skip
    config = resolve(TrainConfig(cfg=cfg, **(options | settings)))
    c_dim = CLASSES if config.cond else 0
    parts = build(
        config, resolution=resolution, channels=3, c_dim=c_dim, device=torch.device(device)
    )
    parts.loss.sections = EagerSections() if recorder is None else GraphSections(recorder)
    if parts.augment_pipe is not None:
        parts.augment_pipe.p.fill_(0.5)
        parts.ada_nimg = 100.0
    return parts


def take_steps(parts: Parts, numbers: range, batch_gpu: int = BATCH) -> None:
    """Some steps, by their numbers; what a step gets depends on its number only."""
    side, device = parts.G.img_resolution, parts.device
    for number in numbers:
        random = torch.Generator().manual_seed(number)
        img = torch.rand(BATCH, 3, side, side, generator=random) * 2 - 1
        c = torch.eye(CLASSES)[torch.randint(CLASSES, [BATCH], generator=random)]
        img, c = img.to(device), c[:, : parts.G.c_dim].to(device)
        seed_step(0, number * BATCH)
        z = {
            name: torch.randn(BATCH, 512, device=device)
            for name in ("Gmain", "Greg", "Dmain", "Dreg")
        }
        run_step(
            parts,
            RealBatch(img, c),
            lambda phase, z=z, c=c: (z[phase], c.roll(1, 0)),
            number * BATCH,
            batch_gpu,
        )


def state_of(parts: Parts) -> dict[str, torch.Tensor]:
    """Every number of a state by its place."""
    found: dict[str, torch.Tensor] = {}

    def walk(place: str, value) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{place}/{key}", part)
        elif isinstance(value, torch.Tensor):
            found[place] = value.clone()

    walk("", capture_state(parts, 0))
    return found


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Bit for bit, but for the sign of zeros."""
    assert found.keys() == expected.keys() and len(expected) > 100
    for place, value in expected.items():
        assert torch.equal(found[place], value), place
