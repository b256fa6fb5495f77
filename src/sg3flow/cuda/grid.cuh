// Launch arithmetic: grids that cover any count of blocks or elements.
#pragma once

#include <cuda_runtime.h>

#include "launch.h"
#include "portable.h"
#include "types.h"

namespace sg3 {

constexpr int THREADS = 256;
constexpr int64_t MOST_BLOCKS = 2147483647;  // of a grid's x axis

// Blocks for a grid-stride loop over `count` elements; more would only queue up.
inline unsigned blocks_for(int64_t count) {
    const int64_t blocks = (count + THREADS - 1) / THREADS;
    return static_cast<unsigned>(blocks < (1 << 20) ? blocks : (1 << 20));
}

// The first element of this thread, and the step to its next one.
__device__ __forceinline__ int64_t first_element() {
    return static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
}
__device__ __forceinline__ int64_t element_step() {
    return static_cast<int64_t>(gridDim.x) * THREADS;
}

// Calls visit(T()) for the element type of a tensor.
template <class Visit>
int visit_type(int type, const Visit& visit) {
    switch (type) {
        case SG3_FLOAT16: return visit(__half());
        case SG3_BFLOAT16: return visit(__nv_bfloat16());
        case SG3_FLOAT32: return visit(float());
        case SG3_FLOAT64: return visit(double());
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace sg3
