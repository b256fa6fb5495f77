// A kernel that runs on the host in place of the GPU, and what a launch of it is checked against.
#pragma once

#include <cstddef>
#include <vector>

struct GridSize {
    unsigned x = 1, y = 1, z = 1;
};

struct HostKernel {
    const char* expression;  // as the product writes it: "band_kernel<BandShape<...>, ...>"
    const char* symbol;      // mangled by the host's compiler
    int threads;             // most of a block
    int shared;              // bytes of static shared memory
    void (*run)(void** parameters, GridSize grid, GridSize block);
};

// Every kernel of the host library; a stand-in driver without one has no such function.
extern "C" __attribute__((weak)) const std::vector<HostKernel>& host_kernels();
