// A register for each of a few samples in a row: its own and those that follow.
#pragma once

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

#if defined(__AVX512F__)

// A load across two cache lines takes twice as long: so this uses aligned loads and shifts.
template <int kShift, int kCount>
static inline void shift_on(Vec low, Vec high, Vec* to) {
  if constexpr (kShift == 0) to[0] = low;
  if constexpr (kShift > 0 && kShift < kCount)
    to[kShift] = _mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), kShift));
  if constexpr (kShift < kCount) shift_on<kShift + 1, kCount>(low, high, to);
}

// to[i] begins at from[i]. Reads two whole registers; `from` begins at a register's place.
template <int kCount>
static inline void window(const float* from, Vec* to) {
  static_assert(kCount <= kLanes);
  shift_on<0, kCount>(load(from), load(from + kLanes), to);
}

#else

// Without a shuffle of two registers the plain loads are as fast.
template <int kCount>
static inline void window(const float* from, Vec* to) {
  for (int i = 0; i < kCount; ++i) to[i] = load(from + i);
}

#endif

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
