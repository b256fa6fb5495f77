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
static inline void mirrored_sums(const float* row, Index part, Index k, Register* sums) {
  for (int p = 0; p < kParts / 2; ++p) {
    Register a[kReach], b[kReach];
    window<kReach>(row + p * part + k, a);
    window<kReach>(row + (kParts - 1 - p) * part + k, b);
    for (int j = 0; j < kReach; ++j) sums[p * kReach + j] = a[j] + b[kReach - 1 - j];
  }
}

// dst[k] for k < part. Reads a vector beyond each part.
template <int kParts>
[[gnu::noinline]] static void filter_mirrored(
    float* dst, const float* row, const float* weights, Index part) {
  for (Index k = 0; k < part; k += kRegister) {
    Register sums[kParts / 2 * kReach], all = {};
    mirrored_sums<kParts>(row, part, k, sums);
    for (int p = 0; p < kParts / 2; ++p)
      for (int j = 0; j < kReach; ++j)
        all += (weights[kParts * j + p] - Register{}) * sums[p * kReach + j];
    store_register(dst + k, all);
  }
}

// A weight is loaded once for kWide registers: else the loads would take longer than the products.
template <int kParts, int kWide>
[[gnu::always_inline]] static inline void add_registers(
    float* const* dst, const float* row, const float* const* weights, Index part, Index k) {
  Register all[kReach][kWide];
  for (int i = 0; i < kReach; ++i)
    for (int v = 0; v < kWide; ++v) all[i][v] = load_register(dst[i] + k + v * kRegister);
  for (int p = 0; p < kParts / 2; ++p) {
    Register sums[kWide][kReach];
    for (int v = 0; v < kWide; ++v) {
      Register a[kReach], b[kReach];
      window<kReach>(row + p * part + k + v * kRegister, a);
      window<kReach>(row + (kParts - 1 - p) * part + k + v * kRegister, b);
      for (int j = 0; j < kReach; ++j) sums[v][j] = a[j] + b[kReach - 1 - j];
    }
    for (int j = 0; j < kReach; ++j)
      for (int i = 0; i < kReach; ++i) {
        const Register w = weights[i][kParts * j + p] - Register{};
        for (int v = 0; v < kWide; ++v) all[i][v] += w * sums[v][j];
      }
  }
  for (int i = 0; i < kReach; ++i)
    for (int v = 0; v < kWide; ++v) store_register(dst[i] + k + v * kRegister, all[i][v]);
}

// Adds a row to the kReach results that it is part of, each with weights of its own.
template <int kParts>
[[gnu::noinline]] static void add_mirrored(
    float* const* dst, const float* row, const float* const* weights, Index part) {
  Index k = 0;
  for (; k + 2 * kRegister <= part; k += 2 * kRegister)
    add_registers<kParts, 2>(dst, row, weights, part, k);
  for (; k < part; k += kRegister) add_registers<kParts, 1>(dst, row, weights, part, k);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
