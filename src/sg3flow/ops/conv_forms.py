"""Forms of a convolution with equal results: memory layout, padded channels, weights per sample.

Which form is the fastest on a GPU depends on the card, its libraries and the layer, so a training
measures them at its start (`training/conv_choice.py`) and puts the choices into the table here. A
layer without an entry has the usual form. Forms round differently: on a CPU, whose numbers stay
those of earlier versions, nothing is chosen.

Weights keep their shapes: padding with zeros and other layouts exist only within the operation.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Tensor cores work on rows of this many channels in half precision.
CHANNEL_MULTIPLE = 8


@dataclass(frozen=True)
class ConvForm:
    """How a convolution computes.

    Attributes:
        channels_last: on NHWC copies of its tensors.
        padded: with zeros as further channels, to a multiple of 8.
    """

    channels_last: bool = False
    padded: bool = False

    def __str__(self) -> str:
        return ("nhwc" if self.channels_last else "nchw") + ("-padded" if self.padded else "")


USUAL = ConvForm()
FORMS = {
    str(form): form
    for form in (
        USUAL,
        ConvForm(padded=True),
        ConvForm(channels_last=True),
        ConvForm(channels_last=True, padded=True),
    )
}


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of fixed shapes.

    Attributes:
        x, w: shapes of input and weights; groups: of the convolution.
        transposed: whether it is `F.conv_transpose2d`, with w [C_in, C_out / groups, k, k].
        padding: (y, x).
        place: device type and dtype.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int
    padding: tuple[int, int]
    groups: int
    transposed: bool
    place: tuple[str, torch.dtype]

    @classmethod
    def of(
        cls,
        x: torch.Tensor,
        w: torch.Tensor,
        stride: int,
        padding: tuple[int, int],
        groups: int,
        transposed: bool,
    ) -> "ConvLayer":
        """The layer of these tensors."""
        place = (x.device.type, x.dtype)
        return cls(tuple(x.shape), tuple(w.shape), stride, padding, groups, transposed, place)

    @property
    def is_aligned(self) -> bool:
        """Whether padding would change nothing."""
        inputs, outputs = self.channels
        return inputs % CHANNEL_MULTIPLE == 0 and outputs % CHANNEL_MULTIPLE == 0

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of a group."""
        if self.transposed:
            return self.w[0] // self.groups, self.w[1]
        return self.w[1], self.w[0] // self.groups

    def __str__(self) -> str:
        kind = "transposed" if self.transposed else "conv"
        shapes = f"x{_by(self.x)} w{_by(self.w)}"
        padding = _by(self.padding)
        return (
            f"{kind} {shapes} stride{self.stride} pad{padding} groups{self.groups} "
            f"{str(self.place[1]).removeprefix('torch.')}"
        )


@dataclass(frozen=True)
class ModulatedLayer:
    """A modulated convolution of fixed shapes: x [N, C_in, H, W], w [C_out, C_in, k, k]."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    padding: int
    up: int
    place: tuple[str, torch.dtype]

    @classmethod
    def of(cls, x: torch.Tensor, w: torch.Tensor, padding: int, up: int) -> "ModulatedLayer":
        """The layer of these tensors."""
        return cls(tuple(x.shape), tuple(w.shape), padding, up, (x.device.type, x.dtype))

    def __str__(self) -> str:
        return (
            f"modulated x{_by(self.x)} w{_by(self.w)} pad{self.padding} up{self.up} "
            f"{str(self.place[1]).removeprefix('torch.')}"
        )


@dataclass(frozen=True)
class ProductLayer:
    """A batched matrix product of fixed shapes: a [N, M, K] @ b [N, K, P]."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    place: tuple[str, torch.dtype]

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor) -> "ProductLayer":
        """The product of these tensors."""
        return cls(tuple(a.shape), tuple(b.shape), (b.device.type, b.dtype))

    @property
    def is_aligned(self) -> bool:
        """Whether padding would change nothing."""
        return self.a[1] % CHANNEL_MULTIPLE == 0 and self.a[2] % CHANNEL_MULTIPLE == 0

    def __str__(self) -> str:
        return f"product {_by(self.a)} {_by(self.b)} {str(self.place[1]).removeprefix('torch.')}"


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


# A form for each convolution and product; for a modulated one, whether it has weights per sample.
Choice = ConvForm | bool
Layer = ConvLayer | ModulatedLayer | ProductLayer

_chosen: dict[Layer, Choice] = {}
_unmeasured: bool | None = None  # per sample or not, for all modulated layers of a GPU
_seen: dict[Layer, None] | None = None


def use_forms(chosen: Mapping[Layer, Choice], per_sample: bool | None = None) -> None:
    """Compute these layers in these forms from now on, and all others in the usual one.

    Args:
        per_sample: the form of all other modulated layers on a GPU; None: the usual one.
    """
    global _unmeasured
    _chosen.clear()
    _chosen.update(chosen)
    _unmeasured = per_sample


@contextlib.contextmanager
def usual_forms() -> Iterator[None]:
    """Choose nothing while the block runs: results are those of a program that measured nothing."""
    chosen, per_sample = dict(_chosen), _unmeasured
    use_forms({})
    try:
        yield
    finally:
        use_forms(chosen, per_sample)


@contextlib.contextmanager
def seen_layers() -> Iterator[dict[Layer, None]]:
    """Collect the layers that are computed while the block runs, in their order."""
    global _seen
    before, _seen = _seen, {}
    try:
        yield _seen
    finally:
        _seen = before


def chosen_per_sample(x: torch.Tensor, w: torch.Tensor, padding: int, up: int) -> bool | None:
    """Whether a modulated convolution has weights of each sample; None: nothing is chosen."""
    if not _chosen and _seen is None:
        return _unmeasured if x.device.type != "cpu" else None
    layer = ModulatedLayer.of(x, w, padding, up)
    if _seen is not None:
        _seen[layer] = None
    choice = _chosen.get(layer)
    if isinstance(choice, bool):
        return choice
    return _unmeasured if x.device.type != "cpu" else None


def run_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    stride: int,
    padding: tuple[int, int],
    groups: int,
    transposed: bool,
) -> torch.Tensor:
    """A convolution in its chosen form; the arguments are those of `ConvLayer`."""
    form = USUAL
    if _chosen or _seen is not None:
        form = _form_of(ConvLayer.of(x, w, stride, padding, groups, transposed))
    return conv_in_form(form, x, w, stride, padding, groups, transposed)


def run_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` in its chosen form: a [N, M, K], b [N, K, P]."""
    form = USUAL
    if _chosen or _seen is not None:
        form = _form_of(ProductLayer.of(a, b))
    return product_in_form(form, a, b)


def _form_of(layer: Layer) -> ConvForm:
    if _seen is not None:
        _seen[layer] = None
    choice = _chosen.get(layer)
    return choice if isinstance(choice, ConvForm) else USUAL


def conv_in_form(
    form: ConvForm,
    x: torch.Tensor,
    w: torch.Tensor,
    stride: int,
    padding: tuple[int, int],
    groups: int,
    transposed: bool,
) -> torch.Tensor:
    """A convolution in a form; differentiable in each order, as those of torch."""
    outputs = w.shape[1] if transposed else w.shape[0] // groups
    if form.padded:
        x, w = _padded(x, w, groups, transposed)
    if form.channels_last:
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    run = F.conv_transpose2d if transposed else F.conv2d
    y = run(x, w, stride=stride, padding=padding, groups=groups)
    if form.padded:
        y = _grouped(y, 1, groups)[:, :, :outputs].flatten(1, 2)
    # The kernels that follow work on NCHW.
    return y.contiguous() if form != USUAL else y


def product_in_form(form: ConvForm, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b``, of which a form decides only the padding of M and K."""
    if not form.padded:
        return a @ b
    y = _with_zeros(_with_zeros(a, 1), 2) @ _with_zeros(b, 1)
    return y[:, : a.shape[1]].contiguous()


def _padded(
    x: torch.Tensor, w: torch.Tensor, groups: int, transposed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and weights with zeros as further channels of each group."""
    x = _with_zeros(_grouped(x, 1, groups), 2).flatten(1, 2)
    w = _grouped(w, 0, groups)  # [groups, C_out, C_in, k, k]; transposed: C_in, C_out
    return x, _with_zeros(_with_zeros(w, 1), 2).flatten(0, 1)


def _grouped(tensor: torch.Tensor, dim: int, groups: int) -> torch.Tensor:
    """The channels as two dimensions: groups, and channels of a group."""
    return torch.unflatten(tensor, dim, (groups, -1))


def _with_zeros(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    missing = -tensor.shape[dim] % CHANNEL_MULTIPLE
    pads = [0, 0] * (tensor.ndim - 1 - dim) + [0, missing]
    return F.pad(tensor, pads) if missing else tensor
