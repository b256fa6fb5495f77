// Vectors of 16 floats by the compilers' vector extension, and weighted sums of rows on them.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sg3flow {
namespace SG3FLOW_ISA {

constexpr int kLanes = 16;
using Vec = float __attribute__((vector_size(64)));
using IntVec = std::int32_t __attribute__((vector_size(64)));
using ByteVec = std::uint8_t __attribute__((vector_size(16)));

static inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// As much of a vector as a register holds: what has to stay in registers is written with it.
#if defined(__AVX512F__)
constexpr int kRegister = 16;
#elif defined(__AVX2__)
constexpr int kRegister = 8;
#else
constexpr int kRegister = 4;
#endif
using Register = float __attribute__((vector_size(4 * kRegister)));
constexpr int kRegisters = kLanes / kRegister;  // of a vector

static inline Register load_register(const float* p) {
  Register v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline void store_register(float* p, Register v) { std::memcpy(p, &v, sizeof v); }

// Ask early for n floats that the processor does not see coming: a short row, far from the last one.
template <bool kWritten = false>
static inline void fetch_ahead(const float* row, std::int64_t n) {
  for (std::int64_t k = 0; k < n; k += kLanes) __builtin_prefetch(row + k, kWritten);
}

static inline Vec splat(float value) { return value - Vec{}; }

static inline std::int64_t round_up(std::int64_t n, std::int64_t step) {
  return (n + step - 1) / step * step;
}

// A bit for each lane.
using Lanes = std::uint16_t;
constexpr Lanes kAllLanes = 0xFFFF;
#if defined(__AVX512F__)
constexpr bool kHasMasks = true;  // of loads and stores, at no cost
#else
constexpr bool kHasMasks = false;
#endif

// n below 0 counts as 0, above kLanes as kLanes
static inline Lanes first_lanes(std::int64_t n) {
  return static_cast<Lanes>(n <= 0 ? 0 : n >= kLanes ? kAllLanes : (1 << n) - 1);
}

// All bits of the lanes.
static inline IntVec spread_lanes(Lanes lanes) {
  constexpr IntVec bits = {1 << 0,  1 << 1,  1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                           1 << 8,  1 << 9,  1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
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
#elif defined(__AVX__)
  unsigned lanes = 0;
  __m256 left[2], right[2];
  std::memcpy(left, &a, sizeof left);
  std::memcpy(right, &b, sizeof right);
  for (int i = 0; i < 2; ++i) {
    const __m256 test = _mm256_cmp_ps(left[i], right[i], kEqualToo ? _CMP_GE_OQ : _CMP_GT_OQ);
    lanes |= static_cast<unsigned>(_mm256_movemask_ps(test)) << 8 * i;
  }
  return static_cast<Lanes>(lanes);
#else
  unsigned lanes = 0;
  for (int i = 0; i < kLanes; ++i)
    lanes |= static_cast<unsigned>(kEqualToo ? a[i] >= b[i] : a[i] > b[i]) << i;
  return static_cast<Lanes>(lanes);
#endif
}

static inline Lanes lanes_above(Vec a, Vec b) { return compare<false>(a, b); }
static inline Lanes lanes_from(Vec a, Vec b) { return compare<true>(a, b); }

// The lanes that are set, 0 in the others; no memory outside of them is touched.
static inline Vec load_lanes(const float* p, Lanes lanes) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(lanes, p);
#else
  if (lanes == kAllLanes) return load(p);
  Vec v = {};
  if (lanes == 0) return v;
#if defined(__AVX2__)
  const IntVec spread = spread_lanes(lanes);
  __m256i mask[2];
  __m256 half[2];
  std::memcpy(mask, &spread, sizeof mask);
  for (int i = 0; i < 2; ++i) half[i] = _mm256_maskload_ps(p + 8 * i, mask[i]);
  std::memcpy(&v, half, sizeof half);
#else
  for (int i = 0; i < kLanes; ++i)
    if (lanes >> i & 1) v[i] = p[i];
#endif
  return v;
#endif
}

// Writes the first lanes, as many as are set, and nothing beyond them.
static inline void store_first(float* p, Vec v, Lanes lanes) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, lanes, v);
#else
  if (lanes == kAllLanes) return store(p, v);
  std::memcpy(p, &v, __builtin_popcount(lanes) * sizeof(float));
#endif
}

// Lanes of two vectors: i is lane i of a, kLanes + i lane i of b.
#if defined(__clang__)
#define SG3FLOW_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SG3FLOW_MIX(a, b, ...) __builtin_shuffle(a, b, IntVec{__VA_ARGS__})
#endif

// 32 numbers in a row -> every other, from the first and from the second on.
static inline void part_by_2(Vec a, Vec b, Vec* parts) {
#if defined(__AVX512F__)
  parts[0] = SG3FLOW_MIX(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  parts[1] = SG3FLOW_MIX(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
  float from[2 * kLanes], to[2][kLanes];
  std::memcpy(from, &a, sizeof a);
  std::memcpy(from + kLanes, &b, sizeof b);
  for (int t = 0; t < kLanes; ++t)
    for (int i = 0; i < 2; ++i) to[i][t] = from[2 * t + i];
  std::memcpy(parts, to, sizeof to);
#endif
}

// 64 numbers in a row -> every fourth of them, from the first, second, third and fourth on.
static inline void part_by_4(const Vec* row, Vec* parts) {
#if defined(__AVX512F__)
  Vec low[2], high[2];  // every other, of the first 32 and of the last
  part_by_2(row[0], row[1], low);
  part_by_2(row[2], row[3], high);
  for (int i = 0; i < 2; ++i) {
    Vec two[2];
    part_by_2(low[i], high[i], two);
    parts[i] = two[0];
    parts[i + 2] = two[1];
  }
#else
  float from[4 * kLanes], to[4][kLanes];
  std::memcpy(from, row, sizeof from);
  for (int t = 0; t < kLanes; ++t)
    for (int i = 0; i < 4; ++i) to[i][t] = from[4 * t + i];
  std::memcpy(parts, to, sizeof to);
#endif
}

// and back
static inline void join_by_4(const Vec* parts, Vec* row) {
#if defined(__AVX512F__)
  Vec low[2], high[2];  // pairs of the first two parts, and of the last two
  for (int i = 0; i < 2; ++i) {
    const Vec a = parts[2 * i], b = parts[2 * i + 1];
    low[i] = SG3FLOW_MIX(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high[i] = SG3FLOW_MIX(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const Vec *p = i ? high : low;
    row[2 * i] = SG3FLOW_MIX(p[0], p[1], 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
    row[2 * i + 1] =
        SG3FLOW_MIX(p[0], p[1], 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
  }
#else
  float from[4][kLanes], to[4 * kLanes];
  std::memcpy(from, parts, sizeof from);
  for (int t = 0; t < kLanes; ++t)
    for (int i = 0; i < 4; ++i) to[4 * t + i] = from[i][t];
  std::memcpy(row, to, sizeof to);
#endif
}

// Lanes 1 and up of a, then lane 0 of b.
static inline Vec shifted(Vec a, Vec b) {
  return SG3FLOW_MIX(a, b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
}

// Memory that begins at a cache line: a vector that straddles two takes twice as long to load.
template <class T>
struct AtLine {
  using value_type = T;
  AtLine() = default;
  template <class U>
  AtLine(const AtLine<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const AtLine&) const { return true; }
  bool operator!=(const AtLine&) const { return false; }
};
using Floats = std::vector<float, AtLine<float>>;

// The same, and it begins with whatever was there before.
struct AtLineAsIs : AtLine<float> {
  template <class U>
  struct rebind {
    using other = AtLineAsIs;
  };
  void construct(float*) {}
};
using Scratch = std::vector<float, AtLineAsIs>;

struct Keep {
  Vec operator()(Vec v, std::int64_t) const { return v; }
};

// dst[k] = finish(sum over t of weights[t] * rows[t][k]) for k < n, n a multiple of kLanes
template <int kTaps, class Finish>
static inline void weigh_taps(
    float* dst, const float* const* rows, const float* weights, std::int64_t n, Finish finish) {
  Vec w[kTaps];
  const float* row[kTaps];
  for (int t = 0; t < kTaps; ++t) {
    w[t] = splat(weights[t]);
    row[t] = rows[t];
  }
  for (std::int64_t k = 0; k < n; k += kLanes) {
    Vec sum = w[0] * load(row[0] + k);
    for (int t = 1; t < kTaps; ++t) sum += w[t] * load(row[t] + k);
    store(dst + k, finish(sum, k));
  }
}

constexpr int kPairTaps = 6;
constexpr bool kHasRoomForPairs = kRegister == kLanes;  // weights and rows, in registers

// Two results from rows that they share: the second begins kApart rows further.
template <int kApart, class Finish>
static inline void weigh_pair(
    float* const* dst, const float* const* rows, const float* weights, std::int64_t n, Finish one,
    Finish other) {
  const float* row[kPairTaps + kApart];
  for (int t = 0; t < kPairTaps + kApart; ++t) row[t] = rows[t];
  Vec w[2 * kPairTaps];
  for (int t = 0; t < 2 * kPairTaps; ++t) w[t] = splat(weights[t]);
  for (std::int64_t k = 0; k < n; k += kLanes) {
    Vec x[kPairTaps + kApart], sum[2] = {};
    for (int t = 0; t < kPairTaps + kApart; ++t) x[t] = load(row[t] + k);
    for (int t = 0; t < kPairTaps; ++t) {
      sum[0] += w[t] * x[t];
      sum[1] += w[kPairTaps + t] * x[t + kApart];
    }
    store(dst[0] + k, one(sum[0], k));
    store(dst[1] + k, other(sum[1], k));
  }
}

// the same for any number of taps
template <class Finish>
static inline void weigh_many(
    float* dst, const float* const* rows, const float* weights, int taps, std::int64_t n,
    Finish finish) {
  constexpr int kBlock = 4;
  std::int64_t k = 0;
  for (; k + kBlock * kLanes <= n; k += kBlock * kLanes) {
    Vec sum[kBlock] = {};
    for (int t = 0; t < taps; ++t) {
      const Vec w = splat(weights[t]);
      const float* row = rows[t] + k;
      for (int i = 0; i < kBlock; ++i) sum[i] += w * load(row + i * kLanes);
    }
    for (int i = 0; i < kBlock; ++i) store(dst + k + i * kLanes, finish(sum[i], k + i * kLanes));
  }
  for (; k < n; k += kLanes) {
    Vec sum = {};
    for (int t = 0; t < taps; ++t) sum += splat(weights[t]) * load(rows[t] + k);
    store(dst + k, finish(sum, k));
  }
}

template <class Finish>
static inline void weigh(
    float* dst, const float* const* rows, const float* weights, int taps, std::int64_t n,
    Finish finish) {
  switch (taps) {
    case 1: return weigh_taps<1>(dst, rows, weights, n, finish);
    case 2: return weigh_taps<2>(dst, rows, weights, n, finish);
    case 4: return weigh_taps<4>(dst, rows, weights, n, finish);
    case 6: return weigh_taps<6>(dst, rows, weights, n, finish);
    case 12: return weigh_taps<12>(dst, rows, weights, n, finish);
    default: return weigh_many(dst, rows, weights, taps, n, finish);
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
