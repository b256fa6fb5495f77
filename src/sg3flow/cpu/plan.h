// How a resampling is split into rows that fit the caches, and where its taps are in them.
//
// A row of the middle signal is kept in `down_x` parts, by columns modulo `down_x`: then every
// step, across and along, is a weighted sum of shifted rows with unit stride. Wide planes are cut
// into stripes of columns; narrow ones lie side by side in slots of one row.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

using Index = std::int64_t;

// Rows are whole words of flags long, so many samples each, and whole registers.
constexpr int kWord = 16;
static_assert(kWord % kLanes == 0);

constexpr int kPhaseTaps = 6;  // of a phase of a filter that is made for its factor

inline Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
inline Index ceil_div(Index a, Index b) { return -floor_div(-a, b); }

// Which input samples, with which taps, make sample m of the upsampled signal.
struct Phase {
  Index first;  // input index of the first tap
  int tap, count;
  Phase(Index m, int up, int pad, int taps) {
    tap = static_cast<int>(((pad - m) % up + up) % up);
    first = floor_div(m + tap - pad, up);
    count = tap < taps ? (taps - tap + up - 1) / up : 0;
  }
};

// Every `turns`-th sample of one part of a middle row: they share their taps.
struct Across {
  Index to;  // where the part begins in the middle row
  int tap, count;
  std::vector<Index> from;     // for each tap, offset in the split input row
  std::vector<float> weights;  // of a separable filter
};

struct Stripe {
  Index begin, end;       // output columns
  Index mid, owned;       // first middle column, and how many of them only this stripe records
  Index slots, slot;      // planes side by side, and samples of each in a part
  Index part;             // samples of one part of a middle row
  Index run;              // of those, how many share their taps: part / turns
  Index beyond;           // what the second filter reads after a middle row
  Index in_begin;         // first input column
  Index in_slot, in_part; // as slot and part, of the split input row
  std::vector<Across> across;
};

class Plan {
 public:
  explicit Plan(const Resampling& a) : a_(a) {
    const int common = std::gcd(a.up_x, a.down_x);
    turns_ = a.up_x / common;
    step_ = a.down_x / common;
    const Index count = std::max<Index>(ceil_div(a.out_w, kWidest), 1);
    width_ = round_up(ceil_div(a.out_w, count), 4);  // flags of a stripe begin at a byte
    for (Index i = 0; i < ceil_div(a.out_w, width_); ++i) stripes_.push_back(stripe(i));
    slots_ = stripes_[0].slots;
  }

  int turns() const { return turns_; }  // samples of a part before the taps come round again
  int step() const { return step_; }    // input samples between them
  const std::vector<Stripe>& stripes() const { return stripes_; }
  Index slots() const { return slots_; }
  Index groups() const { return ceil_div(a_.planes, slots_); }

 private:
  static constexpr Index kWidest = 560;  // output columns of a stripe
  static constexpr Index kRow = 384;     // samples of a part, for as many planes as fit

  Stripe stripe(Index i) const {
    Stripe s;
    s.begin = i * width_;
    s.end = std::min(s.begin + width_, a_.out_w);
    s.mid = s.begin * a_.down_x;
    s.owned = s.end == a_.out_w ? a_.mid_w - s.mid : (s.end - s.begin) * a_.down_x;
    const Index shifts = (a_.down.width - 1) / a_.down_x;
    s.beyond = round_up(shifts + kWord, kWord);
    const Index width = std::max(s.end - s.begin + shifts, ceil_div(s.owned, a_.down_x));
    place(s, width);
    return s;
  }

  Phase phase(const Stripe& s, Index part, Index turn) const {
    return Phase(s.mid + a_.down_x * turn + part, a_.up_x, a_.pad_x, a_.up.width);
  }

  void place(Stripe& s, Index width) const {
    s.in_begin = phase(s, 0, 0).first;
    Index last = s.in_begin;
    for (Index part = 0; part < a_.down_x; ++part)
      for (Index turn = 0; turn < turns_; ++turn) {
        const Phase p = phase(s, part, turn);
        s.in_begin = std::min(s.in_begin, p.first);
        last = std::max(last, p.first + p.count);
      }
    const Index furthest = (last - s.in_begin) / step_;
    // the four samples of a byte of flags are of one plane
    const Index whole = 4 / std::gcd(Index{4}, Index{turns_} * a_.down_x);
    s.in_slot = round_up(ceil_div(width, turns_) + furthest, whole);
    s.slot = s.in_slot * turns_;
    const bool alone = width_ < a_.out_w;
    s.slots = alone ? 1 : std::clamp<Index>(kRow / s.slot, 1, std::max<Index>(a_.planes, 1));
    s.run = round_up(s.slots * s.in_slot, kWord);
    s.part = s.run * turns_;
    s.in_part = s.run + round_up(std::max<Index>(furthest, 1), kWord);
    for (Index part = 0; part < a_.down_x; ++part)
      for (Index turn = 0; turn < turns_; ++turn) s.across.push_back(across(s, part, turn));
  }

  Across across(const Stripe& s, Index part, Index turn) const {
    const Phase p = phase(s, part, turn);
    Across one{part * s.part, p.tap, p.count, {}, {}};
    for (int t = 0; t < p.count; ++t) {
      const Index at = p.first - s.in_begin + t;
      one.from.push_back(at % step_ * s.in_part + at / step_);
      if (a_.up.row) one.weights.push_back(a_.up.row[p.tap + t * a_.up_x]);
    }
    return one;
  }

  const Resampling& a_;
  int turns_, step_;
  Index width_, slots_;
  std::vector<Stripe> stripes_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
