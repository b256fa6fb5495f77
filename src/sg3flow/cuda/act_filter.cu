// Bias, activation and a 4x4 filter or a sum in one pass, and its gradient: one block a tile.
#include "act_filter.h"

namespace sg3 {

template <class T, bool Filtered>
__global__ void __launch_bounds__(ACT_THREADS)
    act_filter_kernel(const __grid_constant__ Sg3ActFilter op) {
    __shared__ typename ActTile<T, Filtered>::Memory memory;
    ActTile<T, Filtered>(op, memory, blockIdx.x).template run<false>(BlockThreads());
}

// The samples times the slopes that the flags tell, filtered.
template <class T>
__global__ void __launch_bounds__(ACT_THREADS)
    act_filter_flagged_kernel(const __grid_constant__ Sg3ActFilter op) {
    __shared__ typename ActTile<T, true>::Memory memory;
    ActTile<T, true>(op, memory, blockIdx.x).template run<true>(BlockThreads());
}

template <class T, bool Filtered>
__global__ void __launch_bounds__(ACT_THREADS)
    act_filter_grad_kernel(const __grid_constant__ Sg3ActFilter op) {
    __shared__ typename ActTile<T, Filtered>::Memory memory;
    ActTile<T, Filtered>(op, memory, blockIdx.x).run_gradient(BlockThreads());
}

}  // namespace sg3
