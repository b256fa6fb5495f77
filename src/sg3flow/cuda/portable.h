// What the kernels need from the compiler: the same headers compile with NVRTC for the GPU and with a
// plain C++17 compiler for the host, where the tests run the threads one after the other.
#pragma once

#if defined(__CUDACC_RTC__)
#include "freestanding.h"
#else
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#endif

#if defined(__CUDACC__)
#define SG3_BOTH __device__ __forceinline__
#define SG3_DEVICE __device__ __forceinline__
#define SG3_UNROLL _Pragma("unroll")
#define SG3_ROLLED _Pragma("unroll 1")
#define SG3_UNROLL_BY_2 _Pragma("unroll 2")
#define SG3_UNROLL_BY_4 _Pragma("unroll 4")
#else
#define SG3_BOTH inline
#define SG3_DEVICE inline
#define SG3_UNROLL
#define SG3_ROLLED
#define SG3_UNROLL_BY_2
#define SG3_UNROLL_BY_4
#endif

namespace sg3 {

// Four floats that move together: one 128-bit access to shared memory.
struct alignas(16) Vec4 {
    float v[4];
};

// One access to aligned memory of another type.
template <class Word, class T>
SG3_DEVICE Word load_word(const T* from) {
#if defined(__CUDACC__)
    return *reinterpret_cast<const Word*>(from);
#else
    Word value;
    std::memcpy(&value, from, sizeof(value));
    return value;
#endif
}

template <class Word, class T>
SG3_DEVICE void store_word(T* to, const Word& value) {
#if defined(__CUDACC__)
    *reinterpret_cast<Word*>(to) = value;
#else
    std::memcpy(to, &value, sizeof(value));
#endif
}

// Prefetches global memory.
SG3_DEVICE void ask_for(const void* at) {
#if defined(__CUDACC__)
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#else
    static_cast<void>(at);
#endif
}

SG3_DEVICE Vec4 load4(const float* from) { return load_word<Vec4>(from); }
SG3_DEVICE void store4(float* to, const Vec4& value) { store_word(to, value); }

// How a tile runs its phases: every thread of the block at once, with a barrier after each phase
// but those that run alone: what follows touches nothing of theirs.
#if defined(__CUDACC__)
// What a thread, or a warp, keeps from phase to phase.
template <class X>
struct Kept {
    X own;
    __device__ __forceinline__ X& operator[](int) { return own; }
};

struct BlockThreads {
    template <class Make>
    __device__ __forceinline__ auto keep(const Make& make) const {
        return Kept<decltype(make(0))>{make(static_cast<int>(threadIdx.x))};
    }
    template <class Make>
    __device__ __forceinline__ auto keep_by_warp(const Make& make) const {
        return Kept<decltype(make(0))>{make(static_cast<int>(threadIdx.x / 32))};
    }
    template <class Phase>
    __device__ __forceinline__ void each_alone(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x));
    }
    template <class Phase>
    __device__ __forceinline__ void each(const Phase& phase) const {
        each_alone(phase);
        __syncthreads();
    }
    // Whether a phase is true for any thread.
    template <class Phase>
    __device__ __forceinline__ bool any(const Phase& phase) const {
        return __syncthreads_or(phase(static_cast<int>(threadIdx.x)));
    }
    // The same for phases that the 32 threads of a warp work on together.
    template <class Phase>
    __device__ __forceinline__ void each_warp_alone(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x / 32));
    }
    template <class Phase>
    __device__ __forceinline__ void each_warp(const Phase& phase) const {
        each_warp_alone(phase);
        __syncthreads();
    }
};
#else
// The same on the host: the threads of a phase one after the other.
struct SequentialThreads {
    int count;
    template <class Make>
    auto keep(const Make& make) const {
        std::vector<decltype(make(0))> kept;
        for (int thread = 0; thread < count; ++thread) kept.push_back(make(thread));
        return kept;
    }
    template <class Make>
    auto keep_by_warp(const Make& make) const {
        return SequentialThreads{count / 32}.keep(make);
    }
    template <class Phase>
    void each(const Phase& phase) const {
        for (int thread = 0; thread < count; ++thread) phase(thread);
    }
    template <class Phase>
    void each_alone(const Phase& phase) const {
        each(phase);
    }
    template <class Phase>
    bool any(const Phase& phase) const {
        bool some = false;
        each([&](int thread) { some |= phase(thread); });
        return some;
    }
    template <class Phase>
    void each_warp(const Phase& phase) const {
        for (int warp = 0; warp < count / 32; ++warp) phase(warp);
    }
    template <class Phase>
    void each_warp_alone(const Phase& phase) const {
        each_warp(phase);
    }
};
#endif

}  // namespace sg3
