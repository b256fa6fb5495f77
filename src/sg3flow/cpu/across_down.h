// The second filter across a row of parts: every tap but the first lies beside its sample.
//
// Where the filter is its own mirror image, the two taps of one weight meet before the product.
#pragma once

#include <algorithm>

#include "plan.h"
#include "window.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

constexpr int kReach = 6;  // taps in a part of a row, of a filter that is made for its factor

// sums[p * kReach + j] = the samples k on of part p, tap j, and those that share the weight.
template <int kParts>
static inline void mirrored_sums(const float* row, Index part, Index k, Vec* sums) {
  for (int p = 0; p < kParts / 2; ++p) {
    Vec a[kReach], b[kReach];
    window<kReach>(row + p * part + k, a);
    window<kReach>(row + (kParts - 1 - p) * part + k, b);
    for (int j = 0; j < kReach; ++j) sums[p * kReach + j] = a[j] + b[kReach - 1 - j];
  }
}

// dst[k] for k < part. Reads a vector beyond each part.
template <int kParts>
[[gnu::noinline]] static void filter_mirrored(
    float* dst, const float* row, const float* weights, Index part) {
  for (Index k = 0; k < part; k += kLanes) {
    Vec sums[kParts / 2 * kReach], all = {};
    mirrored_sums<kParts>(row, part, k, sums);
    for (int p = 0; p < kParts / 2; ++p)
      for (int j = 0; j < kReach; ++j)
        all += (weights[kParts * j + p] - Vec{}) * sums[p * kReach + j];
    store(dst + k, all);
  }
}

// A weight is loaded once for kWide registers: else the loads would take longer than the products.
template <int kParts, int kWide>
[[gnu::always_inline]] static inline void add_vectors(
    float* const* dst, const float* row, const float* const* weights, Index part, Index k) {
  Vec all[kReach][kWide];
  for (int i = 0; i < kReach; ++i)
    for (int v = 0; v < kWide; ++v) all[i][v] = load(dst[i] + k + v * kLanes);
  for (int p = 0; p < kParts / 2; ++p) {
    Vec sums[kWide][kReach];
    for (int v = 0; v < kWide; ++v) {
      Vec a[kReach], b[kReach];
      window<kReach>(row + p * part + k + v * kLanes, a);
      window<kReach>(row + (kParts - 1 - p) * part + k + v * kLanes, b);
      for (int j = 0; j < kReach; ++j) sums[v][j] = a[j] + b[kReach - 1 - j];
    }
    for (int j = 0; j < kReach; ++j)
      for (int i = 0; i < kReach; ++i) {
        const Vec w = weights[i][kParts * j + p] - Vec{};
        for (int v = 0; v < kWide; ++v) all[i][v] += w * sums[v][j];
      }
  }
  for (int i = 0; i < kReach; ++i)
    for (int v = 0; v < kWide; ++v) store(dst[i] + k + v * kLanes, all[i][v]);
}

// Adds a row to the kReach results that it is part of, each with weights of its own.
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
