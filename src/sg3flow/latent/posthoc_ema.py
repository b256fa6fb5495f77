"""Post-hoc EMA: the average of any width from the power-function averages that a training stored.

(Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", Sec. 3.)
Each stored average weights the past by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on 0..t. The
wanted one is approximated, in the least-squares sense, by a weighted sum of them; the same sum of
the stored tensors is the result. Some of its weights are negative, and all of them sum to 1: a sum
of 0.9 would shrink every parameter by a tenth, which the networks of this project do not undo.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from sg3flow.errors import CheckpointError, ConfigError, DataError, listed
from sg3flow.files import sha256_file
from sg3flow.latent.combined_networks import POSTHOC, Combination, Parent, read_parent, rebuilt
from sg3flow.runs.run_folder import list_averages, list_snapshots, snapshot_name
from sg3flow.training.power_averages import BUFFERS, FORMAT, exponent, parse_widths, width_name

_MOST_SHOWN = 12
_NEGLIGIBLE = 1e-3  # of the norm of the wanted profile, squared: a fit of 3 percent
# Of the root of the summed squares of the weights. Stored values are rounded to float16, by 2e-4 of
# their size on average: 5 makes that a thousandth of each parameter.
_MOST_GAIN = 5.0


@dataclass(frozen=True)
class StoredAverage:
    """One average of a file.

    Attributes:
        nimg: the images after which it was stored.
        width: its name in the file, such as ``0.050``.
    """

    path: Path
    nimg: int
    width: str

    @property
    def gamma(self) -> float:
        """Its exponent."""
        return exponent(float(self.width))


def profile_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> Any:
    """The integral of the product of two profiles, for arrays that broadcast."""
    ratio = np.minimum(t_a, t_b) / np.maximum(t_a, t_b)
    # Up to min(t_a, t_b): the profile that ends there has its full height.
    power = np.where(np.less(t_a, t_b), gamma_b, gamma_a)
    height = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return height * ratio**power / np.maximum(t_a, t_b)


def profile_weights(
    stored: Sequence[tuple[float, float]], nimg: float, gamma: float
) -> tuple[np.ndarray, float]:
    """The weights of stored averages whose sum comes nearest to another one.

    Args:
        stored: end and exponent of each.
        nimg, gamma: end and exponent of the wanted average.

    Returns:
        The weights, whose sum is 1, and the squared error relative to the squared norm of the
        wanted profile. A stored average that is the wanted one has weight 1 and the others
        exactly 0.
    """
    weights = np.zeros(len(stored))
    if (nimg, gamma) in stored:
        weights[stored.index((nimg, gamma))] = 1
        return weights, 0.0
    t, g = np.asarray(stored, np.float64).T
    gram = profile_product(t[:, None], g[:, None], t, g)
    target = profile_product(t, g, nimg, gamma)
    # Scaled to unit norms: profiles of early times are high.
    norms = np.sqrt(np.diag(gram))
    sides = np.stack([target, np.ones(len(stored))], axis=1) / norms[:, None]
    solved = np.linalg.lstsq(gram / np.outer(norms, norms), sides, rcond=1e-13)[0]
    free, shift = solved.T / norms  # without the condition on the sum, and what changes the sum
    weights = free + shift * (1 - free.sum()) / shift.sum()
    whole = profile_product(nimg, gamma, nimg, gamma)
    error = whole - 2 * weights @ target + weights @ gram @ weights
    return weights, max(float(error / whole), 0.0)


@dataclass(frozen=True)
class PosthocAverage:
    """The result of ``reconstruct``.

    Attributes:
        result: the networks of the snapshot, with the average as G_ema.
        error: relative squared error of its profile.
        gain: how much larger the rounding of the stored averages is in the result.
        num_stored: the averages that it was made from.
    """

    result: Combination
    error: float
    gain: float
    num_stored: int

    @property
    def is_far(self) -> bool:
        """Whether the stored averages do not suffice for a good approximation."""
        return self.error > _NEGLIGIBLE

    @property
    def is_noisy(self) -> bool:
        """Whether the rounding of the stored averages is a thousandth of the parameters or more."""
        return self.gain > _MOST_GAIN


def reconstruct(run_dir: Path, sigma_rel: float, kimg: int | None = None) -> PosthocAverage:
    """The average of G of a width at a time of a training, from all averages stored up to then.

    G, D and the architecture are those of the snapshot of that time or, if it was removed, of the
    newest one. The buffers of the average are those of G at that time.

    Args:
        run_dir: the folder of the training.
        sigma_rel: relative width.
        kimg: the time, of a file of averages; None: of the last one.

    Raises:
        ConfigError: the width or the time cannot be had.
        DataError: the folder has no averages.
        CheckpointError: a file is damaged, or does not fit the snapshot.
    """
    [width] = parse_widths([str(sigma_rel)], "sigma_rel")
    files = _files_up_to(run_dir, kimg)
    at, last = next(reversed(files.items()))
    base = read_parent(str(_snapshot_for(run_dir, at)))
    stored = [each for path in files.values() for each in _stored_in(path)]
    nimg = stored[-1].nimg
    known = [(float(each.nimg), each.gamma) for each in stored]
    weights, error = profile_weights(known, float(nimg), exponent(float(width_name(width))))
    state = _combined(base, stored, weights, last)
    networks = {**base.networks, "G_ema": rebuilt(base.G_ema, state)}
    made_by = {
        "kind": POSTHOC,
        "sigma_rel": float(width_name(width)),
        "nimg": nimg,
        "files": {path.name: sha256_file(path) for path in files.values()},
    }
    base = replace(base, progress={**base.progress, "nimg": nimg})
    described = dict(base.training_set)
    result = Combination(networks, base.augment_p, made_by, (base,), described)
    return PosthocAverage(result, error, float(np.linalg.norm(weights)), len(stored))


def _files_up_to(run_dir: Path, kimg: int | None) -> dict[int, Path]:
    files = list_averages(run_dir)
    if not files:
        raise DataError(
            f"{run_dir} has no power-averages-*.safetensors; train with phema set, for example "
            "--phema 0.05,0.10"
        )
    if kimg is not None and kimg not in files:
        known = listed(map(str, files), _MOST_SHOWN)
        raise ConfigError(f"{run_dir} has no averages at {kimg} kimg; it has them at {known}")
    return {each: path for each, path in files.items() if kimg is None or each <= kimg}


def _snapshot_for(run_dir: Path, kimg: int) -> Path:
    exact = run_dir / snapshot_name(1000 * kimg)
    if exact.is_file():
        return exact
    newest = next(reversed(list_snapshots(run_dir)), None)
    if newest is None:
        raise DataError(f"{run_dir} has no snapshot, which gives the architecture and D")
    return newest


def _stored_in(path: Path) -> list[StoredAverage]:
    try:
        with safe_open(path, "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("sg3flow", "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{path} has no power-function averages (format {FORMAT})")
    nimg, widths = facts.get("nimg"), facts.get("widths")
    if type(nimg) is not int or nimg < 1 or not isinstance(widths, list) or not widths:
        raise CheckpointError(f"{path} does not say which averages it has")
    try:
        names = [width_name(each) for each in parse_widths([str(w) for w in widths], str(path))]
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return [StoredAverage(path, nimg, name) for name in names]


def _combined(
    base: Parent, stored: Sequence[StoredAverage], weights: np.ndarray, last: Path
) -> dict[str, torch.Tensor]:
    """The weighted sums of the parameters, one tensor at a time, and the buffers of ``last``."""
    shapes = {name: tensor.shape for name, tensor in base.G_ema.state_dict().items()}
    parameters = {name for name, _ in base.G_ema.named_parameters()}
    used = [(each, float(w)) for each, w in zip(stored, weights, strict=True) if w]
    with ExitStack() as stack:
        opened: dict[Path, Any] = {
            path: stack.enter_context(safe_open(path, "pt"))
            for path in dict.fromkeys([*(each.path for each, _ in used), last])
        }
        state = {}
        for name, shape in shapes.items():
            if name in parameters:
                terms = [(opened[e.path], e.path, f"{e.width}/{name}", w) for e, w in used]
            else:
                terms = [(opened[last], last, f"{BUFFERS}/{name}", 1.0)]
            total = torch.zeros(shape, dtype=torch.float64)
            for file, path, key, weight in terms:
                total += _tensor(file, path, key, shape).double() * weight
            state[name] = total.float()
    return state


def _tensor(file: Any, path: Path, key: str, shape: torch.Size) -> torch.Tensor:
    try:
        tensor: torch.Tensor = file.get_tensor(key)
    except SafetensorError as error:
        raise _damaged(path, error) from None
    if tensor.shape != shape or not tensor.isfinite().all():
        raise CheckpointError(
            f"{path}: {key} does not fit the snapshots beside it, or is not finite"
        )
    return tensor


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(f"{path} cannot be read as power-function averages: {reason}")
