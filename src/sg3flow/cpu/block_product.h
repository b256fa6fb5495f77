// A small matrix product that keeps its results in registers until they are complete.
#pragma once

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// the block of results: rows, and vectors of a row
#if defined(__AVX512F__)
constexpr int kRows = 8, kColumns = 3;
#elif defined(__AVX2__)
constexpr int kRows = 6, kColumns = 2;
#else
constexpr int kRows = 3, kColumns = 3;
#endif

constexpr int kAhead = 64;  // weights come from the third-level cache, once each

// m[i * columns + j] = sum over c of u[c * kRows + i] * v[c * columns + j], of kRows rows, of which
// the first `rows` are stored, and of kWide vectors
template <int kWide>
inline void multiply_block(
    const float* u, const float* v, float* m, std::int64_t inner, std::int64_t columns,
    std::int64_t rows) {
  Vec sum[kRows][kWide];
  for (int i = 0; i < kRows; ++i)  // not `= {}`: that would clear an array in memory
    for (int j = 0; j < kWide; ++j) sum[i][j] = Vec{};
  for (std::int64_t c = 0; c < inner; ++c) {
    __builtin_prefetch(u + (c + kAhead) * kRows);  // the next block begins where this one ends
    Vec b[kWide];
    for (int j = 0; j < kWide; ++j) b[j] = load(v + c * columns + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec w = splat(u[c * kRows + i]);
      for (int j = 0; j < kWide; ++j) sum[i][j] += w * b[j];
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kWide; ++j)
      if (i < rows) store(m + i * columns + j * kLanes, sum[i][j]);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
