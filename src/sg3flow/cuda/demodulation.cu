// The factors that demodulate, and their gradients.
#include "demodulation.h"
#include "grid.cuh"

namespace sg3 {

// Blocks go through the outputs, then through the samples.
template <int Taps>
__global__ void __launch_bounds__(DEMODULATION_THREADS)
    demodulation_kernel(const __grid_constant__ Sg3Demodulation op) {
    __shared__ typename DemodulationTile<Taps>::Memory memory;
    const unsigned outputs = static_cast<unsigned>(op.outputs);
    const int o = static_cast<int>(blockIdx.x % outputs);
    const int first = static_cast<int>(blockIdx.x / outputs) * SOME_SAMPLES;
    DemodulationTile<Taps>{op, memory, o, first}.run(BlockThreads());
}

template <int Taps>
__global__ void __launch_bounds__(THREADS)
    demodulation_dw_kernel(const __grid_constant__ Sg3Demodulation op) {
    const int64_t count = static_cast<int64_t>(op.outputs) * op.inputs;
    for (int64_t i = first_element(); i < count; i += element_step()) demodulation_dw<Taps>(op, i);
}

// Blocks go through tiles of inputs, then through the samples.
template <int Taps>
__global__ void __launch_bounds__(DEMODULATION_THREADS)
    demodulation_ds_kernel(const __grid_constant__ Sg3Demodulation op) {
    __shared__ typename StyleTile<Taps>::Memory memory;
    const unsigned tiles = static_cast<unsigned>((op.inputs + WARP - 1) / WARP);
    const int tile = static_cast<int>(blockIdx.x % tiles);
    const int first = static_cast<int>(blockIdx.x / tiles) * SOME_SAMPLES;
    StyleTile<Taps>{op, memory, tile, first}.run(BlockThreads());
}

}  // namespace sg3
