"""The stand-in driver refuses what a real one does, and launches with wrong parameters."""

import pytest
import torch

from sg3flow.kernels.cuda_compile import compiled
from sg3flow.kernels.cuda_driver import DriverError, cuda_driver
from sg3flow.kernels.nvrtc import find_nvrtc
from sg3flow.ops import cuda_launch
from sg3flow.ops.cuda_bias_act import bias_act
from sg3flow.ops.cuda_filtered_lrelu import filtered_lrelu
from sg3flow.ops.cuda_programs import bias_act_program
from sg3flow.ops.cuda_upfirdn2d import upfirdn2d

PROGRAM = bias_act_program(torch.float32)


def more(value):
    return value + 1


def launch_again(gpu, changes, index=-1):
    """Repeats a launch with changes of the grid, of a field, or by its place of a parameter."""
    launch = gpu.launches()[index]
    options = {"blocks": launch.blocks, "threads": launch.threads, "device": launch.device}
    options |= {"stream": gpu.stream(launch.device), "dynamic_bytes": 0}
    for name, value in changes.items():
        if name in options:
            options[name] = value(options[name]) if callable(value) else value
            continue
        places = [launch.parameters[name]] if isinstance(name, int) else launch.parameters
        name = "value" if isinstance(name, int) else name
        owner = next(each for each in places if hasattr(each, name))
        setattr(owner, name, value(getattr(owner, name)) if callable(value) else value)
    handles = {
        kernel.replace(" ", ""): handle
        for functions in cuda_launch._loaded.values()
        for kernel, handle in functions.items()
    }
    gpu.use_device(options.pop("device"))
    cuda_driver().launch(handles[launch.kernel], parameters=launch.parameters, **options)


def run_bias_act(device="cuda"):
    x, b = torch.ones(2, 3, 10, 40, device=device), torch.ones(3, device=device)
    bias_act(x, b, 0.2, 1.0, -1.0)


def run_filtered_lrelu(device="cuda", up=(2, 2), taps=12, padding=(9, 8, 9, 8)):
    x, f = torch.ones(2, 3, 40, 38, device=device).half(), torch.ones(12, device=device)
    fu = torch.ones(taps, device=device)
    filtered_lrelu(x, fu, f, None, up, (2, 2), padding, False, 1.0, 0.2, -1.0, True)


def run_generic(device="cuda"):
    run_filtered_lrelu(device, (3, 3), 7, (0, 0, 0, 0))


def run_upfirdn2d(device="cuda"):
    x, f = torch.ones(2, 3, 40, 38, device=device), torch.ones(4, 4, device=device)
    upfirdn2d(x, f, (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("run", [run_bias_act, run_filtered_lrelu, run_generic, run_upfirdn2d])
def test_the_launches_of_the_ops_are_right(gpu, run, device):
    try:
        run(device)
    except RuntimeError as error:
        pytest.fail(f"{error}: {gpu.complaint}")
    count = len(gpu.launches())
    for index in range(count):
        launch_again(gpu, {}, index)
    assert len(gpu.launches()) == 2 * count > 0


@pytest.mark.parametrize(
    ("run", "changes", "complaint"),
    [
        (run_bias_act, {"blocks": more}, "blocks of the grid is 4, not 3 to 3"),
        (run_bias_act, {"blocks": 0}, "a grid's side is 0"),
        (run_bias_act, {"blocks": 2**31}, "a grid's side is 2147483648"),
        (run_bias_act, {"threads": 128}, "threads of a block is 128"),
        (run_bias_act, {"threads": 2048}, "a block's side is 2048"),
        (run_bias_act, {"dynamic_bytes": 50 * 1024}, "were not asked for"),
        (run_bias_act, {"stream": 7}, "another device's stream"),
        (run_bias_act, {"device": 1}, "another device's function"),
        (run_bias_act, {"device": -1}, "without a context"),
        (run_bias_act, {"count": 2404}, "9616 bytes of x are not a tensor's on device 0"),
        (run_bias_act, {"count": 2398}, "elements beside whole packs is 2"),
        (run_bias_act, {"type": 3}, "19200 bytes of x are not"),
        (run_bias_act, {"channels": more}, "16 bytes of b are not"),
        (run_bias_act, {"grad": 64}, "of grad are not"),
        (run_bias_act, {"y": None}, "y is null"),
        (run_filtered_lrelu, {"blocks": more}, "blocks of the grid is"),
        (run_filtered_lrelu, {"threads": 256}, "threads of a block is 256"),
        (run_filtered_lrelu, {"tiles_x": more}, "tiles in a row is"),
        (run_filtered_lrelu, {"tiles_y": more}, "tiles in a column is"),
        (run_filtered_lrelu, {"planes": more}, "bytes of x are not"),
        (run_filtered_lrelu, {"end_plane": more}, "end plane is 7"),
        (run_filtered_lrelu, {"out_w": more}, "bytes of y are not"),
        (run_filtered_lrelu, {"flags_stride": more}, "bytes of flags are not"),
        (run_filtered_lrelu, {"flags": None, "read_flags": 1}, "flags is null"),
        (run_generic, {"planes": more}, "count is"),
        (run_upfirdn2d, {"in_h": more}, "bytes of x are not"),
        (run_upfirdn2d, {1: more}, "count is"),
    ],
)
def test_wrong_launches_are_refused(gpu, run, changes, complaint):
    run()
    count = len(gpu.launches())
    with pytest.raises(DriverError, match=r"^CUDA_ERROR_\w+: "):
        launch_again(gpu, changes)
    assert complaint in gpu.complaint and len(gpu.launches()) == count


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({2: more}, "count is"),
        ({3: 64}, "the workspace are not"),
        ({"mid_w": more}, "count beside"),
    ],
)
def test_a_wrong_workspace_is_refused(gpu, changes, complaint):
    run_generic()
    with pytest.raises(DriverError):
        launch_again(gpu, changes, index=0)
    assert complaint in gpu.complaint


def test_code_runs_on_its_own_and_later_devices_of_a_major_version(gpu):
    gpu.reset([80, 86, 90, 75])
    made = {arch: compiled(PROGRAM, arch, find_nvrtc()).code for arch in ("sm_80", "compute_80")}
    runs = {"sm_80": [0, 1], "compute_80": [0, 1, 2]}
    for architecture, code in made.items():
        for device in range(4):
            gpu.use_device(device)
            if device in runs[architecture]:
                assert cuda_driver().load_module(code)
                continue
            with pytest.raises(
                DriverError, match="NO_BINARY_FOR_GPU: no kernel image is available"
            ):
                cuda_driver().load_module(code)


def test_what_is_no_code_is_refused(gpu):
    code = compiled(PROGRAM, "sm_90", find_nvrtc()).code
    for image in (b"nothing at all", code[:-2]):
        with pytest.raises(DriverError, match="INVALID_IMAGE: device kernel image is invalid"):
            cuda_driver().load_module(image)
    module = cuda_driver().load_module(code)
    with pytest.raises(DriverError, match="NOT_FOUND: named symbol not found"):
        cuda_driver().function(module, "sg3::none<float>")
    with pytest.raises(DriverError, match="INVALID_HANDLE"):
        cuda_driver().function(module + 8, "sg3::none<float>")


def test_more_shared_memory_is_asked_for_once(gpu):
    run_bias_act()
    made = compiled(PROGRAM, "sm_90", find_nvrtc())
    driver = cuda_driver()
    name = next(name for kernel, name in made.names.items() if "float, 4, uint32_t" in kernel)
    function = driver.function(driver.load_module(made.code), name, dynamic_bytes=60 * 1024)
    options = (3, 256, gpu.launches()[0].parameters, gpu.stream(0))
    driver.launch(function, *options, 60 * 1024)
    with pytest.raises(DriverError, match="INVALID_VALUE"):
        driver.launch(function, *options, 61 * 1024)
    with pytest.raises(DriverError, match="INVALID_VALUE"):
        driver.function(driver.load_module(made.code), name, dynamic_bytes=250 * 1024)


def test_errors_have_the_drivers_words(gpu):
    assert cuda_driver().words(2) == "CUDA_ERROR_OUT_OF_MEMORY: out of memory"
    assert cuda_driver().words(12345) == "error 12345 of the CUDA driver"
    assert cuda_driver().version() == (13, 0)
    gpu.set_driver_version(12, 4)
    assert cuda_driver().version() == (12, 4)
