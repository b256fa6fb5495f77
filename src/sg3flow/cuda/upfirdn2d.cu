// upfirdn2d: one output per thread; what neighbors share comes from the L1 cache.
#include "small_filter.h"
#include "grid.cuh"

namespace sg3 {

template <class T>
__global__ void __launch_bounds__(THREADS)
    upfirdn_kernel(const __grid_constant__ Sg3Upfirdn op, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) upfirdn_sample<T, T>(op, i);
}

// The 4x4 filters of StyleGAN2 and of the discriminator. The phases of a filter of UP * n taps
// all have n: the loops unroll, and only samples outside the image are left out.
template <class T, int Up, int Down>
__global__ void __launch_bounds__(THREADS)
    small_kernel(const __grid_constant__ Sg3Upfirdn op, int64_t count) {
    __shared__ float taps[SMALL_TAPS * SMALL_TAPS];
    if (threadIdx.x < SMALL_TAPS * SMALL_TAPS) {
        taps[threadIdx.x] = small_tap(op, static_cast<int>(threadIdx.x));
    }
    __syncthreads();
    for (int64_t i = first_element(); i < count; i += element_step()) {
        small_sample<T, Up, Down>(op, taps, i);
    }
}

}  // namespace sg3
