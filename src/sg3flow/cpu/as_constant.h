// Turns a runtime number into a compile-time constant.
#pragma once

#include <type_traits>

#include "kernels.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// step(std::integral_constant<int, n>()) for n of 1 to kMost; nothing for any other.
template <int kMost, class Step>
inline void as_constant(std::int64_t n, Step step) {
  if (n == kMost) return step(std::integral_constant<int, kMost>());
  if constexpr (kMost > 1) as_constant<kMost - 1>(n, step);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
