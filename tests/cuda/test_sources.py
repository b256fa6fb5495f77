"""What Python assumes of the kernels' sources: layouts, sizes of tiles, their division, kernels."""

import itertools
import re

import pytest
import stand_in
import torch

from sg3flow.kernels.cuda_compile import SOURCES
from sg3flow.ops import cuda_programs
from sg3flow.ops.cuda_structs import C_NAMES, layout_assertions
from sg3flow.ops.cuda_tiles import (
    KINDS,
    band_plan,
    filter_family,
    plain_shape,
    planes_of_block,
)


def test_kernels_know_no_torch_and_no_launches():
    for path in sorted(SOURCES.iterdir()):
        text = path.read_text()
        assert not re.search(r"#include <(torch|ATen|c10)|<<<", text), path.name


def test_every_kernel_of_the_sources_is_in_a_program_and_the_other_way_round():
    written = {
        name
        for path in SOURCES.glob("*.cu")
        for name in re.findall(r"__global__.*\n\s+(\w+)\(", path.read_text())
    }
    programs = cuda_programs.all_programs()
    wanted = [kernel for program in programs for kernel in program.kernels]
    assert {re.match(r"sg3::(\w+)<", kernel)[1] for kernel in wanted} == written
    assert len(wanted) == len(set(wanted)) == 156
    assert len({program.name for program in programs}) == len(programs)
    assert {program.source for program in programs} == {path.name for path in SOURCES.glob("*.cu")}
    older = cuda_programs.all_programs(has_tensor_cores=False)
    assert not any("band" in program.name for program in older) and len(older) == len(programs) - 4


@pytest.mark.medium
def test_planes_are_divided_as_the_sources_do(whole_library):
    sources = stand_in.StandIn(whole_library)
    sizes = (1, 2, 15, 36, 52, 63, 84, 148, 276, 532, 1044)
    for index, kind in enumerate(KINDS):
        for width, height in itertools.product(sizes, sizes):
            plan = band_plan(kind, width, height)
            found = [plan.cols, plan.rows, plan.blocks, plan.warps]
            assert found == sources.plan(index, width, height), (kind, width, height)


# (cols, rows, blocks, warps) of each kind, for a wide plane, a small one and one of two outputs
DIVIDED = (
    ((72, 50, 10, 7), (36, 52, 6, 8), (4, 1, 2, 2)),
    ((72, 50, 10, 7), (36, 52, 6, 8), (4, 1, 2, 2)),
    ((40, 25, 12, 8), (36, 26, 12, 8), (4, 1, 4, 2)),
    ((48, 50, 7, 7), (36, 26, 6, 4), (4, 1, 2, 2)),
    ((48, 50, 7, 7), (36, 26, 6, 4), (4, 1, 2, 2)),
    ((56, 50, 8, 8), (36, 52, 6, 8), (4, 1, 2, 2)),
    ((26, 25, 8, 8), (20, 26, 8, 8), (4, 1, 4, 2)),
)


def test_planes_are_divided_evenly():
    """The same as above for a few sizes, without a compiler."""
    for kind, expected in zip(KINDS, DIVIDED, strict=True):
        plans = [band_plan(kind, *size) for size in ((276, 148), (36, 52), (2, 1))]
        found = tuple((plan.cols, plan.rows, plan.blocks, plan.warps) for plan in plans)
        assert found == expected, kind


def test_the_assertions_name_every_field():
    text = layout_assertions()
    for struct, name in C_NAMES.items():
        for field, *_ in struct._fields_:
            assert f"sizeof({name}::{field})" in text and f"({name}, {field})" in text


def test_families_of_filters():
    separable, radial = (12,), (12, 12)
    assert filter_family((2, 2), separable, (2, 2), separable) == "separable"
    assert filter_family((4, 4), (24,), (2, 2), radial) == "radial"
    # those that only a gradient has, and others
    assert filter_family((2, 2), separable, (4, 4), (24,)) == "generic"
    assert filter_family((2, 2), separable, (2, 1), separable) == "generic"
    assert filter_family((1, 1), None, (1, 1), None) == "generic"


def test_blocks_share_weights_where_enough_blocks_are_left():
    assert [planes_of_block(planes, 9) for planes in (1, 512, 1000, 2000, 99999)] == [1, 1, 2, 4, 8]
    assert plain_shape(KINDS[2])[:2] == (16, 12) and plain_shape(KINDS[0])[:2] == (32, 32)


def test_a_thread_of_bias_act_takes_16_bytes():
    kernels = cuda_programs.bias_act_program(torch.float16).kernels
    assert "sg3::bias_act_kernel<__half, 8, uint32_t>" in kernels
    assert "sg3::bias_act_kernel<double, 2, int64_t>" in (
        cuda_programs.bias_act_program(torch.float64).kernels
    )
