// Transposes as many rows as a register has lanes, in registers.
#pragma once

#include "shuffles.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// A quarter is four lanes: most instructions move lanes within it only.
constexpr int kQuarters = kLanes / 4;

// Quarter i is quarter kFrom(i) of a, or kFrom(i) - kQuarters of b.
template <auto kFrom>
static inline Vec mix_quarters(Vec a, Vec b) {
  return mix<[](int i) { return 4 * kFrom(i / 4) + i % 4; }>(a, b);
}

// In each quarter, lanes kFrom(0) and so on: below 4 of a, the others of b.
template <auto kFrom>
static inline Vec mix_within(Vec a, Vec b) {
  return mix<[](int i) {
    const int from = kFrom(i % 4);
    return i / 4 * 4 + from % 4 + from / 4 * kLanes;
  }>(a, b);
}

// Four rows: within each quarter, rows become columns.
static inline void transpose_quarters(Vec* r) {
  Vec low[2], high[2];
  for (int i = 0; i < 2; ++i) {
    low[i] = mix_within<[](int k) { return k / 2 + k % 2 * 4; }>(r[2 * i], r[2 * i + 1]);
    high[i] = mix_within<[](int k) { return 2 + k / 2 + k % 2 * 4; }>(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    const Vec* half = i ? high : low;
    r[2 * i] = mix_within<[](int k) { return k % 2 + k / 2 * 4; }>(half[0], half[1]);
    r[2 * i + 1] = mix_within<[](int k) { return 2 + k % 2 + k / 2 * 4; }>(half[0], half[1]);
  }
}

// Every other quarter, from the first and from the second on.
static inline void part_quarters(Vec a, Vec b, Vec* parts) {
  parts[0] = mix_quarters<[](int i) { return 2 * i; }>(a, b);
  parts[1] = mix_quarters<[](int i) { return 2 * i + 1; }>(a, b);
}

static inline void transpose_rows(Vec* r) {
  for (int i = 0; i < kLanes; i += 4) transpose_quarters(r + i);
  for (int i = 0; i < 4; ++i) {
    if constexpr (kQuarters == 2) {
      Vec parts[2];
      part_quarters(r[i], r[i + 4], parts);
      r[i] = parts[0];
      r[i + 4] = parts[1];
    }
    if constexpr (kQuarters == 4) {
      Vec low[2], high[2];
      part_quarters(r[i], r[i + 4], low);
      part_quarters(r[i + 8], r[i + 12], high);
      for (int k = 0; k < 2; ++k) {
        Vec parts[2];
        part_quarters(low[k], high[k], parts);
        r[i + 4 * k] = parts[0];
        r[i + 4 * k + 8] = parts[1];
      }
    }
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
