// Upsample, nonlinearity, downsample: row by row, the rows in use in the first-level cache.

#include <algorithm>
#include <bit>
#include <vector>

#include "across.h"
#include "flags.h"
#include "plan.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// The last few rows, by their number.
class Ring {
 public:
  Ring(Index rows, Index length)
      : last_(std::bit_ceil(static_cast<std::uint64_t>(rows)) - 1),
        length_(length),
        data_((last_ + 1) * length + 64) {}
  float* at(Index i) { return data_.data() + (i & last_) * length_; }

 private:
  Index last_, length_;  // a division takes as long as the work on a vector
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
    for (Index u = s_.in_begin; u < s_.in_begin + step_ * round_up(s_.in_slot, kLanes); u += kLanes)
      inside_.push_back(static_cast<Lanes>(first_lanes(a.in_w - u) & ~first_lanes(-u)));
    for (int u = 0; u < d.width; ++u)
      down_from_.push_back(u % a.down_x * s_.part + u / a.down_x);
    for (Index m = 0; m < a.mid_h; ++m) phases_.emplace_back(m, a.up_y, a.pad_y, a.up.height);
    const float* taps_of = d.full ? d.full : d.row;
    const int lines = d.full ? d.height : 1;
    folds_ = d.full && d.height > 1;
    mirrors_ = can_mirror(a.down_x, d.width) && (!d.full || d.height % 2 == 0);
    for (int i = 0; i < lines * d.width; ++i) {
      const int line = i / d.width, tap = i % d.width;
      folds_ = folds_ && taps_of[i] == taps_of[(lines - 1 - line) * d.width + tap];
      mirrors_ = mirrors_ && taps_of[i] == taps_of[line * d.width + d.width - 1 - tap];
    }
    mirrors_ = mirrors_ && (folds_ || !d.full);
    mirrored_.resize((lines + 1) / 2);
  }

  void run(Index first, Index count) {
    first_ = first;
    count_ = count;
    next_input_ = next_middle_ = 0;
    next_ready_ = next_fetched_ = -1;
    for (Index y = 0; y < a_.out_h; ++y) {
      const Index top = y * a_.down_y;
      make_middles(top, top + a_.down.height);
      write(y, top);
    }
    finish_output();
    if (a_.middle != Middle::kRecord) return;
    make_middles(next_middle_, a_.mid_h);
    write_flags(a_.mid_h - 1);
  }

 private:
  // How many rows of a stripe before they are needed.
  static constexpr Index kAheadIn = 4, kAheadOut = 2;

  // A row of the image in `step` parts, by columns modulo `step`, with the bias and zeros around.
  void split(Index i, float* to) {
    for (Index slot = 0; slot < count_; ++slot) {
      const Index plane = first_ + slot;
      const float* image = a_.x + plane * a_.in_h * a_.in_w;
      const float* source = image + i * a_.in_w;
      const Index ahead = std::min(i + kAheadIn, a_.in_h - 1);
      fetch_ahead(image + ahead * a_.in_w + s_.in_begin, step_ * s_.in_slot);
      const float bias = a_.bias ? a_.bias[plane % a_.channels] : 0;
      float* part = to + slot * s_.in_slot;
      if (kHasMasks && step_ <= 2)
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
    if (step == 1)
      for (Index u = from; u < end; ++u) to[u] = source[start + u] + bias;
    else if (step == 2)
      for (Index u = from; u < end; ++u) to[u] = source[start + 2 * u] + bias;
    else
      for (Index u = from; u < end; ++u) to[u] = source[start + step * u] + bias;
    std::fill(to + end, to + s_.in_slot, 0.f);
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
      case Middle::kReplay: return upsample(to, m, Replay(a_.gain, a_.slope, flags_.bits(m)));
      case Middle::kRecord:
        upsample(to, m, Record(a_.gain, a_.slope, a_.clamp, flags_.bits(m)));
        if (m > 0) write_flags(m - 1);
    }
  }

  void write_flags(Index m) {
    for (Index slot = 0; slot < count_; ++slot)
      flags_.pack(m, slot, a_.record + flag_row(slot, m) + s_.mid / 4);
  }

  bool read_flags(Index m) {
    if (next_fetched_ < m) fetch_flags(m);
    fetch_flags(m + 1);
    next_fetched_ = m + 1;
    if (m + a_.offset_y < 0 || m + a_.offset_y >= a_.flags_h) return false;
    flags_.unpack(m);
    return true;
  }

  void fetch_flags(Index m) {
    const Index row = m + a_.offset_y;
    if (row < 0 || row >= a_.flags_h) return;
    const std::uint8_t* end = a_.replay + a_.planes * a_.flags_h * a_.flags_stride;
    for (Index slot = 0; slot < count_; ++slot)
      flags_.fetch(
          m, slot, a_.replay + flag_row(slot, row), s_.mid + a_.offset_x, a_.flags_w, a_.replay,
          end);
  }

  Index flag_row(Index slot, Index row) const {
    return ((first_ + slot) * a_.flags_h + row) * a_.flags_stride;
  }

  template <class Finish>
  void upsample(float* to, Index m, Finish finish) {
    const Phase& p = phases_[m];
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
    if (a_.down.full && mirrors_) return mirror_down(y, top);
    if (a_.down.full) return filter_down(across_full(top), a_.down.full, y);
    const float* sum = sum_along(y, top);
    finish_output();  // of the row before: its sums have reached the cache by now
    pending_ = sum;
    pending_y_ = y;
  }

  void finish_output() {
    if (!pending_) return;
    const Filter& d = a_.down;
    const float* from = pending_;
    pending_ = nullptr;
    if (mirrors_) {
      mirrored_[0] = {from, nullptr, d.row};
      return filter_mirrored(1, pending_y_);
    }
    for (int u = 0; u < d.width; ++u) rows_[u] = from + down_from_[u];
    filter_down(d.width, d.row, pending_y_);
  }

  void mirror_down(Index y, Index top) {
    const Filter& d = a_.down;
    for (int t = 0; t < d.height / 2; ++t)
      mirrored_[t] = {middle(top + t), middle(top + d.height - 1 - t), d.full + t * d.width};
    filter_mirrored(d.height / 2, y);
  }

  void filter_mirrored(int rows, Index y) {
    filter_across(output_.data(), mirrored_.data(), rows, a_.down_x, s_.part, s_.part);
    write_row(output_.data(), y);
  }

  void filter_down(int taps, const float* weights, Index y) {
    weigh(output_.data(), rows_.data(), weights, taps, s_.part, Keep{});
    write_row(output_.data(), y);
  }

  void write_row(const float* row, Index y) {
    const Index n = s_.end - s_.begin;
    for (Index slot = 0; slot < count_; ++slot) {
      const float* from = row + slot * s_.slot;
      float* image = a_.y + (first_ + slot) * a_.out_h * a_.out_w + s_.begin;
      float* to = image + y * a_.out_w;
      fetch_ahead<true>(image + std::min(y + kAheadOut, a_.out_h - 1) * a_.out_w, n);
      if (kHasMasks)
        for (Index k = 0; k < n; k += kLanes)
          store_first(to + k, load(from + k), first_lanes(n - k));
      else
        std::copy(from, from + n, to);
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
      for (int u = 0; u < d.width; ++u, ++taps) rows_[taps] = row + down_from_[u];
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
  FlagRows flags_;
  std::vector<Lanes> inside_;  // lanes of each vector of an input row that lie in the image
  std::vector<const float*> rows_;
  std::vector<float> weights_;
  std::vector<Index> down_from_;  // where the taps of the second filter begin in a middle row
  std::vector<Phase> phases_;     // of each middle row
  bool folds_ = false, mirrors_ = false;  // the second filter from top to bottom, and across
  std::vector<MirroredRow> mirrored_;
  const float* pending_ = nullptr;
  Index pending_y_ = 0;
  Index first_ = 0, count_ = 0, next_input_ = 0, next_ready_ = -1, next_middle_ = 0, next_fetched_ = -1;
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
