// Rows of a few planes of the input, side by side, made when they are asked for: with the bias, and
// upsampled across where the filter is separable.
#pragma once

#include <algorithm>
#include <vector>

#include "across_up.h"
#include "plan.h"
#include "rows.h"
#include "shuffles.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

class InputRows {
 public:
  // `kept` rows stay; those outside of the image are zeros.
  InputRows(const Resampling& a, const Plan& plan, const Stripe& stripe, AcrossUp& across, int kept)
      : a_(a),
        s_(stripe),
        across_(across),
        step_(plan.step()),
        ready_(2, stripe.in_part * plan.step(), 0),
        made_(
            kept, a.up.full ? stripe.in_part * plan.step() : stripe.part * a.down_x,
            stripe.beyond),
        zeros_(
            1, std::max(stripe.in_part * plan.step(), stripe.part * a.down_x), stripe.beyond) {
    for (Index u = s_.in_begin; u < s_.in_begin + step_ * round_up(s_.in_slot, kLanes); u += kLanes)
      inside_.push_back(static_cast<Lanes>(first_lanes(a.in_w - u) & ~first_lanes(-u)));
  }

  void begin(Index first_plane, Index planes) {
    first_ = first_plane;
    planes_ = planes;
    next_ = 0;
    next_ready_ = -1;
  }

  // Rows from `first` on will be asked for, up to `end`.
  void make(Index first, Index end) {
    next_ = std::max({next_, first, Index{0}});
    for (; next_ < std::min(end, a_.in_h); ++next_) make_row(next_);
  }

  const float* at(Index i) { return i < 0 || i >= a_.in_h ? zeros_.at(0) : made_.at(i); }

  void rows(Index first, int count, const float** to) {
    made_.rows(first, count, to);
    for (int t = 0; t < count; ++t)
      if (first + t < 0 || first + t >= a_.in_h) to[t] = zeros_.at(0);
  }

 private:
  static constexpr Index kAhead = 4;  // rows of a stripe before they are needed

  void make_row(Index i) {
    if (a_.up.full) return split(i, made_.at(i));
    // The next row is split before this one is read back: a load that straddles two stores has to
    // wait until both have left for the cache.
    if (next_ready_ < i) split(i, ready_.at(i));
    if (i + 1 < a_.in_h) split(i + 1, ready_.at(i + 1));
    next_ready_ = i + 1;
    across_.along(ready_.at(i), made_.at(i));
  }

  // A row of the image in `step` parts, by columns modulo `step`, with the bias and zeros around.
  void split(Index i, float* to) {
    for (Index slot = 0; slot < planes_; ++slot) {
      const Index plane = first_ + slot;
      const float* image = a_.x + plane * a_.in_h * a_.in_w;
      const float* source = image + i * a_.in_w;
      const Index ahead = std::min(i + kAhead, a_.in_h - 1);
      fetch_ahead(image + ahead * a_.in_w + s_.in_begin, step_ * s_.in_slot);
      const float bias = a_.bias ? a_.bias[plane % a_.channels] : 0;
      float* part = to + slot * s_.in_slot;
      if (step_ <= 2)
        split_vectors(source + s_.in_begin, bias, part);
      else
        for (int e = 0; e < step_; ++e) split_part(source, e, bias, part + e * s_.in_part);
    }
  }

  // What a vector writes beyond its plane, the next one writes over.
  void split_vectors(const float* from, float bias, float* to) const {
    const Lanes* inside = inside_.data();
    for (Index u = 0; u < s_.in_slot; u += kLanes, inside += step_) {
      Vec v[2];
      for (int i = 0; i < step_; ++i) {
        v[i] = load_lanes(from + step_ * u + i * kLanes, inside[i]);
        v[i] = choose(inside[i], v[i] + bias, Vec{});
      }
      if (step_ == 2) part_by_2(v[0], v[1], v);
      for (int i = 0; i < step_; ++i) store(to + i * s_.in_part + u, v[i]);
    }
  }

  // Columns in_begin + e + step * u, of which those in [0, in_w) exist.
  void split_part(const float* source, int e, float bias, float* to) const {
    const Index start = s_.in_begin + e, step = step_;
    const Index from = std::clamp<Index>(ceil_div(-start, step), 0, s_.in_slot);
    const Index end = std::clamp<Index>(ceil_div(a_.in_w - start, step), from, s_.in_slot);
    std::fill(to, to + from, 0.f);
    for (Index u = from; u < end; ++u) to[u] = source[start + step * u] + bias;
    std::fill(to + end, to + s_.in_slot, 0.f);
  }

  const Resampling& a_;
  const Stripe& s_;
  AcrossUp& across_;
  int step_;
  Ring ready_, made_, zeros_;
  std::vector<Lanes> inside_;  // lanes of each vector of an input row that lie in the image
  Index first_ = 0, planes_ = 0, next_ = 0, next_ready_ = -1;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
