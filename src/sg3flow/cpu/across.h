// The second filter across a row, where it is its own mirror image: taps of six samples a part.
//
// A load that does not begin at a cache line takes two turns, and each tap is such a load. Here the
// shifted rows are made in registers, and the two taps of the same weight meet before the product.
#pragma once

#include "plan.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

constexpr int kReach = 6;  // taps in a part of a row

// Rows whose taps are the same: one, or two that are added first.
struct MirroredRow {
  const float *above, *below;  // below may be null
  const float* weights;        // [kReach * parts], equal from both ends
};

#if defined(__AVX512F__)

template <int kShift>
static inline void shift_on(Vec low, Vec high, Vec* to) {
  if constexpr (kShift < kReach) {
    to[kShift] = _mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), kShift));
    shift_on<kShift + 1>(low, high, to);
  }
}

template <bool kTwo>
static inline Vec load_row(const MirroredRow& row, Index at) {
  if constexpr (kTwo) return load(row.above + at) + load(row.below + at);
  return load(row.above + at);
}

template <int kParts, int kBlock, bool kTwo>
static inline void across_block(
    float* dst, const MirroredRow* rows, int count, Index part, Index k) {
  Vec sum[kBlock] = {};
  for (int t = 0; t < count; ++t)
    for (int p = 0; p < kParts / 2; ++p) {
      const Index one = p * part + k, other = (kParts - 1 - p) * part + k;
      Vec a = load_row<kTwo>(rows[t], one), b = load_row<kTwo>(rows[t], other);
      for (int i = 0; i < kBlock; ++i) {
        const Vec next_a = load_row<kTwo>(rows[t], one + (i + 1) * kLanes);
        const Vec next_b = load_row<kTwo>(rows[t], other + (i + 1) * kLanes);
        Vec from_a[kReach], from_b[kReach];
        shift_on<0>(a, next_a, from_a);
        shift_on<0>(b, next_b, from_b);
        for (int j = 0; j < kReach; ++j)
          sum[i] += splat(rows[t].weights[kParts * j + p]) * (from_a[j] + from_b[kReach - 1 - j]);
        a = next_a;
        b = next_b;
      }
    }
  for (int i = 0; i < kBlock; ++i) store(dst + k + i * kLanes, sum[i]);
}

template <int kParts, bool kTwo>
[[gnu::noinline]] static void across_rows(
    float* dst, const MirroredRow* rows, int count, Index part, Index n) {
  constexpr int kBlock = 4;
  Index k = 0;
  for (; k + kBlock * kLanes <= n; k += kBlock * kLanes)
    across_block<kParts, kBlock, kTwo>(dst, rows, count, part, k);
  for (; k < n; k += kLanes) across_block<kParts, 1, kTwo>(dst, rows, count, part, k);
}

// Whether `filter_across` serves rows of so many taps.
static inline bool can_mirror(int parts, int taps) {
  return (parts == 2 || parts == 4) && taps == kReach * parts;
}

// dst[k] for k < n = the sum over all rows and taps. Reads one vector beyond n.
static inline void filter_across(
    float* dst, const MirroredRow* rows, int count, int parts, Index part, Index n) {
  const bool two = rows[0].below;
  if (parts == 2) return two ? across_rows<2, true>(dst, rows, count, part, n)
                             : across_rows<2, false>(dst, rows, count, part, n);
  return two ? across_rows<4, true>(dst, rows, count, part, n)
             : across_rows<4, false>(dst, rows, count, part, n);
}

#else

// Without the shuffle of two registers the plain loads are as fast.
static inline bool can_mirror(int, int) { return false; }
static inline void filter_across(float*, const MirroredRow*, int, int, Index, Index) {}

#endif

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
