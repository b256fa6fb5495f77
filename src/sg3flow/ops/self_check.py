"""The self-check of compiled kernels: their results against plain PyTorch on this machine.

The kernels of a GPU are checked in parts, each at its first use in a process: "bias_act",
"upfirdn2d", "act_filter", "modulation", and "filtered_lrelu-separable", "-radial" and "-generic"
after the filters. Those of a CPU are one library, which every process loads;
"filtered_lrelu-layers" is a quick check of it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.ops.fir import FirSpec, filter_taps, run_fir

# Largest relative error of a result, as a root mean square; plain PyTorch has 2e-7, 3e-3 and 6.4e-3
# on the CPU. Single values are not compared: rounding can change the sign of a sample near 0, and
# then its gradient differs by 2e-2 of the largest one.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_GAIN, _SLOPE, _CLAMP = math.sqrt(2), 0.2, 0.9
CPU_PART = "filtered_lrelu-layers"
CUDA_PARTS = (
    *("bias_act", "upfirdn2d", "act_filter", "modulation"),
    *("filtered_lrelu-separable", "filtered_lrelu-radial", "filtered_lrelu-generic"),
)
_Pair = tuple[torch.Tensor, torch.Tensor]  # found, expected


@dataclass(frozen=True)
class _Case:
    """A filtered_lrelu: factors, whether the second filter is radial, and padding."""

    up: int
    down: int
    radial: bool
    padding: tuple[int, int, int, int]


_UP2, _UP4 = (9, 8, 9, 8), (21, 20, 21, 20)
# Geometries of StyleGAN3, and one that only generic kernels compute.
_CASES = {
    "layers": (_Case(2, 2, False, _UP2), _Case(4, 2, False, _UP4), _Case(2, 2, True, _UP2)),
    "separable": (_Case(2, 2, False, _UP2), _Case(4, 2, False, _UP4)),
    "radial": (_Case(2, 2, True, _UP2), _Case(4, 2, True, _UP4)),
    "generic": (_Case(3, 2, True, (11, 9, 12, 8)),),
}


def check_part(device: torch.device | str, part: str, dtype: torch.dtype) -> None:
    """Compare one part of the kernels with plain PyTorch.

    Raises:
        ConfigError: they do not run, or their results differ.
        Sg3flowError: they broke the device for this process, which must end.
    """
    what = f"the {torch.device(device).type} kernels of {part} in {dtype}"
    try:
        error = largest_error(device, part, dtype)
    except RuntimeError as problem:
        reason = (str(problem).strip().splitlines() or ["no message"])[0][:200]
        if not _is_alive(device):
            raise Sg3flowError(
                f"{what} broke the device for this process: {reason}; start again with "
                "SG3FLOW_OPS=torch, and please report this machine"
            ) from None
        raise ConfigError(f"{what} do not run here: {reason}") from None
    if not error <= TOLERANCES[dtype]:
        raise ConfigError(
            f"{what} differ from plain PyTorch by {error:.1e}; please report this machine and its "
            "compiler or driver"
        )


def _is_alive(device: torch.device | str) -> bool:
    """Whether it still computes: after an access out of bounds a CUDA context does not."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1
    except RuntimeError:
        return False


def largest_error(device: torch.device | str, part: str, dtype: torch.dtype) -> float:
    """The largest error of a part's results and gradients, relative to float64 PyTorch."""
    op, _, family = part.partition("-")
    # The first use of an op may happen in inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        if op == "bias_act":
            pairs = _bias_act_pairs(device, dtype)
        elif op == "upfirdn2d":
            pairs = _upfirdn2d_pairs(device, dtype)
        elif op == "act_filter":
            pairs = _act_filter_pairs(device, dtype)
        elif op == "modulation":
            pairs = _modulation_pairs(device, dtype)
        else:
            order = 1 if family == "layers" else 2
            cases = (_filtered_lrelu_pairs(case, device, dtype, order) for case in _CASES[family])
            pairs = (pair for case in cases for pair in case)
        return max(_error(found, expected) for found, expected in pairs)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found = found.detach().cpu().double()
    return float((found - expected.detach()).norm() / expected.detach().norm())


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _bias_act_pairs(device: torch.device | str, dtype: torch.dtype) -> Iterator[_Pair]:
    # Multiples of 1/16 and one half of it: no sum is near 0 or the clamp, all are exact.
    x = (_numbers(2, 8, 24, 20).clamp(-3, 3) * 16).round() / 16 + 1 / 32
    b = (_numbers(8, seed=1).clamp(-1, 1) * 16).round() / 16
    exact = x.double().requires_grad_()
    v = exact + b.double()[:, None, None]
    wanted = (torch.where(v > 0, v, v * _SLOPE) * _GAIN).clamp(-_CLAMP, _CLAMP)
    (wanted_dx,) = torch.autograd.grad(wanted.sum(), exact)
    given = x.to(device, dtype).requires_grad_()
    y = torch.ops.sg3flow.bias_act(given, b.to(device, dtype), _SLOPE, _GAIN, _CLAMP)
    (dx,) = torch.autograd.grad(y.sum(), given)
    yield y, wanted
    yield dx, wanted_dx
    odd = given.detach()[..., :19].contiguous()  # not a multiple of what a thread takes at once
    bias = b.to(device, dtype)
    yield torch.ops.sg3flow.bias_act(odd, bias, _SLOPE, _GAIN, _CLAMP), wanted[..., :19]


def _upfirdn2d_pairs(device: torch.device | str, dtype: torch.dtype) -> Iterator[_Pair]:
    x = _numbers(2, 8, 24, 20).to(dtype)
    small, other = _taps(4).outer(_taps(4)), _numbers(3, 5, seed=2) / 4
    for f, up, down, padding in (
        (small, (1, 1), (1, 1), (2, 1, 2, 1)),
        (small, (2, 2), (1, 1), (2, 1, 2, 1)),
        (small, (1, 1), (2, 2), (1, 1, 1, 1)),
        (_taps(12), (2, 2), (1, 1), (6, 5, 6, 5)),
        (other, (2, 3), (3, 1), (0, 4, -1, 7)),
    ):
        spec = FirSpec(up, down, padding, False, 1.5)
        given = (x.to(device), f.to(device))
        y = torch.ops.sg3flow.upfirdn2d(*given, up, down, padding, False, spec.gain)
        wanted = run_fir(x.double(), f, spec)
        yield y, wanted
        base = _numbers(*wanted.shape, seed=3).to(dtype)
        summed = torch.ops.sg3flow.upfirdn2d_add(
            *(*given, base.to(device)), up, down, padding, False, spec.gain
        )
        yield summed, wanted + base.double()


def _act_filter_pairs(device: torch.device | str, dtype: torch.dtype) -> Iterator[_Pair]:
    """With a filter and with a sum: results, gradients, and what differentiates those."""
    from sg3flow.ops import act_filter_registration as plain

    x = (_numbers(2, 8, 37, 41).clamp(-3, 3) * 16).round() / 16 + 1 / 32  # as for bias_act
    b = (_numbers(8, seed=1).clamp(-1, 1) * 16).round() / 16
    exact_x, grad = x.double(), _numbers(2, 8, 37, 41, seed=2).to(dtype)
    given, bias = (t.to(device, dtype).requires_grad_() for t in (x, b))
    cotangent = grad.to(device).requires_grad_()
    for f, padding in ((_taps(4).outer(_taps(4)), (2, 1, 1, 2)), (None, (0, 0, 0, 0))):
        params, base = (padding, _SLOPE, _GAIN), grad if f is None else None
        exact_base = None if base is None else base.double()
        y, flags = plain.act_filter(exact_x, b.double(), f, exact_base, *params, _CLAMP, True)
        dx, db = plain.act_filter_grad(grad.double(), flags, f, (37, 41), *params)
        if f is None:
            second, _ = plain.act_filter_grad(exact_x, flags, f, (37, 41), *params)
        else:
            second = plain.act_filter_flagged(exact_x, flags, f, *params)
        taps, base = (None if t is None else t.to(device) for t in (f, base))
        found, _ = torch.ops.sg3flow.act_filter(given, bias, taps, base, *params, _CLAMP, True)
        yield found, y
        firsts = torch.autograd.grad(found, (given, bias), cotangent, create_graph=True)
        yield from zip(firsts, (dx, db), strict=True)
        yield torch.autograd.grad(firsts[0], cotangent, given.detach())[0], second


def _modulation_pairs(device: torch.device | str, dtype: torch.dtype) -> Iterator[_Pair]:
    from sg3flow.ops import modulation_registration as plain

    for size, c_in in ((3, 37), (1, 36)):
        w, s = _numbers(21, c_in, size, size), 1 + 0.3 * _numbers(5, c_in, seed=1)
        cotangent = _numbers(5, *w.shape, seed=2).to(dtype)
        exact_w, exact_s = w.double(), s.double()
        a = plain.demodulation(exact_w, exact_s, 1e-8, True)
        y = plain.scaled_weights(exact_w, a, exact_s, torch.float64)
        dw, da, db = plain.scaled_weights_grad(cotangent.double(), exact_w, a, exact_s)
        dw_of_a, ds_of_a = plain.demodulation_grad(da, a, exact_w, exact_s)
        given = [each.to(device).requires_grad_() for each in (w, s)]
        factors = torch.ops.sg3flow.demodulation(*given, 1e-8, True)
        found = torch.ops.sg3flow.scaled_weights(given[0], factors, given[1], dtype)
        gradients = torch.autograd.grad(found, given, cotangent.to(device))
        yield from zip((found, *gradients), (y, dw + dw_of_a, db + ds_of_a), strict=True)


def _filtered_lrelu_pairs(
    case: _Case, device: torch.device | str, dtype: torch.dtype, order: int
) -> Iterator[_Pair]:
    """The op with flags and its gradient; to the second order also without flags."""
    x = _numbers(2, 8, 24, 20).to(dtype)
    fu, fd = _taps(6 * case.up), _taps(12)
    if case.radial:
        fd = _radial(fd)
    wanted = _with_gradients(_plain, x.double(), fu, fd, case, order)
    given = (x.to(device), fu.to(device), fd.to(device))
    if order == 2:
        yield _compiled(*given, case), wanted[0]
        yield from _sum_pairs(x, fu, fd, case, device)
    yield from zip(_with_gradients(_compiled, *given, case, order), wanted, strict=True)


def _sum_pairs(
    x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case, device: torch.device | str
) -> Iterator[_Pair]:
    """With a bias: the result, the sum of its squares, and the gradients, one a sum as well."""
    b = _numbers(8, seed=1).to(x.dtype)
    exact = [each.double().requires_grad_() for each in (x, b)]
    wanted = _plain(exact[0] + exact[1][:, None, None], fu, fd, case)
    given = [each.to(device).requires_grad_() for each in (x, b)]
    up, down = (case.up, case.up), (case.down, case.down)
    y, _, squares = torch.ops.sg3flow.filtered_lrelu_squares(
        *(given[0], fu.to(device), fd.to(device), given[1], up, down, case.padding, False),
        *(_GAIN, _SLOPE, _CLAMP, True),
    )
    yield from ((y, wanted), (squares, wanted.square().sum()))
    gradients = torch.autograd.grad(y.sum(), given)
    yield from zip(gradients, torch.autograd.grad(wanted.sum(), exact), strict=True)


_Op = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, _Case], torch.Tensor]


def _with_gradients(
    op: _Op, x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case, order: int
) -> tuple[torch.Tensor, ...]:
    """The op, its vector-Jacobian product with ones, and the Jacobian-vector product with x."""
    x = x.detach().requires_grad_()
    y = op(x, fu, fd, case)
    if order == 1:
        return y, *torch.autograd.grad(y.sum(), x)
    ones = torch.ones_like(y).requires_grad_()
    (dx,) = torch.autograd.grad(y, x, ones, create_graph=True)
    (dy,) = torch.autograd.grad(dx, ones, x.detach())
    return y, dx, dy


def _compiled(x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case) -> torch.Tensor:
    up, down = (case.up, case.up), (case.down, case.down)
    y: torch.Tensor = torch.ops.sg3flow.filtered_lrelu(
        *(x, fu, fd, None, up, down, case.padding, False),
        *(_GAIN, _SLOPE, _CLAMP, x.requires_grad),
    )[0]
    return y


def _plain(x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case) -> torch.Tensor:
    """The op in plain PyTorch."""
    first = FirSpec((case.up, case.up), (1, 1), case.padding, gain=float(case.up**2))
    second = FirSpec((1, 1), (case.down, case.down), gain=_GAIN)
    assert filter_taps(fu)[0] == 6 * case.up
    v = torch.nn.functional.leaky_relu(run_fir(x, fu, first), _SLOPE)
    return run_fir(v.clamp(-_CLAMP / _GAIN, _CLAMP / _GAIN), fd, second)


def _taps(count: int) -> torch.Tensor:
    """Symmetric to the last bit, as the filters of the layers are: kernels depend on it."""
    taps = torch.hann_window(count + 2, periodic=False)[1:-1]
    return (taps + taps.flip(0)) / (2 * taps.sum())


def _radial(taps: torch.Tensor) -> torch.Tensor:
    """Not an outer product: kernels run those as separable filters."""
    cross = torch.eye(len(taps))
    return taps.outer(taps) + 1e-3 * (cross + cross.flip(0))
