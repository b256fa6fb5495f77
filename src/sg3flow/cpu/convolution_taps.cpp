// The taps of a 3x3 convolution, transformed, in the order in which its matrix products read them.
// Lanes are output channels.

#include <algorithm>

#include "aligned.h"
#include "block_product.h"
#include "plan.h"
#include "transpose.h"
#include "winograd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

constexpr Index kTaps = 9;
constexpr Index kBlocks = kLanes / kRows;  // of a register of output channels
static_assert(kBlocks > 0);

class Worker {
 public:
  Worker(const Convolution& a, const float* w, float* taps)
      : a_(a), w_(w), taps_(taps), places_(kPlaces * kLanes * kLanes) {}

  // Unit: kBlocks blocks of output channels.
  void run(Index unit) {
    const Index first = unit * kBlocks * kRows;
    for (Index c = 0; c < a_.in_c; c += kLanes) {
      const Index n = std::min<Index>(a_.in_c - c, kLanes);
      read(first, c, n);
      for (Index i = 0; i < n; ++i) transform(i);
      for (Index b = 0; b < kBlocks; ++b)
        if (first + b * kRows < a_.out_c) write(unit * kBlocks + b, b, c, n);
    }
  }

 private:
  // The taps of n input channels of every lane's output channel; zeros where there is none.
  void read(Index first, Index c, Index n) {
    for (Index at = 0; at < n * kTaps; at += kLanes) {
      const Lanes lanes = first_lanes(n * kTaps - at);
      for (Index o = 0; o < kLanes; ++o) {
        const bool there = first + o < a_.out_c;
        const float* from = w_ + ((there ? first + o : 0) * a_.in_c + c) * kTaps + at;
        taps_of_[at + o] = load_lanes(from, there ? lanes : first_lanes(0));
      }
      transpose_rows(taps_of_ + at);
    }
  }

  void transform(Index i) {
    const Vec* g = taps_of_ + i * kTaps;
    Vec half[3][6];
    for (int y = 0; y < 3; ++y) transform_taps(g + 3 * y, half[y]);
    for (int x = 0; x < 6; ++x) {
      Vec column[3], u[6];
      for (int y = 0; y < 3; ++y) column[y] = half[y][x];
      transform_taps(column, u);
      for (int y = 0; y < 6; ++y) put(6 * y + x, i, u[y]);
    }
  }

  // By place, block and input channel: what is written to one place of memory then lies together.
  void put(int place, Index i, Vec u) {
    float lanes[kLanes];
    store(lanes, u);
    for (Index b = 0; b < kBlocks; ++b)
      std::copy_n(lanes + b * kRows, kRows, part(place, b) + i * kRows);
  }

  void write(Index block, Index b, Index c, Index n) {
    const Index blocks = ceil_div(a_.out_c, kRows);
    for (int k = 0; k < kPlaces; ++k) {
      const float* from = part(k, b);
      float* to = taps_ + ((k * blocks + block) * a_.in_c + c) * kRows;
      fetch_ahead<true>(to + n * kRows, n * kRows);  // of the next channels
      for (Index j = 0; j < n * kRows; j += kLanes)
        store_first(to + j, load(from + j), first_lanes(n * kRows - j));
    }
  }

  float* part(int place, Index b) {
    return places_.data() + (place * kBlocks + b) * kLanes * kRows;
  }

  const Convolution& a_;
  const float* w_;
  float* taps_;
  Vec taps_of_[kTaps * kLanes];  // [input channel, tap]
  Scratch places_;
};

}  // namespace

// Floats that the transformed taps take.
Index convolution_taps(const Convolution& a) {
  return kPlaces * round_up(a.out_c, kRows) * a.in_c;
}

Index taps_units(const Convolution& a) { return ceil_div(a.out_c, kBlocks * kRows); }

// Taps [out_c, in_c, 3, 3] -> [36, out_c / kRows, in_c, kRows].
void transform_convolution_taps(
    const Convolution& a, const float* w, float* taps, Index begin, Index end) {
  Worker worker(a, w, taps);
  for (Index i = begin; i < end; ++i) worker.run(i);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
