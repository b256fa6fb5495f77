// One small matrix product of a warp, 16x16 times 16x8 with sums in float32, as the tensor cores
// have it from compute capability 8.0 on (PTX ISA, mma.m16n8k16).
//
// A fragment is what the 32 lanes hold of a matrix. With g = lane / 4 and t = lane % 4, counted
// from 0, and a pair being two neighboring elements:
//   A [16 x 16]: pairs at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   B [16 x 8]:  pairs at (2t, g), (2t + 8, g), neighbors down the column
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

// Whether it is true for any lane.
template <class Work>
SG3_DEVICE bool any_lane(const Work& work) {
    return __any_sync(0xffffffffu, work(static_cast<int>(threadIdx.x % 32)));
}

// The sum over the lanes, for each of them.
SG3_DEVICE float lane_sum(const PerLane<float>& of) {
    float sum = of.own;
    SG3_UNROLL
    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    return sum;
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

template <class Work>
bool any_lane(const Work& work) {
    bool some = false;
    each_lane([&](int lane) { some |= work(lane); });
    return some;
}

inline float lane_sum(const PerLane<float>& of) {
    float sums[32];
    each_lane([&](int lane) { sums[lane] = of[lane]; });
    for (int apart = 16; apart > 0; apart /= 2) {
        for (int lane = 0; lane < apart; ++lane) sums[lane] += sums[lane + apart];
    }
    return sums[0];
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

SG3_DEVICE void fill(FragmentC& c, float value) {
    each_lane([&](int lane) { c[lane] = {{value, value, value, value}}; });
}

#if defined(__CUDACC__)

// c += a * b. Does nothing below compute capability 8.0, where it is never launched.
#define SG3_MMA(type)                                                                          \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                         \
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

// Four 8x8 matrices from shared memory, one per register: `row(lane)` is where row lane % 8 of matrix
// lane / 8 is, 8 elements at a multiple of their size. As in an A, or `Turned` as in a B, where a
// pair goes down a column (PTX ISA, ldmatrix).
template <bool Turned, class T, class Row>
SG3_DEVICE void load_matrices(FragmentA<T>& to, const Row& row) {
    uint32_t(&r)[4] = to.own.r;
    const auto from = static_cast<uint32_t>(
        __cvta_generic_to_shared(row(static_cast<int>(threadIdx.x % 32))));
    if (Turned) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(from)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(from)
                     : "memory");
    }
}

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

template <bool Turned, class T, class Row>
void load_matrices(FragmentA<T>& to, const Row& row) {
    const T* rows[32];
    each_lane([&](int lane) {
        rows[lane] = row(lane);
        assert(reinterpret_cast<uintptr_t>(rows[lane]) % (8 * sizeof(T)) == 0);
    });
    each_lane([&](int lane) {
        const int i = lane / 4, j = lane % 4 * 2;
        for (int n = 0; n < 8; ++n) {
            const T* const* matrix = rows + n / 2 * 8;
            to[lane].r[n / 2].v[n % 2] = Turned ? matrix[j + n % 2][i] : matrix[i][j + n % 2];
        }
    });
}

#endif

// One register of a fragment: the pair of (row, col) and its neighbor, along the row in an A,
// down the column in a B.
struct PairPlace {
    int row, col;
};
SG3_DEVICE PairPlace place_in_a(int reg, int lane) {
    return {lane / 4 + reg % 2 * 8, lane % 4 * 2 + reg / 2 * 8};
}
SG3_DEVICE PairPlace place_in_b(int reg, int lane) { return {lane % 4 * 2 + reg * 8, lane / 4}; }

// Fragments from a table: of each lane four neighbors, an A or two B's.
template <class T>
struct alignas(4 * sizeof(Pair<T>)) FourPairs {
    Pair<T> r[4];
};
template <class T>
SG3_DEVICE void load_fragment(FragmentA<T>& a, const Pair<T>* table) {
    each_lane([&](int lane) {
        const auto four = load_word<FourPairs<T>>(table + lane * 4);
        a[lane] = {{four.r[0], four.r[1], four.r[2], four.r[3]}};
    });
}
template <int Count, class T>
SG3_DEVICE void load_fragments(FragmentB<T>* b, const Pair<T>* table) {
    static_assert(Count % 2 == 0, "they come in twos");
    each_lane([&](int lane) {
        SG3_UNROLL
        for (int i = 0; i < Count; i += 2) {
            const auto four = load_word<FourPairs<T>>(table + i * 64 + lane * 4);
            b[i][lane] = {{four.r[0], four.r[1]}};
            b[i + 1][lane] = {{four.r[2], four.r[3]}};
        }
    });
}

}  // namespace sg3
