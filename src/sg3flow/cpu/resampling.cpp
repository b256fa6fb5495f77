// Upsample, nonlinearity, downsample, one plane at a time, row by row in the first-level cache.
//
// A row of the middle signal is kept by columns modulo `down_x` (a "split row"): then every step,
// across and along, is a weighted sum of rows or of shifted rows with unit stride. Wide planes are
// cut into stripes of columns, so that the rows in use stay in the cache.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "flags.h"
#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

using Index = std::int64_t;

constexpr Index kStripe = 160;  // most output columns of a stripe
constexpr int kSlack = 4 * kLanes;

Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

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

// One output of the upsampling across: where its inputs begin in the split input row, for each tap.
struct Across {
  Index to;  // offset in the split middle row, or in the scratch row of its interleave group
  Phase phase;
  std::vector<Index> from;
};

struct Stripe {
  Index begin, end;   // output columns
  Index mid, owned;   // first middle column, and how many are recorded by this stripe
  Index length;       // floats of one part of a split middle row
  Index in_begin;     // first input column of the split input row
  Index in_length;    // floats of one of its parts
  std::vector<Across> across;
};

class Plan {
 public:
  explicit Plan(const Resampling& a) : a_(a) {
    const int common = std::gcd(a.up_x, a.down_x);
    turns_ = a.up_x / common;
    step_ = a.down_x / common;
    const Index count = std::max<Index>((a.out_w + kStripe - 1) / kStripe, 1);
    width_ = round_up((a.out_w + count - 1) / count, 4);
    count_ = (a.out_w + width_ - 1) / width_;
  }

  Index count() const { return count_; }
  int turns() const { return turns_; }  // samples of a part before the phase comes round again
  int step() const { return step_; }    // input samples between them

  Stripe stripe(Index i) const {
    Stripe s;
    s.begin = i * width_;
    s.end = std::min(s.begin + width_, a_.out_w);
    s.mid = s.begin * a_.down_x;
    const bool last = i + 1 == count_;
    s.owned = last ? a_.mid_w - s.mid : (s.end - s.begin) * a_.down_x;
    const Index shifts = (a_.down.width - 1) / a_.down_x;
    const Index used = round_up(s.end - s.begin, kLanes) + shifts;
    s.length = round_up(std::max(used, (s.owned + a_.down_x - 1) / a_.down_x), kLanes);
    s.in_begin = Phase(s.mid, a_.up_x, a_.pad_x, a_.up.width).first;
    for (Index j = 0; j < a_.down_x; ++j)
      for (Index c = 0; c < turns_; ++c) {
        const Phase p(s.mid + a_.down_x * c + j, a_.up_x, a_.pad_x, a_.up.width);
        s.in_begin = std::min(s.in_begin, p.first);
      }
    const Index runs = round_up((s.length + turns_ - 1) / turns_, kLanes);
    Index furthest = 0;
    for (Index j = 0; j < a_.down_x; ++j)
      for (Index c = 0; c < turns_; ++c) {
        Across one{j * s.length, Phase(s.mid + a_.down_x * c + j, a_.up_x, a_.pad_x, a_.up.width), {}};
        for (int t = 0; t < one.phase.count; ++t) {
          const Index at = one.phase.first - s.in_begin + t;
          one.from.push_back(at);
          furthest = std::max(furthest, at / step_);
        }
        s.across.push_back(one);
      }
    s.in_length = round_up(runs + furthest, kLanes);
    for (Across& one : s.across)
      for (Index& at : one.from) at = at % step_ * s.in_length + at / step_;
    return s;
  }

 private:
  const Resampling& a_;
  int turns_, step_;
  Index width_, count_;
};

// A few rows by their number modulo the size.
class Ring {
 public:
  Ring(Index rows, Index length) : rows_(rows), length_(length), data_(rows * length + kSlack) {}
  float* at(Index i) { return data_.data() + i % rows_ * length_; }

 private:
  Index rows_, length_;
  Floats data_;
};

class Worker {
 public:
  Worker(const Resampling& a, const Plan& plan, const Stripe& stripe)
      : a_(a),
        plan_(plan),
        s_(stripe),
        full_up_(a.up.full != nullptr),
        row_length_(s_.length * a.down_x),
        input_length_(full_up_ ? s_.in_length * plan.step() : row_length_),
        passes_(!full_up_ && a.middle == Middle::kNothing && a.up.height == 1 && a.up_y == 1 &&
                a.up.column[0] == 1),
        inputs_((passes_ ? a.down.height : (a.up.height - 1) / a.up_y + 1) + 1, input_length_),
        middles_(passes_ ? 1 : a.down.height + a.down_y, row_length_),
        zeros_(std::max(input_length_, row_length_) + kSlack),
        split_(s_.in_length * plan.step() + kSlack),
        turned_(plan.turns() * (row_length_ + kSlack)),
        summed_(row_length_ + kSlack),
        folded_(a.down.full ? (a.down.height + 1) / 2 * row_length_ + kSlack : 0),
        flags_(s_.length, a.down_x, s_.owned) {
    const int taps = std::max(a.up.height * a.up.width, a.down.height * a.down.width);
    rows_.resize(std::max(taps, 16));
    weights_.resize(std::max(taps, 16));
    const Filter& d = a.down;
    folds_ = d.full != nullptr && d.height > 1;
    for (int i = 0; folds_ && i < d.height * d.width; ++i)
      folds_ = d.full[i] == d.full[(d.height - 1 - i / d.width) * d.width + i % d.width];
  }

  void run(Index plane) {
    plane_ = plane;
    bias_ = a_.bias ? a_.bias[plane % a_.channels] : 0;
    next_input_ = next_middle_ = 0;
    for (Index y = 0; y < a_.out_h; ++y) {
      make_middles(y * a_.down_y + a_.down.height);
      write_output(y);
    }
    if (a_.middle == Middle::kRecord) make_middles(a_.mid_h);
  }

 private:
  // Input row i, upsampled across; for a full filter only split.
  void make_input(Index i) {
    const int step = plan_.step();
    const float* source = a_.x + (plane_ * a_.in_h + i) * a_.in_w;
    float* split = full_up_ ? inputs_.at(i) : split_.data();
    for (int e = 0; e < step; ++e) {
      float* part = split + e * s_.in_length;
      // columns in_begin + e + step * u that lie inside the image
      const Index start = s_.in_begin + e;
      const Index from = std::clamp<Index>(-floor_div(start, step), 0, s_.in_length);
      const Index to = std::clamp<Index>(-floor_div(start - a_.in_w, step), from, s_.in_length);
      std::fill(part, part + from, 0.f);
      std::fill(part + to, part + s_.in_length, 0.f);
      copy(part + from, source + start + step * from, step, to - from);
    }
    if (!full_up_) upsample_across(inputs_.at(i));
  }

  void copy(float* to, const float* from, int step, Index n) const {
    const float bias = bias_;
    if (step == 1)
      for (Index u = 0; u < n; ++u) to[u] = from[u] + bias;
    else if (step == 2)
      for (Index u = 0; u < n; ++u) to[u] = from[2 * u] + bias;
    else
      for (Index u = 0; u < n; ++u) to[u] = from[step * u] + bias;
  }

  void upsample_across(float* to) {
    const int turns = plan_.turns();
    const Index n = round_up((s_.length + turns - 1) / turns, kLanes);
    for (std::size_t i = 0; i < s_.across.size(); ++i) {
      const Across& one = s_.across[i];
      for (int t = 0; t < one.phase.count; ++t) {
        rows_[t] = split_.data() + one.from[t];
        weights_[t] = a_.up.row[one.phase.tap + t * a_.up_x];
      }
      const int turn = static_cast<int>(i % turns);
      float* sum = turns == 1 ? to + one.to : turned_.data() + turn * n;
      weigh(sum, rows_.data(), weights_.data(), one.phase.count, n, Keep{});
      if (turns > 1 && turn == turns - 1) interleave(to + one.to, n);
    }
  }

  void interleave(float* to, Index n) const {
    const int turns = plan_.turns();
    const float* from = turned_.data();
    if (turns == 2) {
      for (Index q = 0; q < s_.length / 2; ++q) {
        to[2 * q] = from[q];
        to[2 * q + 1] = from[n + q];
      }
      return;
    }
    for (Index k = 0; k < s_.length; ++k) to[k] = from[k % turns * n + k / turns];
  }

  const float* input(Index i) {
    if (i < 0 || i >= a_.in_h) return zeros_.data();
    for (; next_input_ <= i; ++next_input_)
      if (next_input_ >= first_needed_) make_input(next_input_);
    return inputs_.at(i);
  }

  const float* middle(Index m) {
    if (!passes_) return middles_.at(m);
    return input(m - a_.pad_y);
  }

  void make_middles(Index end) {
    if (passes_) {
      first_needed_ = end - a_.down.height - a_.pad_y;
      return;
    }
    const Index first = std::min(end - a_.down.height, a_.mid_h);
    next_middle_ = std::max(next_middle_, a_.middle == Middle::kRecord ? next_middle_ : first);
    for (; next_middle_ < std::min(end, a_.mid_h); ++next_middle_) make_middle(next_middle_);
  }

  void make_middle(Index m) {
    float* to = middles_.at(m);
    if (a_.middle == Middle::kReplay && !read_flags(m)) {
      std::fill(to, to + row_length_, 0.f);
      return;
    }
    switch (a_.middle) {
      case Middle::kNothing: return upsample_along(to, m, Keep{});
      case Middle::kActivate: return upsample_along(to, m, Activate(a_.gain, a_.slope, a_.clamp));
      case Middle::kRecord:
        upsample_along(to, m, Record(a_.gain, a_.slope, a_.clamp, flags_.codes()));
        flags_.pack(a_.record + (plane_ * a_.flags_h + m) * a_.flags_stride + s_.mid / 4);
        return;
      case Middle::kReplay: return upsample_along(to, m, Replay(a_.gain, a_.slope, flags_.codes()));
    }
  }

  bool read_flags(Index m) {
    const Index row = m + a_.offset_y;
    if (row < 0 || row >= a_.flags_h) return false;
    const std::uint8_t* from = a_.replay + (plane_ * a_.flags_h + row) * a_.flags_stride;
    flags_.unpack(from, s_.mid + a_.offset_x, a_.flags_w);
    return true;
  }

  template <class Finish>
  void upsample_along(float* to, Index m, Finish finish) {
    const Phase p(m, a_.up_y, a_.pad_y, a_.up.height);
    first_needed_ = p.first;
    if (full_up_) return upsample_both(to, p, finish);
    for (int t = 0; t < p.count; ++t) input(p.first + t);  // makes them: that uses rows_
    for (int t = 0; t < p.count; ++t) {
      rows_[t] = input(p.first + t);
      weights_[t] = a_.up.column[p.tap + t * a_.up_y];
    }
    weigh(to, rows_.data(), weights_.data(), p.count, row_length_, finish);
  }

  template <class Finish>
  void upsample_both(float* to, const Phase& p, Finish finish) {
    const int turns = plan_.turns();
    const Index n = round_up((s_.length + turns - 1) / turns, kLanes);
    for (std::size_t i = 0; i < s_.across.size(); ++i) {
      const Across& one = s_.across[i];
      int taps = 0;
      for (int t = 0; t < p.count; ++t) {
        const float* row = input(p.first + t);
        const float* w = a_.up.full + (p.tap + t * a_.up_y) * a_.up.width + one.phase.tap;
        for (int u = 0; u < one.phase.count; ++u, ++taps) {
          rows_[taps] = row + one.from[u];
          weights_[taps] = w[u * a_.up_x];
        }
      }
      const int turn = static_cast<int>(i % turns);
      float* sum = turns == 1 ? to + one.to : turned_.data() + turn * n;
      weigh(sum, rows_.data(), weights_.data(), taps, n, Keep{});
      if (turns > 1 && turn == turns - 1) interleave(to + one.to, n);
    }
    for (Index k = 0; k < row_length_; k += kLanes) store(to + k, finish(load(to + k), k));
  }

  void write_output(Index y) {
    const Filter& d = a_.down;
    const Index top = y * a_.down_y;
    int taps = 0;
    if (d.full) {
      taps = full_taps(top);
    } else {
      const float* sum = sum_along(top);
      for (; taps < d.width; ++taps) {
        rows_[taps] = sum + taps % a_.down_x * s_.length + taps / a_.down_x;
        weights_[taps] = d.row[taps];
      }
    }
    float* to = a_.y + (plane_ * a_.out_h + y) * a_.out_w + s_.begin;
    const Index n = s_.end - s_.begin, whole = n / kLanes * kLanes;
    weigh(to, rows_.data(), weights_.data(), taps, whole, Keep{});
    if (whole == n) return;
    for (int t = 0; t < taps; ++t) rows_[t] += whole;
    float rest[kLanes];
    weigh(rest, rows_.data(), weights_.data(), taps, kLanes, Keep{});
    std::copy(rest, rest + (n - whole), to + whole);
  }

  const float* sum_along(Index top) {
    const Filter& d = a_.down;
    if (d.height == 1 && d.column[0] == 1) return middle(top);
    gather(top, d.height);
    weigh(summed_.data(), rows_.data(), d.column, d.height, row_length_, Keep{});
    return summed_.data();
  }

  void gather(Index top, int count) {
    for (int t = 0; t < count; ++t) middle(top + t);  // makes them: that uses rows_
    for (int t = 0; t < count; ++t) rows_[t] = middle(top + t);
  }

  // A filter that is its own mirror image from top to bottom meets sums of two rows.
  int full_taps(Index top) {
    const Filter& d = a_.down;
    gather(top, d.height);
    const int height = folds_ ? (d.height + 1) / 2 : d.height;
    std::vector<const float*>& from = gathered_;
    from.assign(rows_.begin(), rows_.begin() + d.height);
    for (int t = 0; folds_ && t < d.height / 2; ++t) {
      float* to = folded_.data() + t * row_length_;
      const float *above = from[t], *below = from[d.height - 1 - t];
      for (Index k = 0; k < row_length_; k += kLanes) store(to + k, load(above + k) + load(below + k));
      from[t] = to;
    }
    int taps = 0;
    for (int t = 0; t < height; ++t)
      for (int u = 0; u < d.width; ++u, ++taps) {
        rows_[taps] = from[t] + u % a_.down_x * s_.length + u / a_.down_x;
        weights_[taps] = d.full[t * d.width + u];
      }
    return taps;
  }

  const Resampling& a_;
  const Plan& plan_;
  const Stripe& s_;
  bool full_up_;
  Index row_length_, input_length_;
  bool passes_;  // nothing happens along before the downsampling: input rows are middle rows
  Ring inputs_, middles_;
  Floats zeros_, split_, turned_, summed_, folded_;
  FlagRow flags_;
  std::vector<const float*> rows_, gathered_;
  std::vector<float> weights_;
  bool folds_ = false;
  Index plane_ = 0, next_input_ = 0, next_middle_ = 0, first_needed_ = 0;
  float bias_ = 0;
};

}  // namespace

Index resampling_units(const Resampling& a) { return a.planes * Plan(a).count(); }

void run_resampling(const Resampling& a, Index begin, Index end) {
  const Plan plan(a);
  for (Index i = 0; i < plan.count(); ++i) {
    // unit u is stripe u % count of plane u / count
    const Index first = (begin - i + plan.count() - 1) / plan.count();
    const Index last = (end - i + plan.count() - 1) / plan.count();
    if (first >= last) continue;
    const Stripe stripe = plan.stripe(i);
    Worker worker(a, plan, stripe);
    for (Index plane = first; plane < last; ++plane) worker.run(plane);
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
