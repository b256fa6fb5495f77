// One small matrix product of a warp, 16x16 times 16x8 with sums in float32, as the tensor cores
// have it from compute capability 8.0 on (PTX ISA, mma.m16n8k16).
//
// A fragment is what the 32 lanes hold of a matrix. With g = lane / 4 and t = lane % 4, counted
// from 0, and a pair being two neighbouring elements:
//   A [16 x 16]: pairs at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   B [16 x 8]:  pairs at (2t, g), (2t + 8, g), neighbours down the column
//   C [16 x 8]:  elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// So a C, rounded, is half of an A, and its transpose is half of a B: chains of products need no
// memory in between. On the host a fragment holds all lanes.
#pragma once

#include "types.h"

namespace sg3 {

#if defined(__CUDACC__)

template <class R>
struct PerLane {
    R own;
    SG3_DEVICE R& operator[](int) { return own; }
    SG3_DEVICE const R& operator[](int) const { return own; }
};

template <class Work>
SG3_DEVICE void each_lane(const Work& work) {
    work(static_cast<int>(threadIdx.x % 32));
}

template <class T>
struct PairOf {
    using type = uint32_t;
};

SG3_DEVICE uint32_t pack(float first, float second, __half) {
    const __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
}
SG3_DEVICE uint32_t pack(float first, float second, __nv_bfloat16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&both);
}

#else

template <class R>
struct PerLane {
    R all[32];
    R& operator[](int lane) { return all[lane]; }
    const R& operator[](int lane) const { return all[lane]; }
};

template <class Work>
void each_lane(const Work& work) {
    for (int lane = 0; lane < 32; ++lane) work(lane);
}

template <class T>
struct HostPair {
    T v[2];
};
template <class T>
struct PairOf {
    using type = HostPair<T>;
};

template <class T>
HostPair<T> pack(float first, float second, T) {
    HostPair<T> both;
    narrow(first, &both.v[0]);
    narrow(second, &both.v[1]);
    return both;
}

#endif

template <class T>
using Pair = typename PairOf<T>::type;

template <class T>
SG3_DEVICE Pair<T> load_pair(const T* from) {
    return *reinterpret_cast<const Pair<T>*>(from);
}
template <class T>
SG3_DEVICE void store_pair(T* to, Pair<T> pair) {
    *reinterpret_cast<Pair<T>*>(to) = pair;
}

template <class T>
struct LaneA {
    Pair<T> r[4];
};
template <class T>
struct LaneB {
    Pair<T> r[2];
};
struct LaneC {
    float r[4];
};

template <class T>
using FragmentA = PerLane<LaneA<T>>;
template <class T>
using FragmentB = PerLane<LaneB<T>>;
using FragmentC = PerLane<LaneC>;

SG3_DEVICE void clear(FragmentC& c) {
    each_lane([&](int lane) { c[lane] = {{0, 0, 0, 0}}; });
}

#if defined(__CUDACC__)

// c += a * b. Nothing below compute capability 8.0, where it is never launched.
#define SG3_MMA(type)                                                                          \
    asm volatile(                                                                              \
        "mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                         \
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                      \
        : "+f"(c.own.r[0]), "+f"(c.own.r[1]), "+f"(c.own.r[2]), "+f"(c.own.r[3])               \
        : "r"(a.own.r[0]), "r"(a.own.r[1]), "r"(a.own.r[2]), "r"(a.own.r[3]), "r"(b.own.r[0]), \
          "r"(b.own.r[1]))

SG3_DEVICE void multiply_add(FragmentC& c, const FragmentA<__half>& a, const FragmentB<__half>& b) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    SG3_MMA("f16");
#endif
}
SG3_DEVICE void multiply_add(FragmentC& c, const FragmentA<__nv_bfloat16>& a,
                             const FragmentB<__nv_bfloat16>& b) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    SG3_MMA("bf16");
#endif
}

#undef SG3_MMA

#else

template <class T>
void multiply_add(FragmentC& c, const FragmentA<T>& a, const FragmentB<T>& b) {
    float left[16][16], right[16][8];
    each_lane([&](int lane) {
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 8; ++i) {
            left[g + i / 2 % 2 * 8][2 * t + i / 4 * 8 + i % 2] = widen(a[lane].r[i / 2].v[i % 2]);
        }
        for (int i = 0; i < 4; ++i) {
            right[2 * t + i / 2 * 8 + i % 2][g] = widen(b[lane].r[i / 2].v[i % 2]);
        }
    });
    each_lane([&](int lane) {
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, col = 2 * (lane % 4) + i % 2;
            for (int k = 0; k < 16; ++k) c[lane].r[i] += left[row][k] * right[k][col];
        }
    });
}

#endif

}  // namespace sg3
