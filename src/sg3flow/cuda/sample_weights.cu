// The weights of each sample in one pass, and their gradients.
#include "sample_weights.h"

namespace sg3 {

// One block a row, and the rows after as many as there are blocks.
template <class T, int Taps, int Count>
__global__ void __launch_bounds__(WEIGHT_THREADS)
    scale_kernel(const __grid_constant__ Sg3Weights op) {
    const int64_t rows = static_cast<int64_t>(op.samples) * op.outputs;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        scale_row<T, Taps, Count>(op, row, static_cast<int>(threadIdx.x), WEIGHT_THREADS);
    }
}

template <class T, int Taps>
__global__ void __launch_bounds__(WEIGHT_THREADS)
    scale_grad_kernel(const __grid_constant__ Sg3Weights op) {
    __shared__ typename WeightTile<Taps>::Memory memory;
    const unsigned input_tiles = static_cast<unsigned>((op.inputs + LANES - 1) / LANES);
    const int output_tile = static_cast<int>(blockIdx.x / input_tiles);
    const int input_tile = static_cast<int>(blockIdx.x % input_tiles);
    WeightTile<Taps>{op, memory, output_tile, input_tile}.template run<T>(BlockThreads());
}

}  // namespace sg3
