"""The tiles of the fused filtered_lrelu on a GPU: which kind fits an op, and how it is divided.

The kinds are those that StyleGAN3's T and R use at any resolution: (up, taps) before and
(down, taps) after the nonlinearity, as a layer has them and, exchanged, as its gradient does. The
sizes follow ``cuda/tile_shape.h`` and ``cuda/band_shape.h``; each compilation checks that both
agree.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sg3flow.ops.cuda_structs import BandPlan, Filter, FilteredLrelu, TileGrid

MOST_BLOCKS = 2**31 - 1  # of a grid's x axis
_MOST_OUTPUTS = 2**31  # of a plane that tiles on the tensor cores count
_MOST_PLANES = 8  # that share a block's table of weights


class Kind(NamedTuple):
    """A kind of tile: rates, taps, and whether each filter is 2-D (radial) instead of separable.

    One that only a gradient has exists with flags to read alone.
    """

    up: int
    up_taps: int
    up_radial: bool
    down: int
    down_taps: int
    down_radial: bool
    gradient_only: bool = False

    @property
    def family(self) -> str:
        """``separable`` or ``radial``: what is compiled together."""
        return "radial" if self.up_radial or self.down_radial else "separable"

    def arguments(self) -> str:
        """The template arguments of both shapes."""
        parts = (self.up, self.up_taps, self.up_radial, self.down, self.down_taps, self.down_radial)
        return ", ".join(str(part).lower() for part in parts)

    def flag_modes(self) -> tuple[str, ...]:
        """What its kernels do with flags, as in ``cuda/flags.h``."""
        only = ("READ_FLAGS",)
        return only if self.gradient_only else ("NO_FLAGS", "WRITE_FLAGS", *only)


KINDS = (
    Kind(2, 12, False, 2, 12, False),
    Kind(4, 24, False, 2, 12, False),
    Kind(2, 12, False, 4, 24, False, gradient_only=True),
    Kind(2, 12, False, 2, 12, True),
    Kind(4, 24, False, 2, 12, True),
    Kind(2, 12, True, 2, 12, False, gradient_only=True),
    Kind(2, 12, True, 4, 24, False, gradient_only=True),
)
FAMILIES = ("separable", "radial")


def find_kind(op: FilteredLrelu) -> Kind | None:
    """The kind of tile that fits an op's rates and filters; None: only the generic kernels do."""
    for kind in KINDS:
        if (
            (op.up_x, op.up_y, op.down_x, op.down_y) == (kind.up,) * 2 + (kind.down,) * 2
            and _fits(op.fu, kind.up_taps, kind.up_radial)
            and _fits(op.fd, kind.down_taps, kind.down_radial)
            and (op.read_flags or not kind.gradient_only)
        ):
            return kind
    return None


def _fits(f: Filter, taps: int, radial: bool) -> bool:
    return bool(f.taps and f.width == f.height == taps and bool(f.separable) != radial)


def suits_bands(op: FilteredLrelu) -> bool:
    """Whether tiles on the tensor cores can compute an op of some kind.

    Their nonlinearity takes the larger of a sample and the slope times it, whose sign must still be
    the sample's, and they count the outputs of a plane in 32 bits.
    """
    bends = op.read_flags or 0 <= op.slope <= 1
    return bool(bends and op.out_w * op.out_h < _MOST_OUTPUTS)


class PlainShape(NamedTuple):
    """The tiles of a kind without tensor cores: their outputs, and the threads of a block."""

    width: int
    height: int
    threads: int = 128


def plain_shape(kind: Kind) -> PlainShape:
    """As in ``cuda/plain_tile.h``."""
    return PlainShape(16, 12) if kind.down == 4 else PlainShape(32, 32)


class BandShape(NamedTuple):
    """The largest tiles of a kind on the tensor cores.

    Attributes:
        width, height: outputs.
        even: columns of 16 samples come in so many.
        row_step: rows of 16 samples come in so many.
    """

    width: int
    height: int
    even: int
    row_step: int


def band_shape(kind: Kind) -> BandShape:
    """As in ``cuda/band_shape.h``."""
    warps, blocks = (7, 7) if kind.down_radial else (8, 8 if kind.up_radial else 10)
    if kind.down == 4 and not kind.up_radial:
        blocks = 12
    width = (blocks * 16 - kind.down_taps + 1) // kind.down // 2 * 2
    height = (warps * 16 - kind.down_taps + 1) // kind.down
    return BandShape(width, height, 1 + (blocks % 2 == 0), kind.up if kind.up_radial else 1)


def band_plan(kind: Kind, out_w: int, out_h: int) -> BandPlan:
    """A plane of outputs divided into even tiles, as ``band_plan`` of ``cuda/band_shape.h``."""
    shape = band_shape(kind)
    rows = _even_share(out_h, shape.height)
    # an even number, so that no byte of flags belongs to two tiles; by fours stores are wider
    cols = min(_round_up(_even_share(out_w, shape.width), 4), shape.width)
    mid_w, mid_h = (n * kind.down + kind.down_taps - 1 for n in (cols, rows))
    warps = _round_up(_divided_up(mid_h, 16), shape.row_step)
    return BandPlan(cols, rows, _round_up(_divided_up(mid_w, 16), shape.even), max(warps, 2))


def _even_share(size: int, most: int) -> int:
    """`size` outputs split evenly into tiles of at most `most`."""
    return _divided_up(size, _divided_up(size, most))


def _divided_up(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, b: int) -> int:
    return _divided_up(a, b) * b


def planes_of_block(planes: int, tiles: int) -> int:
    """Planes that share a block's table of weights: some, while that leaves enough blocks."""
    return min(max(tiles * planes // 4096, 1), _MOST_PLANES)  # 30 blocks for each multiprocessor


def tile_grids(op: FilteredLrelu, plan: BandPlan, planes: int) -> Iterator[tuple[int, TileGrid]]:
    """(blocks, tiles) of each launch: all planes, as many at a time as a grid holds.

    Args:
        planes: of a block.

    Raises:
        RuntimeError: one plane has more tiles than a grid holds.
    """
    across, along = _divided_up(op.out_w, plan.cols), _divided_up(op.out_h, plan.rows)
    if across * along > MOST_BLOCKS:
        raise RuntimeError(
            f"filtered_lrelu: {op.out_h}x{op.out_w} outputs are more than a launch covers"
        )
    most = MOST_BLOCKS // (across * along) * planes
    for first in range(0, op.planes, most):
        end = min(op.planes, first + most)
        blocks = across * along * _divided_up(end - first, planes)
        yield blocks, TileGrid(first, end, across, along, planes, plan)


_Shape = tuple[int, ...] | None  # of a filter; None is the identity


def filter_family(up: tuple[int, int], fu: _Shape, down: tuple[int, int], fd: _Shape) -> str:
    """The family of tiles that an op's filters and rates may use, or ``generic``.

    It is known before the op: what it names can be compiled and checked in advance.
    """
    for kind in KINDS:
        if (
            not kind.gradient_only
            and up == (kind.up, kind.up)
            and down == (kind.down, kind.down)
            and fu == filter_shape(kind.up_taps, kind.up_radial)
            and fd == filter_shape(kind.down_taps, kind.down_radial)
        ):
            return kind.family
    return "generic"


def filter_shape(taps: int, radial: bool) -> tuple[int, ...]:
    """The shape of a filter of a kind of tile."""
    return (taps, taps) if radial else (taps,)


def shape_assertions(kind: Kind) -> str:
    """C++ that compiles only if this module has the sizes of the sources: of plain tiles."""
    plain, name = plain_shape(kind), f"sg3::PlainTile<{kind.arguments()}>"
    return (
        f"static_assert({name}::TILE_W == {plain.width} && {name}::TILE_H == {plain.height} && "
        f'{name}::THREADS == {plain.threads}, "tile");\n'
    )


def band_assertions(kind: Kind) -> str:
    """The same for tiles on the tensor cores."""
    band, name = band_shape(kind), f"sg3::BandShape<{kind.arguments()}>"
    return (
        f"static_assert({name}::TILE_W == {band.width} && {name}::TILE_H == {band.height} && "
        f'{name}::EVEN == {band.even} && {name}::ROW_STEP == {band.row_step}, "tile");\n'
    )
