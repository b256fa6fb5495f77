// The second filter across a row of parts: all taps but the first read shifted samples.
//
// For a symmetric filter, the samples of two equal taps are added before the product.
#pragma once

#include "plan.h"
#include "window.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// sums[j] = the samples k on of part p, tap j, and those of the tap that has the same weight.
template <int kParts>
static inline void mirrored_sums(const float* row, Index part, int p, Index k, Vec* sums) {
  Vec a[kPhaseTaps], b[kPhaseTaps];
  window<kPhaseTaps>(row + p * part + k, a);
  window<kPhaseTaps>(row + (kParts - 1 - p) * part + k, b);
  for (int j = 0; j < kPhaseTaps; ++j) sums[j] = a[j] + b[kPhaseTaps - 1 - j];
}

// dst[k] for k < part. Reads a vector beyond each part.
template <int kParts>
[[gnu::noinline]] static void filter_mirrored(
    float* dst, const float* row, const float* weights, Index part) {
  for (Index k = 0; k < part; k += kLanes) {
    Vec all = {};
    for (int p = 0; p < kParts / 2; ++p) {
      Vec sums[kPhaseTaps];
      mirrored_sums<kParts>(row, part, p, k, sums);
      for (int j = 0; j < kPhaseTaps; ++j) all += splat(weights[kParts * j + p]) * sums[j];
    }
    store(dst + k, all);
  }
}

// A weight is loaded once for kWide registers: else the loads would take longer than the products.
template <int kParts, int kWide>
[[gnu::always_inline]] static inline void add_vectors(
    float* const* dst, const float* row, const float* const* weights, Index part, Index k) {
  Vec all[kPhaseTaps][kWide];
  for (int i = 0; i < kPhaseTaps; ++i)
    for (int v = 0; v < kWide; ++v) all[i][v] = load(dst[i] + k + v * kLanes);
  for (int p = 0; p < kParts / 2; ++p) {
    Vec sums[kWide][kPhaseTaps];
    for (int v = 0; v < kWide; ++v)
      mirrored_sums<kParts>(row, part, p, k + v * kLanes, sums[v]);
    for (int j = 0; j < kPhaseTaps; ++j)
      for (int i = 0; i < kPhaseTaps; ++i) {
        const Vec w = splat(weights[i][kParts * j + p]);
        for (int v = 0; v < kWide; ++v) all[i][v] += w * sums[v][j];
      }
  }
  for (int i = 0; i < kPhaseTaps; ++i)
    for (int v = 0; v < kWide; ++v) store(dst[i] + k + v * kLanes, all[i][v]);
}

// Adds a row to the kPhaseTaps results that it is part of, each with weights of its own.
template <int kParts>
[[gnu::noinline]] static void add_mirrored(
    float* const* dst, const float* row, const float* const* weights, Index part) {
  Index k = 0;
  for (; k + 2 * kLanes <= part; k += 2 * kLanes)
    add_vectors<kParts, 2>(dst, row, weights, part, k);
  for (; k < part; k += kLanes) add_vectors<kParts, 1>(dst, row, weights, part, k);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
