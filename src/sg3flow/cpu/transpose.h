// 16 rows of 16 numbers become columns, without leaving the registers.
#pragma once

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// Quarters of two vectors: two of a, then two of b.
template <int kFirst>
static inline Vec every_other_quarter(Vec a, Vec b) {
  constexpr int f = 4 * kFirst, g = f + 8, h = f + 16, k = f + 24;
  return SG3FLOW_MIX(
      a, b, f, f + 1, f + 2, f + 3, g, g + 1, g + 2, g + 3, h, h + 1, h + 2, h + 3, k, k + 1,
      k + 2, k + 3);
}

// Four rows: within each quarter, rows become columns.
static inline void transpose_quarters(Vec* r) {
  Vec low[2], high[2];
  for (int i = 0; i < 2; ++i) {
    const Vec a = r[2 * i], b = r[2 * i + 1];
    low[i] = SG3FLOW_MIX(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    high[i] = SG3FLOW_MIX(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const Vec a = i ? high[0] : low[0], b = i ? high[1] : low[1];
    r[2 * i] = SG3FLOW_MIX(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    r[2 * i + 1] = SG3FLOW_MIX(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
}

static inline void transpose_rows(Vec* r) {
  for (int i = 0; i < kLanes; i += 4) transpose_quarters(r + i);
  for (int i = 0; i < 4; ++i) {
    const Vec even[2] = {
        every_other_quarter<0>(r[i], r[i + 4]), every_other_quarter<0>(r[i + 8], r[i + 12])};
    const Vec odd[2] = {
        every_other_quarter<1>(r[i], r[i + 4]), every_other_quarter<1>(r[i + 8], r[i + 12])};
    r[i] = every_other_quarter<0>(even[0], even[1]);
    r[i + 4] = every_other_quarter<0>(odd[0], odd[1]);
    r[i + 8] = every_other_quarter<1>(even[0], even[1]);
    r[i + 12] = every_other_quarter<1>(odd[0], odd[1]);
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
