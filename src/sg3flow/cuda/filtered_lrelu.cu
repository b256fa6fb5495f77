// filtered_lrelu of any rates and filters, in two steps; without a second filter the first writes
// the result.
#include "generic.h"
#include "grid.cuh"

namespace sg3 {

template <class T, class Mid>
__global__ void __launch_bounds__(THREADS)
    bend_kernel(const __grid_constant__ Sg3FilteredLrelu op, int64_t first_plane, int64_t count,
                Mid* mid, double gain) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        bend_group<T>(op, first_plane, i, mid, gain);
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    second_kernel(const __grid_constant__ Sg3Upfirdn step, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        upfirdn_sample<Sum<T>, T>(step, i);
    }
}

}  // namespace sg3
