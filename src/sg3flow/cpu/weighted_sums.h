// Weighted sums of rows: a filter whose taps are shifted rows.
#pragma once

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

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

#if defined(__AVX512F__)
constexpr bool kHasRoomForPairs = true;  // weights and rows, in registers
#else
constexpr bool kHasRoomForPairs = false;
#endif

// Two results from rows that they share: the second begins kApart rows further.
template <int kTaps, int kApart, class Finish>
static inline void weigh_pair(
    float* const* dst, const float* const* rows, const float* weights, std::int64_t n, Finish one,
    Finish other) {
  const float* row[kTaps + kApart];
  for (int t = 0; t < kTaps + kApart; ++t) row[t] = rows[t];
  Vec w[2 * kTaps];
  for (int t = 0; t < 2 * kTaps; ++t) w[t] = splat(weights[t]);
  for (std::int64_t k = 0; k < n; k += kLanes) {
    Vec x[kTaps + kApart], sum[2] = {};
    for (int t = 0; t < kTaps + kApart; ++t) x[t] = load(row[t] + k);
    for (int t = 0; t < kTaps; ++t) {
      sum[0] += w[t] * x[t];
      sum[1] += w[kTaps + t] * x[t + kApart];
    }
    store(dst[0] + k, one(sum[0], k));
    store(dst[1] + k, other(sum[1], k));
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
