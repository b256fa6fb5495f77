// upfirdn2d of a 4x4 filter, added to a tensor: one pass where two gradients of an image meet.
#include "grid.cuh"
#include "small_filter.h"

namespace sg3 {

// `base` is like the result.
template <class T, int Up, int Down>
__global__ void __launch_bounds__(THREADS)
    small_add_kernel(const __grid_constant__ Sg3Upfirdn op, const void* base, int64_t count) {
    __shared__ float taps[SMALL_TAPS * SMALL_TAPS];
    if (threadIdx.x < SMALL_TAPS * SMALL_TAPS) {
        taps[threadIdx.x] = small_tap(op, static_cast<int>(threadIdx.x));
    }
    __syncthreads();
    const T* from = static_cast<const T*>(base);
    for (int64_t i = first_element(); i < count; i += element_step()) {
        small_sample<T, Up, Down>(op, taps, i, widen(from[i]));
    }
}

}  // namespace sg3
