"""Resumable training state on disk: atomic, checked, the last two kept."""

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch

from sg3flow import processes
from sg3flow.errors import Diverged
from sg3flow.files import replaced_file, sha256_file, write_json
from sg3flow.ops.backend import backend_name
from sg3flow.training.build import Parts

_log = logging.getLogger(__name__)
_FORMAT = "sg3flow-state-1"
_KEPT = 2


class StateFolder:
    """The saved states of one training, ``state-<nimg>.pt`` with a checksum file beside each.

    The checksum file is written last: a state without it was never finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state, then drop all but it and the one before it.

        A state that is further on was not usable, or this one would not exist: it goes too.
        """
        nimg = state["nimg"]
        path = self.folder / f"state-{nimg:010d}.pt"
        with replaced_file(path) as stream:
            torch.save(state | {"format": _FORMAT}, stream)
        write_json(path.with_suffix(".json"), {"nimg": nimg, "sha256": sha256_file(path)})
        before = [p for p in self._newest_first() if p < path and p.with_suffix(".json").exists()]
        kept = {path, *before[: _KEPT - 1]}
        for old in set(self._newest_first()) - kept:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest whole state, or None; one that is torn or changed is passed over, and said."""
        for path in self._newest_first():
            problem = _problem(path)
            if problem is None:
                loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                if loaded.get("format") == _FORMAT:
                    return loaded
                problem = f"its format is {loaded.get('format')}, not {_FORMAT}"
            _log.warning("%s is not used: %s; trying the state before it", path.name, problem)
        return None

    def latest_nimg(self) -> int:
        """Images seen by the newest finished state, 0 without one."""
        finished = (p for p in self._newest_first() if p.with_suffix(".json").exists())
        newest = next(finished, None)
        return int(newest.stem.removeprefix("state-")) if newest else 0

    def _newest_first(self) -> list[Path]:
        names = (p for p in self.folder.iterdir() if re.fullmatch(r"state-\d{10}\.pt", p.name))
        return sorted(names, reverse=True)


def _problem(path: Path) -> str | None:
    """Why a state cannot be used, or None."""
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not finished"
    return None if sha256_file(path) == expected else "its checksum does not match"


def capture(parts: Parts, nimg: int) -> dict[str, Any]:
    """Everything that decides how the training goes on after ``nimg`` images.

    The same on all processes, and all of them must call it.
    """
    return {
        "nimg": nimg,
        "ops": backend_name(parts.device),
        "networks": {
            name: network.state_dict()
            for name, network in (("G", parts.G), ("D", parts.D), ("G_ema", parts.G_ema))
        },
        "optimizers": {name: opt.state_dict() for name, opt in parts.optimizers.items()},
        "augment_p": parts.augment_pipe.p if parts.augment_pipe is not None else torch.zeros([]),
        "ada_moments": processes.total(parts.ada_moments),
        "pl_mean": parts.loss.pl_mean,
        "stats": parts.collector.state(),
    }


def spread(state: dict[str, Any]) -> dict[str, Any]:
    """The first process's state, on all processes."""
    if processes.world_size() == 1:
        return state
    buffer = io.BytesIO()
    if processes.is_first():
        torch.save(state, buffer)
    content = io.BytesIO(processes.told(buffer.getvalue()))
    loaded: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    return loaded


def check_equal(parts: Parts) -> None:
    """Make sure that all processes hold the same networks, bit for bit.

    Raises:
        Diverged: they do not; the message names the tensor.
    """
    if processes.world_size() == 1:
        return
    for network in ("G", "D", "G_ema"):
        state = getattr(parts, network).state_dict()
        sums = torch.stack([_checksum(tensor) for tensor in state.values()])
        low, high = processes.smallest(sums), -processes.smallest(-sums)
        differing = (low != high).nonzero().flatten().tolist()
        if differing:
            raise Diverged(
                f"the processes' {network} are no longer equal: {list(state)[differing[0]]} and "
                f"{len(differing) - 1} other tensors differ; run the same command again, it goes "
                "on from the last good state; if it comes again, a device computes wrongly"
            )


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """A sum over the bits of a tensor: int64 []."""
    bits = tensor.detach().contiguous().flatten().view(torch.int32).to(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return (bits * (places % 65521)).sum()  # swapped values show too


def restore(parts: Parts, state: dict[str, Any]) -> None:
    """Put a captured state back."""
    for name, network in (("G", parts.G), ("D", parts.D), ("G_ema", parts.G_ema)):
        network.load_state_dict(state["networks"][name])
    for name, optimizer in parts.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    if parts.augment_pipe is not None:
        parts.augment_pipe.p.copy_(state["augment_p"])
    # A sum over all processes: one of them takes it over.
    parts.ada_moments.copy_(state["ada_moments"] if processes.is_first() else torch.zeros(2))
    parts.loss.pl_mean.copy_(state["pl_mean"])
    parts.collector.load_state(state["stats"])
