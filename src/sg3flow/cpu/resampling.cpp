// Upsample, nonlinearity, downsample: row by row, so that the rows in use stay in the caches.

#include <algorithm>
#include <vector>

#include "flags.h"
#include "input_rows.h"
#include "output_rows.h"
#include "plan.h"
#include "weighted_sums.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// Does one stripe of a few planes at a time, from the top to the bottom.
class Worker {
 public:
  Worker(const Resampling& a, const Plan& plan, const Stripe& stripe)
      : a_(a),
        s_(stripe),
        row_(stripe.part * a.down_x),
        only_down_(!a.up.full && a.middle == Middle::kNothing && a.up.height == 1 && a.up_y == 1 &&
                   a.up.column[0] == 1),
        across_(a, plan, stripe),
        inputs_(a, plan, stripe, across_, (a.up.height - 1) / a.up_y + 2),
        outputs_(a, stripe),
        middles_(2, row_, stripe.beyond),
        flags_(stripe, a.down_x),
        rows_(a.up.height + 1),
        weights_(2 * a.up.height) {
    for (Index m = 0; m < a.mid_h; ++m) phases_.emplace_back(m, a.up_y, a.pad_y, a.up.height);
  }

  void run(Index first, Index count) {
    first_ = first;
    count_ = count;
    next_fetched_ = next_written_ = 0;
    inputs_.begin(first, count);
    outputs_.begin(first, count);
    for (Index m = 0; m < a_.mid_h;) m += only_down_ ? take_input(m) : make(m);
    if (a_.middle == Middle::kRecord) write_flags(a_.mid_h);
  }

 private:
  int take_input(Index m) {
    if (!outputs_.uses(m)) return 1;
    const Index i = m - a_.pad_y;
    inputs_.make(i, i + 1);
    outputs_.take(inputs_.at(i), m);
    return 1;
  }

  // Middle row m, or it and the next one; how many.
  int make(Index m) {
    if (!needs(m)) return 1;
    const int count = goes_with_next(m) ? 2 : 1;
    make_rows(m, count);
    for (int i = 0; i < count; ++i)
      if (outputs_.uses(m + i)) outputs_.take(middles_.at(i), m + i);
    return count;
  }

  bool needs(Index m) const { return a_.middle == Middle::kRecord || outputs_.uses(m); }

  // Whether row m and the next one are made at once: of the same input rows, but for one.
  bool goes_with_next(Index m) const {
    if (!kHasRoomForPairs || a_.up.full || m + 1 >= a_.mid_h || !needs(m + 1)) return false;
    if (a_.middle == Middle::kReplay && !(has_flags(m) && has_flags(m + 1))) return false;
    const Phase &one = phases_[m], &next = phases_[m + 1];
    return one.count == kPhaseTaps && next.count == kPhaseTaps && next.first <= one.first + 1;
  }

  void make_rows(Index m, int count) {
    switch (a_.middle) {
      case Middle::kNothing: return upsample(m, count, [](Index) { return Keep{}; });
      case Middle::kActivate: {
        const Activate activate(a_.gain, a_.slope, a_.clamp);
        return upsample(m, count, [&](Index) { return activate; });
      }
      case Middle::kReplay:
        if (!has_flags(m)) return std::fill_n(middles_.at(0), row_, 0.f), void();
        read_flags(m, count);
        return upsample(
            m, count, [&](Index i) { return Replay(a_.gain, a_.slope, flags_.bits(i)); });
      case Middle::kRecord:
        upsample(m, count, [&](Index i) {
          return Record(a_.gain, a_.slope, a_.clamp, flags_.bits(i));
        });
        write_flags(m);
    }
  }

  // finish_of(i) is what happens to the upsampled samples of middle row i.
  template <class FinishOf>
  void upsample(Index m, int count, FinishOf finish_of) {
    const Phase& p = phases_[m];
    const int rows = p.count + count - 1;
    inputs_.make(p.first, p.first + rows);
    inputs_.rows(p.first, rows, rows_.data());
    if (a_.up.full) return upsample_both(p, finish_of(m));
    for (int i = 0; i < count; ++i)
      for (int t = 0; t < p.count; ++t)
        weights_[i * p.count + t] = a_.up.column[phases_[m + i].tap + t * a_.up_y];
    if (count == 1)
      return weigh(
          middles_.at(0), rows_.data(), weights_.data(), p.count, row_, finish_of(m));
    if constexpr (kHasRoomForPairs) {
      float* const to[] = {middles_.at(0), middles_.at(1)};
      const float *const *from = rows_.data(), *w = weights_.data();
      if (phases_[m + 1].first == p.first)
        weigh_pair<kPhaseTaps, 0>(to, from, w, row_, finish_of(m), finish_of(m + 1));
      else
        weigh_pair<kPhaseTaps, 1>(to, from, w, row_, finish_of(m), finish_of(m + 1));
    }
  }

  template <class Finish>
  void upsample_both(const Phase& p, Finish finish) {
    float* to = middles_.at(0);
    across_.both(rows_.data(), p, to);
    for (Index k = 0; k < row_; k += kLanes) store(to + k, finish(load(to + k), k));
  }

  // Of the rows before `end`, those that are not written yet.
  void write_flags(Index end) {
    for (Index& m = next_written_; m < end; ++m)
      for (Index slot = 0; slot < count_; ++slot)
        flags_.pack(m, slot, a_.record + flag_row(slot, m) + s_.mid / 4);
  }

  bool has_flags(Index m) const {
    return m + a_.offset_y >= 0 && m + a_.offset_y < a_.flags_h;
  }

  void read_flags(Index m, int count) {
    for (next_fetched_ = std::max(next_fetched_, m); next_fetched_ < m + 2 * count; ++next_fetched_)
      if (has_flags(next_fetched_)) fetch_flags(next_fetched_);
    for (int i = 0; i < count; ++i) flags_.unpack(m + i);
  }

  void fetch_flags(Index m) {
    const std::uint8_t* end = a_.replay + a_.planes * a_.flags_h * a_.flags_stride;
    for (Index slot = 0; slot < count_; ++slot)
      flags_.fetch(
          m, slot, a_.replay + flag_row(slot, m + a_.offset_y), s_.mid + a_.offset_x, a_.flags_w,
          a_.replay, end);
  }

  Index flag_row(Index slot, Index row) const {
    return ((first_ + slot) * a_.flags_h + row) * a_.flags_stride;
  }

  const Resampling& a_;
  const Stripe& s_;
  Index row_;       // floats of a middle row
  bool only_down_;  // nothing happens before the downsampling: input rows are middle rows
  AcrossUp across_;
  InputRows inputs_;
  OutputRows outputs_;
  Ring middles_;
  FlagRows flags_;
  std::vector<const float*> rows_;
  std::vector<float> weights_;
  std::vector<Phase> phases_;  // of each middle row
  Index first_ = 0, count_ = 0, next_fetched_ = 0, next_written_ = 0;
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
