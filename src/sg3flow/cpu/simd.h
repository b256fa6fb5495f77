// A register of floats (the compilers' vector extension), with as many lanes as the machine has.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sg3flow {
namespace SG3FLOW_ISA {

// Vectors wider than registers would work, too, but compilers move them through memory.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
using Vec = float __attribute__((vector_size(4 * kLanes)));
using IntVec = std::int32_t __attribute__((vector_size(4 * kLanes)));

static inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

static inline Vec splat(float value) { return value - Vec{}; }

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) {
  return (n + step - 1) / step * step;
}

constexpr int kLine = 16;  // floats of a cache line

// Prefetch n floats that the hardware prefetcher misses: a short row, far from the last one.
template <bool kWritten = false>
static inline void fetch_ahead(const float* row, std::int64_t n) {
  for (std::int64_t k = 0; k < n; k += kLine) __builtin_prefetch(row + k, kWritten);
}

// A bit for each lane.
using Lanes = std::uint16_t;
constexpr Lanes kAllLanes = (1 << kLanes) - 1;

// n below 0 counts as 0, above kLanes as kLanes
static inline Lanes first_lanes(std::int64_t n) {
  return static_cast<Lanes>(n <= 0 ? 0 : n >= kLanes ? kAllLanes : (1 << n) - 1);
}

// All bits of the lanes.
static inline IntVec spread_lanes(Lanes lanes) {
  IntVec bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = 1 << i;
  return (bits & (IntVec{} + lanes)) != 0;
}

// a in the lanes that are set, b in the others
static inline Vec choose(Lanes lanes, Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_mask_blend_ps(lanes, b, a);
#else
  return spread_lanes(lanes) ? a : b;
#endif
}

template <bool kEqualToo>
static inline Lanes compare(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, kEqualToo ? _CMP_GE_OQ : _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<Lanes>(
      _mm256_movemask_ps(_mm256_cmp_ps(a, b, kEqualToo ? _CMP_GE_OQ : _CMP_GT_OQ)));
#else
  unsigned lanes = 0;
  for (int i = 0; i < kLanes; ++i)
    lanes |= static_cast<unsigned>(kEqualToo ? a[i] >= b[i] : a[i] > b[i]) << i;
  return static_cast<Lanes>(lanes);
#endif
}

static inline Lanes lanes_above(Vec a, Vec b) { return compare<false>(a, b); }
static inline Lanes lanes_from(Vec a, Vec b) { return compare<true>(a, b); }

// The lanes that are set, 0 in the others; no memory outside of them is touched. Address sanitizers
// do not see what masked instructions touch.
static inline Vec load_lanes(const float* p, Lanes lanes) {
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)
  return _mm512_maskz_loadu_ps(lanes, p);
#else
  if (lanes == kAllLanes) return load(p);
  Vec v = {};
  if (lanes == 0) return v;
#if defined(__AVX2__) && !defined(__SANITIZE_ADDRESS__)
  v = _mm256_maskload_ps(p, reinterpret_cast<__m256i>(spread_lanes(lanes)));
#else
  for (int i = 0; i < kLanes; ++i)
    if (lanes >> i & 1) v[i] = p[i];
#endif
  return v;
#endif
}

// Writes the first lanes, as many as are set, and nothing beyond them.
static inline void store_first(float* p, Vec v, Lanes lanes) {
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)
  _mm512_mask_storeu_ps(p, lanes, v);
#else
  if (lanes == kAllLanes) return store(p, v);
  std::memcpy(p, &v, __builtin_popcount(lanes) * sizeof(float));
#endif
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
