// How a kernel of the sources runs on the host, block by block.
#pragma once

#include <dlfcn.h>

#include "device.h"
#include "host_kernel.h"

// Memory of the stack that the next call takes for its own holds NaN: shared memory is one of a
// kernel's variables here.
[[gnu::noinline]] inline void poison_stack() {
    char below[256 * 1024];
    std::memset(below, 0xff, sizeof(below));
    asm volatile("" ::"r"(below) : "memory");
}

template <class Kernel>
struct Caller;

template <class... Parameters>
struct Caller<void (*)(Parameters...)> {
    using Kernel = void (*)(Parameters...);

    template <size_t... I>
    static void call(Kernel kernel, void** parameters, std::index_sequence<I...>) {
        kernel(*static_cast<Parameters*>(parameters[I])...);
    }
    static void call(Kernel kernel, void** parameters) {
        call(kernel, parameters, std::index_sequence_for<Parameters...>());
    }
};

inline void begin_launch(GridSize grid, GridSize block) {
    gridDim = {grid.x, grid.y, grid.z};
    blockDim = {block.x, block.y, block.z};
    threadIdx = {};
}

// A kernel that runs the threads of a block itself, by `BlockThreads`.
template <auto Kernel>
void run_blocks(void** parameters, GridSize grid, GridSize block) {
    begin_launch(grid, block);
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        poison_stack();
        Caller<decltype(Kernel)>::call(Kernel, parameters);
    }
}

// A kernel that is written for one thread, `Rounds` times: where it has a barrier, the threads of
// the first round leave in shared memory what those of the second one read there. Its results
// depend on nothing else.
template <auto Kernel, int Rounds>
void run_threads(void** parameters, GridSize grid, GridSize block) {
    begin_launch(grid, block);
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        for (int round = 0; round < Rounds; ++round) {
            for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) {
                Caller<decltype(Kernel)>::call(Kernel, parameters);
            }
        }
    }
}

template <auto Kernel>
HostKernel make_kernel(const char* expression, int threads, int shared,
                       void (*run)(void**, GridSize, GridSize)) {
    Dl_info found = {};
    dladdr(reinterpret_cast<const void*>(Kernel), &found);
    const char* symbol = found.dli_sname ? found.dli_sname : "";
    return {expression, symbol, threads, shared, run};
}

