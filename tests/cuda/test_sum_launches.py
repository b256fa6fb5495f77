"""The ops with sums and the joined activation up to the driver, as in ``test_launches.py``."""

import pytest
import recorder
import torch

from sg3flow.ops.cuda_act_filter import act_filter, act_filter_flagged, act_filter_grad
from sg3flow.ops.cuda_filtered_lrelu import filtered_lrelu_flagged_sum, filtered_lrelu_squares

UP2 = (2, 2), (2, 2), (9, 8, 9, 8), False
F, FOUR = torch.full((12,), 1 / 12), torch.ones(4, 4)


@pytest.fixture
def gpu(monkeypatch):
    with recorder.installed(monkeypatch) as found:
        yield found


def test_squares_of_tiles(gpu):
    x = torch.ones(2, 3, 70, 36)
    y, flags, squares = filtered_lrelu_squares(x, F, F, None, *UP2, 1.4, 0.2, -1.0, False)
    ((kernel, blocks, _, (op, grid)),) = gpu.taken()
    assert kernel.startswith("tile_kernel") and flags.numel() == 0 and squares.shape == ()
    assert y.shape == (2, 3, 68, 34) and (grid.tiles_x, grid.tiles_y) == (2, 3)
    assert (op.sums_x, op.sums_plane, blocks) == (2, 6, 36) and op.sums
    filtered_lrelu_squares(x.half(), F, F, None, *UP2, 1.4, 0.2, -1.0, False)
    ((kernel, _, threads, (op, grid)),) = gpu.taken()
    assert kernel.startswith("band_kernel") and grid.plan.warps == threads // 32 == 5
    tiles = grid.tiles_x * grid.tiles_y
    assert (op.sums_x, op.sums_plane) == (grid.tiles_x, tiles * 5)


def test_generic_kernels_are_followed_by_a_sum(gpu):
    x, f = torch.ones(1, 5, 12, 12), torch.ones(3)
    *_, squares = filtered_lrelu_squares(
        x, f, f, None, (2, 2), (1, 1), (0,) * 4, False, 1.5, 0.2, -1.0, False
    )
    assert squares.shape == () and not any(launch[3][0].sums for launch in gpu.taken()[::2])


def test_sums_of_a_gradient(gpu):
    g, flags = torch.ones(1, 2, 34, 30), torch.zeros(1, 2, 70, 19, dtype=torch.uint8)
    dx, db = filtered_lrelu_flagged_sum(g, flags, F, F, *UP2[:3], (-3, 5), 75, True, 1.5, 0.2)
    ((_, _, _, (op, grid)),) = gpu.taken()
    assert dx.shape == (1, 2, 32, 28) and db.shape == (2,) and db.dtype == g.dtype
    assert op.read_flags == 1 and op.sums and op.sums_plane == grid.tiles_x * grid.tiles_y == 1


def test_activation_and_filter(gpu):
    x, b, base = torch.ones(2, 3, 33, 64), torch.ones(3), torch.ones(2, 3, 34, 65)
    y, flags = act_filter(x, b, FOUR, base, (2, 2, 1, 3), 0.2, 1.4, 9.0, True)
    ((kernel, blocks, threads, (op,)),) = gpu.taken()
    assert kernel == "act_filter_kernel<float, true>" and (blocks, threads) == (6 * 2 * 3, 256)
    assert y.shape == base.shape and flags.shape == (2, 3, 33, 16)
    assert (op.in_w, op.in_h, op.out_w, op.out_h) == (64, 33, 65, 34)
    assert (op.pad_x, op.pad_y, op.tiles_x, op.tiles_y, op.channels) == (2, 1, 3, 2, 3)
    places = (op.x, op.b, op.base, op.y, op.flags, op.filter.taps)
    assert places == tuple(t.data_ptr() for t in (x, b, base, y, flags, FOUR))
    assert (op.slope, op.gain, op.clamp, op.sums) == (0.2, 1.4, 9.0, None)
    dx, db = act_filter_grad(base, flags, FOUR, (33, 64), (2, 2, 1, 3), 0.2, 1.4)
    ((kernel, _, _, (op,)),) = gpu.taken()
    assert kernel == "act_filter_grad_kernel<float, true>" and dx.shape == x.shape
    assert (op.x, op.y, op.flags) == (base.data_ptr(), dx.data_ptr(), flags.data_ptr())
    assert op.sums and db.shape == (3,) and (op.slope, op.gain) == (0.2, 1.4)
    y = act_filter_flagged(x, flags, FOUR, (2, 2, 1, 3), 0.2, 1.4)
    ((kernel, _, _, (op,)),) = gpu.taken()
    assert kernel == "act_filter_flagged_kernel<float>" and y.shape == base.shape
    y, flags = act_filter(x.half(), None, None, None, (0,) * 4, 0.2, 1.4, -1.0, False)
    ((kernel, blocks, _, (op,)),) = gpu.taken()
    assert kernel == "act_filter_kernel<__half, false>" and op.flags is None
    assert blocks == 6 * 2 * 2 and op.filter.taps is None and flags.numel() == 0


REFUSED = [
    ({"x": torch.ones(2, 3, 8)}, "images must be"),
    ({"x": torch.ones(2, 3, 8, 8, dtype=torch.float64)}, "float64 has no kernel"),
    ({"f": torch.ones(3, 4)}, "the filter must be 4x4"),
    ({"f": torch.ones(4)}, "the filter must be 4x4"),
    ({"padding": (4, 0, 0, 0)}, "padding is 0 to 3"),
    ({"padding": (-1, 0, 0, 0)}, "padding is 0 to 3"),
    ({"f": None, "padding": (1, 0, 0, 0)}, "without a filter 0"),
    ({"b": torch.ones(4)}, "one value for each channel"),
    ({"base": torch.ones(2, 3, 8, 8)}, "the summand must be torch.float32"),
    ({"base": torch.ones(2, 3, 5, 5).half()}, "the summand must be torch.float32"),
    ({"x": torch.ones(2, 3, 2, 8)}, "smaller than the filter"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_kernels_cannot_take_is_refused(gpu, changes, message):
    given = {"x": torch.ones(2, 3, 8, 8), "b": None, "f": FOUR, "base": None, "padding": (0,) * 4}
    with pytest.raises(RuntimeError, match=message):
        act_filter(*(given | changes).values(), 0.2, 1.4, 9.0, True)
    assert not gpu.taken()


def test_gradients_and_flags_of_other_sizes_are_refused(gpu):
    flags = torch.zeros(2, 3, 8, 2, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="the gradient of 8x8 samples must be 5x5"):
        act_filter_grad(torch.ones(2, 3, 5, 6), flags, FOUR, (8, 8), (0,) * 4, 0.2, 1.4)
    with pytest.raises(RuntimeError, match="the flags must be uint8"):
        act_filter_grad(
            torch.ones(2, 3, 5, 5), torch.zeros(2, 3, 8, 1), FOUR, (8, 8), (0,) * 4, 0.2, 1.4
        )
    with pytest.raises(RuntimeError, match="the flags must be uint8"):
        act_filter_flagged(torch.ones(2, 3, 8, 8), flags.int(), FOUR, (0,) * 4, 0.2, 1.4)
    assert not gpu.taken()
