// Memory aligned to cache lines: loading a vector that spans two lines takes twice as long.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

template <class T>
struct AtLine {
  static constexpr std::align_val_t kAlignment{kLine * sizeof(float)};
  using value_type = T;
  AtLine() = default;
  template <class U>
  AtLine(const AtLine<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), kAlignment));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const AtLine&) const { return true; }
  bool operator!=(const AtLine&) const { return false; }
};
using Floats = std::vector<float, AtLine<float>>;

// The same, and it begins with whatever was there before.
struct AtLineAsIs : AtLine<float> {
  template <class U>
  struct rebind {
    using other = AtLineAsIs;
  };
  void construct(float*) {}
};
using Scratch = std::vector<float, AtLineAsIs>;

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
