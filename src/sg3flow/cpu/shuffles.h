// Permutations of lanes, within a register and between several.
#pragma once

#include <utility>

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

template <auto kFrom, int... kLane>
static inline Vec mix_lanes(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kFrom(kLane)...);
#else
  return __builtin_shuffle(a, b, IntVec{kFrom(kLane)...});
#endif
}

// Lane i is lane kFrom(i) of a, or kFrom(i) - kLanes of b.
template <auto kFrom>
static inline Vec mix(Vec a, Vec b) {
  return mix_lanes<kFrom>(a, b, std::make_integer_sequence<int, kLanes>());
}

// Lanes 1 and up of a, then lane 0 of b.
static inline Vec shifted(Vec a, Vec b) {
  return mix<[](int i) { return i + 1; }>(a, b);
}

// Two registers in a row -> every other number, from the first and from the second on.
static inline void part_by_2(Vec a, Vec b, Vec* parts) {
  parts[0] = mix<[](int i) { return 2 * i; }>(a, b);
  parts[1] = mix<[](int i) { return 2 * i + 1; }>(a, b);
}

// and back
static inline void join_by_2(Vec a, Vec b, Vec* row) {
  row[0] = mix<[](int i) { return i / 2 + i % 2 * kLanes; }>(a, b);
  row[1] = mix<[](int i) { return (i + kLanes) / 2 + i % 2 * kLanes; }>(a, b);
}

// Four registers in a row -> every fourth number, from the first, second, third and fourth on.
static inline void part_by_4(const Vec* row, Vec* parts) {
  Vec low[2], high[2];  // every other, of the first half and of the last
  part_by_2(row[0], row[1], low);
  part_by_2(row[2], row[3], high);
  for (int i = 0; i < 2; ++i) {
    Vec two[2];
    part_by_2(low[i], high[i], two);
    parts[i] = two[0];
    parts[i + 2] = two[1];
  }
}

// and back
static inline void join_by_4(const Vec* parts, Vec* row) {
  Vec even[2], odd[2];
  join_by_2(parts[0], parts[2], even);
  join_by_2(parts[1], parts[3], odd);
  for (int i = 0; i < 2; ++i) join_by_2(even[i], odd[i], row + 2 * i);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
