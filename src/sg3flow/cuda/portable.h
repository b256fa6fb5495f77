// What the kernels need from the compiler: the same headers build with nvcc for the GPU and with a
// plain C++17 compiler for the host, where the tests run them one thread after the other.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SG3_BOTH __host__ __device__ __forceinline__
#define SG3_DEVICE __device__ __forceinline__
#define SG3_UNROLL _Pragma("unroll")
#define SG3_ROLLED _Pragma("unroll 1")
#define SG3_UNROLL_BY_2 _Pragma("unroll 2")
#else
#define SG3_BOTH inline
#define SG3_DEVICE inline
#define SG3_UNROLL
#define SG3_ROLLED
#define SG3_UNROLL_BY_2
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
SG3_DEVICE void store_word(T* to, Word value) {
#if defined(__CUDACC__)
    *reinterpret_cast<Word*>(to) = value;
#else
    std::memcpy(to, &value, sizeof(value));
#endif
}

SG3_DEVICE Vec4 load4(const float* from) { return load_word<Vec4>(from); }
SG3_DEVICE void store4(float* to, const Vec4& value) { store_word(to, value); }

// How a tile runs its phases: every thread of the block at once, with a barrier after each phase.
#if defined(__CUDACC__)
struct BlockThreads {
    template <class Phase>
    __device__ __forceinline__ void each(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x));
        __syncthreads();
    }
    // The same for phases that the 32 threads of a warp work on together.
    template <class Phase>
    __device__ __forceinline__ void each_warp(const Phase& phase) const {
        phase(static_cast<int>(threadIdx.x / 32));
        __syncthreads();
    }
};
#endif

// The same on the host: the threads of a phase one after the other.
struct SequentialThreads {
    int count;
    template <class Phase>
    void each(const Phase& phase) const {
        for (int thread = 0; thread < count; ++thread) phase(thread);
    }
    template <class Phase>
    void each_warp(const Phase& phase) const {
        for (int warp = 0; warp < count / 32; ++warp) phase(warp);
    }
};

}  // namespace sg3
