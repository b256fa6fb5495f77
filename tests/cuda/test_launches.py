"""The CUDA ops up to the driver: which kernels, grids and parameters, and what is refused.

A recorder takes the place of the driver, and tensors are those of the CPU: nothing is computed.
"""

import pytest
import recorder
import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels.cuda_driver import DriverError
from sg3flow.ops import (
    cuda_bias_act,
    cuda_filtered_generic,
    cuda_filtered_lrelu,
    cuda_modulation,
    cuda_upfirdn2d,
)
from sg3flow.ops.cuda_bias_act import bias_act, bias_act_grad
from sg3flow.ops.cuda_checks import PreparedCalls
from sg3flow.ops.cuda_filtered_lrelu import filtered_lrelu, filtered_lrelu_flagged
from sg3flow.ops.cuda_upfirdn2d import upfirdn2d, upfirdn2d_add

UP4 = (4, 4), (2, 2), (21, 20, 21, 20), False
UP2 = (2, 2), (2, 2), (9, 8, 9, 8), False


@pytest.fixture
def gpu(monkeypatch):
    with recorder.installed(monkeypatch) as found:
        yield found


def taps(count, dtype=torch.float32):
    return torch.full((count,), 1 / count, dtype=dtype)


def test_a_layer_runs_the_kernel_of_its_kind_dtype_and_flags(gpu):
    x, f, b = torch.ones(2, 3, 40, 36), taps(12), torch.ones(3)
    y, flags = filtered_lrelu(x, taps(24), f, b, *UP4, 1.4, 0.2, 256.0, True)
    ((kernel, blocks, threads, (op, grid)),) = gpu.taken()
    assert kernel == "tile_kernel<PlainTile<4, 24, false, 2, 12, false>, float, false>"
    assert y.shape == (2, 3, 84, 76) and flags.shape == (2, 3, 178, 41) and op.flags_stride == 41
    assert (blocks, threads, grid.tiles_x, grid.tiles_y) == (6 * 9, 128, 3, 3)
    assert (op.x, op.y, op.flags, op.b) == tuple(t.data_ptr() for t in (x, y, flags, b))
    assert (op.mid_w, op.mid_h, op.out_w, op.out_h, op.in_w) == (162, 178, 76, 84, 36)
    assert (
        op.limit == pytest.approx(256 / 1.4) and op.read_flags == 0 and op.fd.taps == f.data_ptr()
    )


def test_a_gradient_reads_the_flags_from_where_they_are(gpu):
    g, flags = torch.ones(1, 2, 34, 30), torch.zeros(1, 2, 70, 19, dtype=torch.uint8)
    dx = filtered_lrelu_flagged(g, flags, F, F, *UP2[:3], (-3, 5), 75, True, 1.5, 0.2)
    ((kernel, _, _, (op, _)),) = gpu.taken()
    assert kernel == "tile_kernel<PlainTile<2, 12, false, 2, 12, false>, float, true>"
    assert (op.read_flags, op.flags, op.limit, op.flip) == (1, flags.data_ptr(), -1, 1)
    assert (op.flags_w, op.flags_h, op.flags_stride) == (75, 70, 19)
    assert (op.offset_x, op.offset_y, op.b, op.y) == (-3, 5, None, dx.data_ptr())
    filtered_lrelu_flagged(
        g, flags, F, taps(24), (2, 2), (4, 4), (9, 8, 9, 8), (0, 0), 75, False, 1.0, 0.2
    )
    assert gpu.taken()[0][0].startswith("tile_kernel<PlainTile<2, 12, false, 4, 24")
    filtered_lrelu(g, F, taps(24), None, (2, 2), (4, 4), (9, 8, 9, 8), False, 1.0, 0.2, -1.0, True)
    assert gpu.taken()[0][0].startswith("bend_kernel")  # that kind exists for gradients only


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_on_tensor_cores_where_there_are_some(gpu, monkeypatch, dtype):
    x, f, name = torch.ones(8, 512, 52, 52, dtype=dtype), taps(12), {torch.float16: "__half"}
    name = name.get(dtype, "__nv_bfloat16")
    filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.2, -1.0, False)
    ((kernel, blocks, threads, (op, grid)),) = gpu.taken()
    assert kernel == f"band_kernel<BandShape<2, 12, false, 2, 12, false>, {name}, NO_FLAGS>"
    assert (grid.plan.cols, grid.plan.rows, grid.plan.blocks, grid.plan.warps) == (52, 50, 8, 7)
    assert grid.planes == 1 and (blocks, threads) == (4096, 224) and op.limit == -1
    filtered_lrelu(x, f, f, None, *UP2, 1.0, 1.5, -1.0, False)  # a slope they cannot compute
    assert gpu.taken()[0][0].startswith("tile_kernel")
    gpu.code = (7, 5)
    filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.3, -1.0, False)
    assert gpu.taken()[0][0].endswith(f"{name}, false>")
    gpu.code = (9, 0)
    monkeypatch.setenv("SG3FLOW_TENSOR_CORES", "0")
    cuda_filtered_lrelu.use_tensor_cores.cache_clear()
    filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.4, -1.0, False)
    assert gpu.taken()[0][0].startswith("tile_kernel")


def test_other_filters_take_two_steps_through_a_workspace(gpu, monkeypatch):
    monkeypatch.setattr(cuda_filtered_generic, "_WORKSPACE_SAMPLES", 2 * 22 * 22)
    x, f = torch.ones(1, 5, 12, 12, dtype=torch.float16), taps(3)
    y, _ = filtered_lrelu(x, f, f, None, (2, 2), (1, 1), (0,) * 4, False, 1.5, 0.2, -1.0, False)
    launches = gpu.taken()
    assert [kernel for kernel, *_ in launches] == [
        *("bend_kernel<__half, float>", "second_kernel<__half>") * 3
    ]
    assert [parameters[1].value for _, _, _, parameters in launches[::2]] == [0, 2, 4]
    assert [parameters[2].value for _, _, _, parameters in launches[::2]] == [264, 264, 132]
    steps = [parameters[0] for _, _, _, parameters in launches[1::2]]
    assert [step.planes for step in steps] == [2, 2, 1]
    assert [step.y - y.data_ptr() for step in steps] == [0, 2 * 20 * 20 * 2, 4 * 20 * 20 * 2]
    assert all(step.gain == 1.5 and step.up_x == 1 and step.filter.width == 3 for step in steps)


def test_without_a_second_filter_the_first_step_writes_the_result(gpu):
    x, f = torch.ones(1, 5, 12, 12, dtype=torch.float16), taps(3)
    y, _ = filtered_lrelu(x, f, None, None, (2, 2), (1, 1), (0,) * 4, False, 1.5, 0.2, 1.0, False)
    ((kernel, _, _, parameters),) = gpu.taken()
    assert kernel == "bend_kernel<__half, __half>" and parameters[3].value == y.data_ptr()
    assert parameters[4].value == 1.5


def test_calls_alike_are_prepared_once(gpu):
    x, f = torch.ones(1, 2, 36, 36), taps(12)
    for _ in range(3):
        filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.2, -1.0, False)
        upfirdn2d(x, f, (2, 2), (1, 1), (6, 5, 6, 5), False, 1.0)
        bias_act(x, None, 0.2, 1.0, -1.0)
    calls = (module._calls for module in (cuda_filtered_lrelu, cuda_upfirdn2d, cuda_bias_act))
    assert [len(each._calls) for each in calls] == [1, 1, 1] and gpu.loaded == 3
    table = PreparedCalls()
    for number in range(5000):
        table.put(number, number)
    assert len(table._calls) <= 4096 and table.get(4999) == 4999


def test_bias_act_takes_16_bytes_where_sizes_and_addresses_allow(gpu):
    memory = torch.ones(2 * 3 * 64 + 1, dtype=torch.float16)
    x, moved = memory[:-1].view(2, 3, 64), memory[1:].view(2, 3, 64)
    b = torch.ones(3, dtype=torch.float16)
    bias_act(x, b, 0.2, 1.0, 0.5)
    bias_act(moved, b, 0.2, 1.0, 0.5)
    bias_act(x[:, :, :63].contiguous(), b, 0.2, 1.0, 0.5)
    bias_act(
        torch.ones(2, 4, 7, dtype=torch.float16), None, 0.2, 1.0, 0.5
    )  # packs, but of channels
    bias_act_grad(x, x, 0.2, 1.0, 0.5)
    found = [(kernel, blocks) for kernel, blocks, *_ in gpu.taken()]
    wide, single = ("bias_act_kernel<__half, %d, uint32_t>" % n for n in (8, 1))  # noqa: UP031
    assert found == [(wide, 1), (single, 2), (single, 2), (single, 1), (wide, 1)]


def test_a_long_filter_takes_two_passes_and_a_small_one_is_unrolled(gpu):
    x, small = torch.ones(2, 3, 16, 16), torch.ones(4, 4)
    y = upfirdn2d(x, taps(12), (2, 1), (1, 2), (6, 5, 4, 3), True, 3.0)
    (_, _, _, (across, _)), (_, _, _, (along, _)) = gpu.taken()
    assert (across.filter.width, across.filter.height, across.gain) == (12, 1, 1.0)
    assert (along.filter.width, along.filter.height, along.gain) == (1, 12, 3.0)
    assert (across.up_x, across.down_y, along.up_x, along.down_y) == (2, 1, 1, 2)
    assert (across.pad_x, across.pad_y, along.pad_x, along.pad_y) == (6, 0, 0, 4)
    assert y.shape == (2, 3, 6, 32) and along.x == across.y
    upfirdn2d(x, small, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    upfirdn2d(x, small, (1, 1), (3, 3), (2, 1, 2, 1), False, 4.0)
    assert [kernel for kernel, *_ in gpu.taken()] == [
        *("small_kernel<float, 2, 1>", "upfirdn_kernel<float>")
    ]


def test_nothing_is_launched_for_nothing(gpu):
    x, f = torch.ones(0, 3, 36, 36), taps(12)
    y, flags = filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.2, -1.0, True)
    assert y.shape == (0, 3, 34, 34) and flags.shape == (0, 3, 78, 20)
    assert bias_act(x, None, 0.2, 1.0, -1.0).shape == x.shape
    assert upfirdn2d(x, f, (2, 2), (1, 1), (6, 5, 6, 5), False, 1.0).shape == (0, 3, 72, 72)
    assert gpu.taken() == []


X, F = torch.ones(1, 2, 8, 8), taps(12)
LRELU = (*UP2, 1.0, 0.2, -1.0, True)
FLAGS = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (upfirdn2d, (X[0], F, *UP2, 1.0), "images must be"),
        (upfirdn2d, (X.transpose(2, 3), F, *UP2, 1.0), "must be contiguous"),
        (upfirdn2d, (X.int(), F, *UP2, 1.0), "float16, bfloat16"),
        (upfirdn2d, (X, F.double(), *UP2, 1.0), "filters must be float32"),
        (upfirdn2d, (X, F.to("meta"), *UP2, 1.0), "the filter is on meta, the images on cpu"),
        (upfirdn2d, (X, F.expand(2, 3, 12), *UP2, 1.0), "must be contiguous"),
        (upfirdn2d, (X, torch.ones(1, 1, 1), *UP2, 1.0), r"must be \[taps\] or"),
        (upfirdn2d, (X, F, (0, 1), *UP2[1:], 1.0), "rates go from 1"),
        (upfirdn2d, (X, F, (1, 1), (1, 1), (0,) * 4, False, 1.0), "smaller than the filter"),
        (upfirdn2d, (X, F, (1, 1), (1, 1), (2**40, 0, 0, 0), False, 1.0), "beyond what"),
        (bias_act, (X, F, 0.2, 1.0, -1.0), "one value for each channel"),
        (bias_act, (X, F[:2].half(), 0.2, 1.0, -1.0), "the bias must be"),
        (bias_act_grad, (X, X[:, :1].contiguous(), 0.2, 1.0, -1.0), "gradient must be like y"),
        (filtered_lrelu, (X, F, F, F, *LRELU), "one value for each channel"),
        (filtered_lrelu, (X, F, F[:0], None, *LRELU), r"must be \[taps\] or"),
        (
            filtered_lrelu_flagged,
            (X, FLAGS, F, F, *UP2[:3], (0, 0), 99, False, 1.0, 0.2),
            "hold 99",
        ),
        (
            filtered_lrelu_flagged,
            (X, FLAGS[:, :1].contiguous(), F, F, *UP2[:3], (0, 0), 13, False, 1.0, 0.2),
            r"flags must be uint8 \[N, C, height, bytes\]",
        ),
    ],
)
def test_wrong_tensors_are_refused(gpu, op, arguments, message):
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^{op.__name__}: .*{message}"):
            op(*arguments)
    assert gpu.taken() == []


def test_more_tiles_than_a_grid_holds_take_several_launches(gpu, monkeypatch):
    monkeypatch.setattr("sg3flow.ops.cuda_tiles.MOST_BLOCKS", 10)
    x, f = torch.ones(1, 5, 64, 64), taps(12)
    filtered_lrelu(x, f, f, None, *UP2, 1.0, 0.2, -1.0, False)
    parts = [(blocks, grid.first_plane, grid.end_plane) for _, blocks, _, (_, grid) in gpu.taken()]
    assert parts == [(8, 0, 2), (8, 2, 4), (4, 4, 5)]


def test_an_error_of_a_launch_names_the_op_and_the_way_out(gpu):
    gpu.failure = "CUDA_ERROR_INVALID_VALUE: invalid argument"
    with pytest.raises(RuntimeError, match=r"bias_act: .*could not run: CUDA_ERROR_I.*=torch runs"):
        bias_act(X, None, 0.2, 1.0, -1.0)


def test_kernels_are_not_loaded_while_a_graph_is_captured(gpu):
    gpu.is_held = True
    with pytest.raises(RuntimeError, match=r"captured \(bias_act-float32\).* warm-up"):
        bias_act(X, None, 0.2, 1.0, -1.0)
    gpu.is_held = False
    bias_act(X, None, 0.2, 1.0, -1.0)
    gpu.is_held = True
    bias_act(X, None, 0.2, 2.0, -1.0)
    assert len(gpu.taken()) == 2


def test_data_loading_processes_compile_nothing(gpu, monkeypatch):
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: object())
    with pytest.raises(ConfigError, match="data loading"):
        bias_act(X, None, 0.2, 1.0, -1.0)
    assert gpu.loaded == 0


def test_a_driver_that_does_not_load_the_code_is_an_error(gpu, monkeypatch):
    def refuse(image):
        raise DriverError("cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image")

    monkeypatch.setattr(gpu, "load_module", refuse)
    with pytest.raises(ConfigError, match=r"does not load .*bias_act-float32 for sm_90.*update it"):
        bias_act(X, None, 0.2, 1.0, -1.0)


def test_weights_of_samples_take_what_divides_a_row_and_a_block_for_each(gpu):
    for c_in, k, run in ((512, 3, 4), (362, 3, 2), (181, 3, 1), (724, 1, 4)):
        w, a, b = torch.ones(6, c_in, k, k), torch.ones(5, 6), torch.ones(5, c_in)
        y = cuda_modulation.scaled_weights(w, a, b, torch.float16)
        ((kernel, blocks, threads, (op,)),) = gpu.taken()
        assert kernel == f"scale_kernel<__half, {k * k}, {run}>" and (blocks, threads) == (30, 256)
        assert (op.samples, op.outputs, op.inputs) == (5, 6, c_in) and op.grad is None
        assert (op.w, op.a, op.b, op.y) == tuple(t.data_ptr() for t in (w, a, b, y))
    cuda_modulation.scaled_weights(w, None, b, torch.float32)
    ((kernel, _, _, (op,)),) = gpu.taken()
    assert kernel == "scale_kernel<float, 1, 4>" and op.a is None
    assert cuda_modulation.scaled_weights(w, None, b[:0], torch.float32).shape == (0, *w.shape)
    assert gpu.taken() == []


def test_gradients_of_weights_come_as_sums_of_tiles(gpu, monkeypatch):
    sums = []
    monkeypatch.setattr(torch.Tensor, "sum", lambda t, dim: sums.append(tuple(t.shape)) or t[0])
    for k, tiles in ((3, (9, 2)), (1, (2, 2))):  # of 4 or 32 outputs, and of 32 inputs
        w, a, b = torch.ones(35, 40, k, k), torch.ones(5, 35), torch.ones(5, 40)
        grad = torch.ones(5, *w.shape, dtype=torch.bfloat16)
        dw, da, db = cuda_modulation.scaled_weights_grad(grad, w, a, b)
        ((kernel, blocks, threads, (op,)),) = gpu.taken()
        assert kernel == f"scale_grad_kernel<__nv_bfloat16, {k * k}>"
        assert (blocks, threads) == (tiles[0] * tiles[1], 256)
        assert sums == [(tiles[1], 5, 35), (tiles[0], 5, 40)]
        assert (op.dw, op.da, op.db) == tuple(t.data_ptr() for t in (dw, da, db))
        assert (op.grad, op.a) == (grad.data_ptr(), a.data_ptr())
        sums.clear()
    assert cuda_modulation.scaled_weights_grad(grad, w, None, b)[1].numel() == 0
    assert gpu.taken()[0][3][0].da is None


def test_demodulation_has_a_block_for_each_output_and_eight_samples(gpu):
    w, s = torch.ones(7, 70, 3, 3), torch.ones(9, 70)
    y = cuda_modulation.demodulation(w, s, 1e-8, True)
    ((kernel, blocks, threads, (op,)),) = gpu.taken()
    assert kernel == "demodulation_kernel<9>" and (blocks, threads) == (14, 256)
    assert (op.relative, op.eps, op.y) == (1, pytest.approx(1e-8), y.data_ptr())
    dw, ds = cuda_modulation.demodulation_grad(torch.ones(9, 7), y, w, s)
    first, second = gpu.taken()
    assert first[:3] == ("demodulation_dw_kernel<9>", 2, 256)
    assert second[:3] == ("demodulation_ds_kernel<9>", 3 * 2, 256)
    assert (first[3][0].dw, second[3][0].ds) == (dw.data_ptr(), ds.data_ptr())
    assert (first[3][0].a, second[3][0].s) == (y.data_ptr(), s.data_ptr())


def test_what_modulation_cannot_read_is_refused(gpu):
    w, a, b = torch.ones(6, 4, 3, 3), torch.ones(5, 6), torch.ones(5, 4)
    weights, gradients = cuda_modulation.scaled_weights, cuda_modulation.scaled_weights_grad
    for call, words in (
        (lambda: weights(torch.ones(6, 4, 5, 5), a, b, torch.float16), "k = 1 or 3"),
        (lambda: weights(w.double(), a, b, torch.float16), "w must be float32"),
        (lambda: weights(w.permute(1, 0, 2, 3), a, b, torch.float16), "contiguous"),
        (lambda: weights(w, a.t(), b, torch.float16), "contiguous"),
        (lambda: weights(w, a[:4], b, torch.float16), r"a must be float32 \[5, 6\]"),
        (lambda: weights(w, a, b.half(), torch.float16), "b must be float32"),
        (lambda: weights(w, a, b, torch.int32), "not torch.int32"),
        (lambda: gradients(torch.ones(5, 6, 4, 3, 2), w, a, b), "the gradient must be"),
        (lambda: cuda_modulation.demodulation(w, b[:, :3], 0.0, True), "s must be|contiguous"),
        (lambda: cuda_modulation.demodulation_grad(a[:4], a, w, b), "the gradient must be"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call()
    assert gpu.taken() == []


def test_a_small_filter_adds_in_its_pass_and_others_after_it(gpu):
    x, small = torch.ones(2, 3, 16, 16, dtype=torch.float16), torch.ones(4, 4)
    base = torch.ones(2, 3, 32, 32, dtype=torch.float16)
    y = upfirdn2d_add(x, small, base, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    ((kernel, blocks, _, (op, added, count)),) = gpu.taken()
    assert kernel == "small_add_kernel<__half, 2, 1>" and blocks == 24
    assert (op.x, op.y, added.value) == (x.data_ptr(), y.data_ptr(), base.data_ptr())
    assert count.value == 2 * 3 * 32 * 32 and op.gain == 4
    upfirdn2d_add(x, taps(12), base, (2, 2), (1, 1), (6, 5, 6, 5), False, 4.0)
    assert [kernel for kernel, *_ in gpu.taken()] == ["upfirdn_kernel<__half>"] * 2
    with pytest.raises(RuntimeError, match=r"the summand must be like the result.*32, 32"):
        upfirdn2d_add(
            x, small, base[..., 1:].contiguous(), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0
        )
