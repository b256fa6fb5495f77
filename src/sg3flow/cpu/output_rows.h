// Rows of a few planes of the result, side by side, from middle rows that come in their order. The
// second filter goes across each as it comes: what is kept is as wide as the result.
#pragma once

#include <algorithm>
#include <vector>

#include "across_down.h"
#include "plan.h"
#include "rows.h"
#include "weighted_sums.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

class OutputRows {
 public:
  OutputRows(const Resampling& a, const Stripe& stripe)
      : a_(a),
        s_(stripe),
        d_(a.down),
        copies_(!d_.full && d_.height == 1 && d_.width == 1 && a.down_x == 1 && a.down_y == 1 &&
                d_.column[0] * d_.row[0] == 1),
        mirrors_(can_mirror()),
        kept_(d_.full ? ceil_div(d_.height, a.down_y) : d_.height, stripe.part, kLanes),
        result_(1, stripe.part, kLanes),
        rows_(std::max(d_.height, d_.width + 1)),
        weights_(d_.width + 1) {
    for (int u = 0; u < d_.width; ++u) from_.push_back(u % a.down_x * s_.part + u / a.down_x);
  }

  void begin(Index first_plane, Index planes) {
    first_ = first_plane;
    planes_ = planes;
  }

  // Whether middle row m is part of a result.
  bool uses(Index m) const {
    return m <= (a_.out_h - 1) * a_.down_y + d_.height - 1 && m % a_.down_y < d_.height;
  }

  void take(const float* middle, Index m) {
    if (copies_) return write(middle, m);
    if (d_.full)
      add(middle, m);
    else
      filter(d_.row, middle, kept_.at(m));
    const Index top = m - d_.height + 1;
    if (top < 0 || top % a_.down_y) return;
    if (d_.full) return write(kept_.at(top / a_.down_y), top / a_.down_y);
    kept_.rows(top, d_.height, rows_.data());
    weigh(result_.at(0), rows_.data(), d_.column, d_.height, s_.part, Keep{});
    write(result_.at(0), top / a_.down_y);
  }

 private:
  static constexpr Index kAhead = 2;  // rows of a stripe before they are written

  // Whether each row of taps is equal from both ends, to the last bit, and as long as is made for.
  bool can_mirror() const {
    if ((a_.down_x != 2 && a_.down_x != 4) || d_.width != kPhaseTaps * a_.down_x) return false;
    if (d_.full && d_.height != kPhaseTaps * a_.down_y) return false;
    const float* taps = d_.full ? d_.full : d_.row;
    for (int i = 0; i < (d_.full ? d_.height : 1) * d_.width; ++i) {
      const int line = i / d_.width, tap = i % d_.width;
      if (taps[i] != taps[line * d_.width + d_.width - 1 - tap]) return false;
    }
    return true;
  }

  void filter(const float* weights, const float* middle, float* to) {
    if (mirrors_ && a_.down_x == 2) return filter_mirrored<2>(to, middle, weights, s_.part);
    if (mirrors_) return filter_mirrored<4>(to, middle, weights, s_.part);
    for (int u = 0; u < d_.width; ++u) rows_[u] = middle + from_[u];
    weigh(to, rows_.data(), weights, d_.width, s_.part, Keep{});
  }

  // A filter that is not separable has weights for each pair of a middle row and a result. Results
  // before the first one are begun by none and read by none.
  void add(const float* middle, Index m) {
    const Index last = floor_div(m, a_.down_y);
    const int results = static_cast<int>(ceil_div(d_.height - m % a_.down_y, a_.down_y));
    if (m % a_.down_y == 0) std::fill_n(kept_.at(last), s_.part, 0.f);
    if (mirrors_) return add_mirrored_row(middle, m, last);
    for (Index y = std::max<Index>(last - results + 1, 0); y <= last; ++y) {
      rows_[0] = kept_.at(y);
      weights_[0] = 1;
      for (int u = 0; u < d_.width; ++u) {
        rows_[u + 1] = middle + from_[u];
        weights_[u + 1] = d_.full[(m - y * a_.down_y) * d_.width + u];
      }
      weigh(kept_.at(y), rows_.data(), weights_.data(), d_.width + 1, s_.part, Keep{});
    }
  }

  void add_mirrored_row(const float* middle, Index m, Index last) {
    float* to[kPhaseTaps];
    const float* weights[kPhaseTaps];
    for (int i = 0; i < kPhaseTaps; ++i) {
      to[i] = kept_.at(last - i);
      weights[i] = d_.full + (m - (last - i) * a_.down_y) * d_.width;
    }
    if (a_.down_x == 2)
      add_mirrored<2>(to, middle, weights, s_.part);
    else
      add_mirrored<4>(to, middle, weights, s_.part);
  }

  void write(const float* row, Index y) {
    const Index n = s_.end - s_.begin;
    for (Index slot = 0; slot < planes_; ++slot) {
      const float* from = row + slot * s_.slot;
      float* image = a_.y + (first_ + slot) * a_.out_h * a_.out_w + s_.begin;
      float* to = image + y * a_.out_w;
      fetch_ahead<true>(image + std::min(y + kAhead, a_.out_h - 1) * a_.out_w, n);
      for (Index k = 0; k < n; k += kLanes)
        store_first(to + k, load(from + k), first_lanes(n - k));
    }
  }

  const Resampling& a_;
  const Stripe& s_;
  const Filter& d_;
  bool copies_;   // nothing happens after the upsampling: middle rows are results
  bool mirrors_;  // across a row
  Ring kept_;     // separable: filtered across, before they meet; else results that are begun
  Ring result_;
  std::vector<const float*> rows_;
  std::vector<float> weights_;
  std::vector<Index> from_;  // where the taps begin in a middle row
  Index first_ = 0, planes_ = 0;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
