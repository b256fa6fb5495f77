// Element types: how they are loaded into, and stored from, the type that the sums run in.
#pragma once

#include "portable.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sg3 {

template <class T>
struct SumOf {
    using type = float;
};
template <>
struct SumOf<double> {
    using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

SG3_DEVICE float widen(float v) { return v; }
SG3_DEVICE double widen(double v) { return v; }
SG3_DEVICE float add(float a, float b) { return a + b; }
SG3_DEVICE void narrow(float v, float* to) { *to = v; }
SG3_DEVICE void narrow(double v, double* to) { *to = v; }

#if defined(__CUDACC__)
SG3_DEVICE float widen(__half v) { return __half2float(v); }
SG3_DEVICE float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
SG3_DEVICE __half add(__half a, __half b) { return __hadd(a, b); }
SG3_DEVICE __nv_bfloat16 add(__nv_bfloat16 a, __nv_bfloat16 b) { return __hadd(a, b); }
SG3_DEVICE void narrow(float v, __half* to) { *to = __float2half_rn(v); }
SG3_DEVICE void narrow(float v, __nv_bfloat16* to) { *to = __float2bfloat16_rn(v); }
#elif defined(__FLT16_MAX__)
inline float widen(_Float16 v) { return v; }
inline _Float16 add(_Float16 a, _Float16 b) { return a + b; }
inline void narrow(float v, _Float16* to) { *to = static_cast<_Float16>(v); }
#endif

// A sum as it reads back after it was stored in T.
template <class T>
SG3_DEVICE Sum<T> rounded(Sum<T> v) {
    T stored;
    narrow(v, &stored);
    return widen(stored);
}

}  // namespace sg3
