// The kernels' sources, as a C++17 compiler for the host takes them: CUDA's keywords, types and
// built-in variables.
#pragma once

#include "portable.h"

#if !defined(__FLT16_MAX__)
#error "the C++ compiler has no 16-bit floats"
#endif

#define __global__
#define __launch_bounds__(...)
#define __grid_constant__

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};
inline Index3 blockIdx, threadIdx, blockDim, gridDim;

// Threads run one after the other: see `run_threads`.
inline void __syncthreads() {}

struct __half {
    _Float16 v;
    __half() = default;
    explicit __half(float value) : v(static_cast<_Float16>(value)) {}
};
inline float widen(__half h) { return h.v; }
inline void narrow(float v, __half* to) { *to = __half(v); }
inline __half add(__half a, __half b) { return __half(widen(a) + widen(b)); }

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    // Rounded to the nearest, ties to even; NaN stays NaN.
    explicit __nv_bfloat16(float v) {
        uint32_t all;
        std::memcpy(&all, &v, sizeof(all));
        const uint32_t rounded = (all + 0x7fff + (all >> 16 & 1)) >> 16;
        bits = static_cast<uint16_t>(v != v ? 0x7fc0 : rounded);
    }
};
inline float widen(__nv_bfloat16 h) {
    const uint32_t bits = static_cast<uint32_t>(h.bits) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof(v));
    return v;
}
inline void narrow(float v, __nv_bfloat16* to) { *to = __nv_bfloat16(v); }
inline __nv_bfloat16 add(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __nv_bfloat16(widen(a) + widen(b));
}

namespace sg3 {

struct BlockThreads : SequentialThreads {
    BlockThreads() : SequentialThreads{static_cast<int>(blockDim.x)} {}
};

}  // namespace sg3
