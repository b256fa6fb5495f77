"""The build plan of the library of CPU kernels."""

import platform
import shutil

import pytest

from sg3flow.kernels.build_plan import make_build_plan


def test_the_abi_is_that_of_torch():
    import torch

    wanted = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    plan = make_build_plan()
    assert all(wanted in command for command in plan.objects.values())
    assert ("-DSG3FLOW_X86" in plan.objects["binding"]) == (platform.machine() == "x86_64")
