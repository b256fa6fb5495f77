// Upsample, nonlinearity, downsample: row by row, the rows in use in the first-level cache.

#include <algorithm>
#include <vector>

#include "flags.h"
#include "plan.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// The last few rows, by their number.
class Ring {
 public:
  Ring(Index rows, Index length) : rows_(rows), length_(length), data_(rows * length + 64) {}
  float* at(Index i) { return data_.data() + i % rows_ * length_; }

 private:
  Index rows_, length_;
  Floats data_;
};

// Does one stripe of a few planes at a time, from the top to the bottom.
class Worker {
 public:
  Worker(const Resampling& a, const Plan& plan, const Stripe& stripe)
      : a_(a),
        s_(stripe),
        turns_(plan.turns()),
        step_(plan.step()),
        row_(stripe.part * a.down_x),
        splits_(stripe.in_part * plan.step()),
        only_down_(!a.up.full && a.middle == Middle::kNothing && a.up.height == 1 && a.up_y == 1 &&
                   a.up.column[0] == 1),
        only_up_(!a.down.full && a.down.height == 1 && a.down.width == 1 && a.down_x == 1 &&
                 a.down.column[0] * a.down.row[0] == 1),
        ready_(2, splits_),
        inputs_((only_down_ ? a.down.height : (a.up.height - 1) / a.up_y + 1) + 1,
                a.up.full ? splits_ : row_),
        middles_(only_down_ ? 1 : a.down.height + a.down_y, row_),
        sums_(2, row_),
        zeros_(std::max(splits_, row_) + 64),
        turned_(turns_ > 1 ? row_ : 0),
        folded_(a.down.full ? (a.down.height + 1) / 2 * row_ : 0),
        output_(stripe.part + 64),
        flags_(stripe, a.down_x) {
    const int taps = std::max(a.up.height * a.up.width, a.down.height * a.down.width);
    rows_.resize(taps + 1);
    weights_.resize(taps + 1);
    const Filter& d = a.down;
    folds_ = d.full && d.height > 1;
    for (int i = 0; folds_ && i < d.height * d.width; ++i)
      folds_ = d.full[i] == d.full[(d.height - 1 - i / d.width) * d.width + i % d.width];
  }

  void run(Index first, Index count) {
    first_ = first;
    count_ = count;
    next_input_ = next_middle_ = 0;
    next_ready_ = -1;
    for (Index y = 0; y < a_.out_h; ++y) {
      const Index top = y * a_.down_y;
      make_middles(top, top + a_.down.height);
      write(y, top);
    }
    finish_output();
    if (a_.middle == Middle::kRecord) make_middles(next_middle_, a_.mid_h);
  }

 private:
  // A row of the image in `step` parts, by columns modulo `step`, with the bias and zeros around.
  void split(Index i, float* to) {
    for (Index slot = 0; slot < count_; ++slot) {
      const Index plane = first_ + slot;
      const float* source = a_.x + (plane * a_.in_h + i) * a_.in_w;
      const float bias = a_.bias ? a_.bias[plane % a_.channels] : 0;
      for (int e = 0; e < step_; ++e) {
        // columns in_begin + e + step * u, of which those in [0, in_w) exist
        const Index start = s_.in_begin + e;
        const Index from = std::clamp<Index>(ceil_div(-start, step_), 0, s_.in_slot);
        const Index end = std::clamp<Index>(ceil_div(a_.in_w - start, step_), from, s_.in_slot);
        float* part = to + e * s_.in_part + slot * s_.in_slot;
        std::fill(part, part + from, 0.f);
        copy(part + from, source + start + step_ * from, end - from, bias);
        std::fill(part + end, part + s_.in_slot, 0.f);
      }
    }
  }

  void copy(float* to, const float* from, Index n, float bias) const {
    if (step_ == 1)
      for (Index u = 0; u < n; ++u) to[u] = from[u] + bias;
    else if (step_ == 2)
      for (Index u = 0; u < n; ++u) to[u] = from[2 * u] + bias;
    else
      for (Index u = 0; u < n; ++u) to[u] = from[step_ * u] + bias;
  }

  // Input row i: upsampled across, or only split where the filter is not separable.
  void make_input(Index i) {
    if (a_.up.full) return split(i, inputs_.at(i));
    // The next row is split before this one is read back: a load that straddles two stores has to
    // wait until both have left for the cache.
    if (next_ready_ < i) split(i, ready_.at(i));
    if (i + 1 < a_.in_h) split(i + 1, ready_.at(i + 1));
    next_ready_ = i + 1;
    const float* from = ready_.at(i);
    float* to = inputs_.at(i);
    for (std::size_t k = 0; k < s_.across.size(); ++k) {
      const Across& one = s_.across[k];
      for (int t = 0; t < one.count; ++t) rows_[t] = from + one.from[t];
      weigh(turn_row(to, k), rows_.data(), one.weights.data(), one.count, s_.run, Keep{});
      end_turn(to, k);
    }
  }

  // The samples of a part that share taps go to a row of their own before they are interleaved.
  float* turn_row(float* to, std::size_t k) {
    return turns_ == 1 ? to + s_.across[k].to : turned_.data() + k % turns_ * s_.run;
  }

  void end_turn(float* to, std::size_t k) const {
    if (turns_ == 1 || static_cast<int>(k % turns_) != turns_ - 1) return;
    to += s_.across[k].to;
    const float* from = turned_.data();
    const Index n = s_.run;
    if (turns_ == 2)
      for (Index q = 0; q < n; ++q) {
        to[2 * q] = from[q];
        to[2 * q + 1] = from[n + q];
      }
    else
      for (Index i = 0; i < s_.part; ++i) to[i] = from[i % turns_ * n + i / turns_];
  }

  // Rows from `first` on will be asked for, up to `end`.
  void make_inputs(Index first, Index end) {
    next_input_ = std::max({next_input_, first, Index{0}});
    for (; next_input_ < std::min(end, a_.in_h); ++next_input_) make_input(next_input_);
  }

  const float* input(Index i) { return i < 0 || i >= a_.in_h ? zeros_.data() : inputs_.at(i); }
  const float* middle(Index m) { return only_down_ ? input(m - a_.pad_y) : middles_.at(m); }

  void make_middles(Index first, Index end) {
    if (only_down_) return make_inputs(first - a_.pad_y, end - a_.pad_y);
    if (a_.middle != Middle::kRecord) next_middle_ = std::max(next_middle_, first);
    for (; next_middle_ < std::min(end, a_.mid_h); ++next_middle_) make_middle(next_middle_);
  }

  void make_middle(Index m) {
    float* to = middles_.at(m);
    if (a_.middle == Middle::kReplay && !read_flags(m)) {
      std::fill(to, to + row_, 0.f);
      return;
    }
    switch (a_.middle) {
      case Middle::kNothing: return upsample(to, m, Keep{});
      case Middle::kActivate: return upsample(to, m, Activate(a_.gain, a_.slope, a_.clamp));
      case Middle::kReplay: return upsample(to, m, Replay(a_.gain, a_.slope, flags_.codes()));
      case Middle::kRecord:
        upsample(to, m, Record(a_.gain, a_.slope, a_.clamp, flags_.codes()));
        for (Index slot = 0; slot < count_; ++slot)
          flags_.pack(slot, a_.record + flag_row(slot, m) + s_.mid / 4);
    }
  }

  bool read_flags(Index m) {
    const Index row = m + a_.offset_y;
    if (row < 0 || row >= a_.flags_h) return false;
    for (Index slot = 0; slot < count_; ++slot)
      flags_.unpack(slot, a_.replay + flag_row(slot, row), s_.mid + a_.offset_x, a_.flags_w);
    return true;
  }

  Index flag_row(Index slot, Index row) const {
    return ((first_ + slot) * a_.flags_h + row) * a_.flags_stride;
  }

  template <class Finish>
  void upsample(float* to, Index m, Finish finish) {
    const Phase p(m, a_.up_y, a_.pad_y, a_.up.height);
    make_inputs(p.first, p.first + p.count);
    if (a_.up.full) return upsample_both(to, p, finish);
    for (int t = 0; t < p.count; ++t) {
      rows_[t] = input(p.first + t);
      weights_[t] = a_.up.column[p.tap + t * a_.up_y];
    }
    weigh(to, rows_.data(), weights_.data(), p.count, row_, finish);
  }

  template <class Finish>
  void upsample_both(float* to, const Phase& p, Finish finish) {
    for (std::size_t k = 0; k < s_.across.size(); ++k) {
      const Across& one = s_.across[k];
      int taps = 0;
      for (int t = 0; t < p.count; ++t) {
        const float* row = input(p.first + t);
        const float* w = a_.up.full + (p.tap + t * a_.up_y) * a_.up.width + one.tap;
        for (int u = 0; u < one.count; ++u, ++taps) {
          rows_[taps] = row + one.from[u];
          weights_[taps] = w[u * a_.up_x];
        }
      }
      weigh(turn_row(to, k), rows_.data(), weights_.data(), taps, s_.run, Keep{});
      end_turn(to, k);
    }
    for (Index k = 0; k < row_; k += kLanes) store(to + k, finish(load(to + k), k));
  }

  void write(Index y, Index top) {
    if (only_up_) return write_row(middle(top), y);
    if (a_.down.full) return filter_down(across_full(top), y);
    const float* sum = sum_along(y, top);
    finish_output();  // of the row before: its sums have reached the cache by now
    pending_ = sum;
    pending_y_ = y;
  }

  void finish_output() {
    if (!pending_) return;
    const Filter& d = a_.down;
    for (int u = 0; u < d.width; ++u) {
      rows_[u] = pending_ + u % a_.down_x * s_.part + u / a_.down_x;
      weights_[u] = d.row[u];
    }
    pending_ = nullptr;
    filter_down(d.width, pending_y_);
  }

  void filter_down(int taps, Index y) {
    weigh(output_.data(), rows_.data(), weights_.data(), taps, s_.part, Keep{});
    write_row(output_.data(), y);
  }

  void write_row(const float* row, Index y) {
    const Index n = s_.end - s_.begin;
    for (Index slot = 0; slot < count_; ++slot) {
      const float* from = row + slot * s_.slot;
      std::copy(from, from + n, a_.y + ((first_ + slot) * a_.out_h + y) * a_.out_w + s_.begin);
    }
  }

  const float* sum_along(Index y, Index top) {
    const Filter& d = a_.down;
    float* sum = sums_.at(y);
    for (int t = 0; t < d.height; ++t) rows_[t] = middle(top + t);
    weigh(sum, rows_.data(), d.column, d.height, row_, Keep{});
    return sum;
  }

  // A filter that is its own mirror image from top to bottom meets sums of two rows.
  int across_full(Index top) {
    const Filter& d = a_.down;
    int taps = 0;
    for (int t = 0; t < (folds_ ? (d.height + 1) / 2 : d.height); ++t) {
      const float* row = middle(top + t);
      if (folds_ && 2 * t + 1 < d.height) row = fold(row, middle(top + d.height - 1 - t), t);
      for (int u = 0; u < d.width; ++u, ++taps) {
        rows_[taps] = row + u % a_.down_x * s_.part + u / a_.down_x;
        weights_[taps] = d.full[t * d.width + u];
      }
    }
    return taps;
  }

  const float* fold(const float* above, const float* below, int t) {
    float* to = folded_.data() + t * row_;
    for (Index k = 0; k < row_; k += kLanes) store(to + k, load(above + k) + load(below + k));
    return to;
  }

  const Resampling& a_;
  const Stripe& s_;
  int turns_, step_;
  Index row_, splits_;  // floats of a middle row, of a split input row
  bool only_down_;      // nothing happens before the downsampling: input rows are middle rows
  bool only_up_;        // nothing happens after the upsampling: middle rows are results
  Ring ready_, inputs_, middles_, sums_;
  Floats zeros_, turned_, folded_, output_;
  FlagRow flags_;
  std::vector<const float*> rows_;
  std::vector<float> weights_;
  bool folds_ = false;
  const float* pending_ = nullptr;
  Index pending_y_ = 0;
  Index first_ = 0, count_ = 0, next_input_ = 0, next_ready_ = -1, next_middle_ = 0;
};

}  // namespace

Index resampling_units(const Resampling& a) {
  const Plan plan(a);
  return plan.groups() * static_cast<Index>(plan.stripes().size());
}

void run_resampling(const Resampling& a, Index begin, Index end) {
  const Plan plan(a);
  const Index stripes = static_cast<Index>(plan.stripes().size());
  for (Index i = 0; i < stripes; ++i) {
    // unit u is stripe u % stripes of group u / stripes
    const Index first = ceil_div(begin - i, stripes), last = ceil_div(end - i, stripes);
    if (first >= last) continue;
    Worker worker(a, plan, plan.stripes()[i]);
    for (Index group = first; group < last; ++group) {
      const Index plane = group * plan.slots();
      worker.run(plane, std::min(plan.slots(), a.planes - plane));
    }
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
