// A ring of rows of floats: a new row takes the place of one that is no longer used.
#pragma once

#include "aligned.h"
#include "plan.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

class Ring {
 public:
  // Reads beyond a row reach the next one; beyond the last there are `beyond` floats.
  Ring(Index rows, Index length, Index beyond)
      : rows_(rows), length_(length), data_(rows * length + beyond) {}

  float* at(Index i) { return data_.data() + place(i) * length_; }

  // Rows [first, first + count); as many divisions as there are rows would take as long as the
  // work on them.
  void rows(Index first, int count, const float** to) const {
    Index i = place(first);
    for (int t = 0; t < count; ++t) {
      to[t] = data_.data() + i * length_;
      if (++i == rows_) i = 0;
    }
  }

 private:
  Index place(Index i) const { return i - floor_div(i, rows_) * rows_; }

  Index rows_, length_;
  Floats data_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
