// The first filter across a row: samples of the input between zeros become a middle row, which
// lies by columns modulo the downsampling factor.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "aligned.h"
#include "plan.h"
#include "shuffles.h"
#include "weighted_sums.h"
#include "window.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

// One lane of each in turn.
static inline void store_joined(float* to, Vec a, Vec b) {
  Vec row[2];
  join_by_2(a, b, row);
  for (int i = 0; i < 2; ++i) store(to + i * kLanes, row[i]);
}

// All phases of a row at once, from samples that are loaded once: the sum over `kRows` rows of the
// input, each with taps of its own, `weights` [phase, row, tap]. Phase m makes every `phases`-th
// middle sample from m on; the first `kEarly` phases begin at the first input sample, each `kUp`
// that follow a sample later.
template <int kUp, int kDown, int kEarly, int kRows>
[[gnu::noinline]] static void upsample_phases(
    const float* const* rows, Index in_part, const float* weights, float* to, Index run) {
  constexpr int phases = std::max(kUp, kDown), step = kDown / std::gcd(kUp, kDown);
  // registers of a row that share a load of each weight; of the wide ones there is one in a word
  constexpr int together = kLanes == kWord ? 1 : 4 / phases;
  static_assert(kWord % (together * kLanes) == 0);
  constexpr auto first = [](int m) { return m < kEarly ? 0 : 1 + (m - kEarly) / kUp; };
  constexpr int reach = (first(phases - 1) + kPhaseTaps - 1) / step + 1;
  for (Index u = 0; u < run; u += together * kLanes) {
    Vec sum[phases][together] = {};
    for (int r = 0; r < kRows; ++r) {
      Vec x[together][step][reach];
      for (int v = 0; v < together; ++v)
        for (int e = 0; e < step; ++e)
          window<reach>(rows[r] + e * in_part + u + v * kLanes, x[v][e]);
      for (int m = 0; m < phases; ++m)
        for (int t = 0; t < kPhaseTaps; ++t) {
          const int at = first(m) + t;
          const Vec w = splat(weights[(m * kRows + r) * kPhaseTaps + t]);
          for (int v = 0; v < together; ++v) sum[m][v] += w * x[v][at % step][at / step];
        }
    }
    for (int p = 0; p < kDown; ++p)
      for (int v = 0; v < together; ++v)
        if constexpr (phases == kDown)
          store(to + p * run + u + v * kLanes, sum[p][v]);
        else
          store_joined(to + 2 * (p * run + u + v * kLanes), sum[p][v], sum[p + kDown][v]);
  }
}

class AcrossUp {
 public:
  AcrossUp(const Resampling& a, const Plan& plan, const Stripe& stripe)
      : a_(a),
        s_(stripe),
        turns_(plan.turns()),
        phases_(find_phases()),
        turned_(turns_ > 1 ? s_.part : 0),
        rows_(a.up.full ? a.up.height * a.up.width : a.up.width),
        weights_(rows_.size()) {
    if (phases_)
      for (int tap = 0; tap < (a.up.full ? a.up_y : 1); ++tap) add_weights(tap);
  }

  // A separable filter: one split input row.
  void along(const float* from, float* to) {
    if (phases_) return phases_(&from, s_.in_part, phase_weights_.data(), to, s_.run);
    for (std::size_t k = 0; k < s_.across.size(); ++k) {
      const Across& one = s_.across[k];
      for (int t = 0; t < one.count; ++t) rows_[t] = from + one.from[t];
      weigh(turn_row(to, k), rows_.data(), one.weights.data(), one.count, s_.run, Keep{});
      end_turn(to, k);
    }
  }

  // Any other: the split input rows of a phase of the middle rows.
  void both(const float* const* from, const Phase& p, float* to) {
    if (phases_) {
      const float* weights = phase_weights_.data() + p.tap * phase_weights_.size() / a_.up_y;
      return phases_(from, s_.in_part, weights, to, s_.run);
    }
    for (std::size_t k = 0; k < s_.across.size(); ++k) {
      const Across& one = s_.across[k];
      int taps = 0;
      for (int t = 0; t < p.count; ++t) {
        const float* w = row_of_taps(p.tap + t * a_.up_y) + one.tap;
        for (int u = 0; u < one.count; ++u, ++taps) {
          rows_[taps] = from[t] + one.from[u];
          weights_[taps] = w[u * a_.up_x];
        }
      }
      weigh(turn_row(to, k), rows_.data(), weights_.data(), taps, s_.run, Keep{});
      end_turn(to, k);
    }
  }

 private:
  using Phases = void (*)(
      const float* const* rows, Index in_part, const float* weights, float* to, Index run);

  // Whether the filter and the factors are among those that all phases are made of at once.
  Phases find_phases() const {
    if (a_.up.width != kPhaseTaps * a_.up_x) return nullptr;
    if (a_.up.row) return of_rows<1>();
    return a_.up.height == kPhaseTaps * a_.up_y ? of_rows<kPhaseTaps>() : nullptr;
  }

  template <int kRows>
  Phases of_rows() const {
    const int up = a_.up_x, down = a_.down_x, phases = std::max(up, down);
    int early = 0;
    while (early < phases && first_of(early) == first_of(0)) ++early;
    if (up == 2 && down == 2)
      return early == 1 ? upsample_phases<2, 2, 1, kRows> : upsample_phases<2, 2, 2, kRows>;
    if (up == 2 && down == 4)
      return early == 1 ? upsample_phases<2, 4, 1, kRows> : upsample_phases<2, 4, 2, kRows>;
    if (up != 4 || down != 2) return nullptr;
    constexpr Phases by_early[] = {
        upsample_phases<4, 2, 1, kRows>, upsample_phases<4, 2, 2, kRows>,
        upsample_phases<4, 2, 3, kRows>, upsample_phases<4, 2, 4, kRows>};
    return by_early[early - 1];
  }

  const float* row_of_taps(int i) const {
    return a_.up.full ? a_.up.full + i * a_.up.width : a_.up.row;
  }

  // Those of the middle rows whose first tap down is `tap`. Phase m is in turn m / down_x of a part.
  void add_weights(int tap) {
    const int phases = static_cast<int>(s_.across.size());
    for (int m = 0; m < phases; ++m) {
      const Across& one = s_.across[m % a_.down_x * turns_ + m / a_.down_x];
      for (int r = 0; r < (a_.up.full ? kPhaseTaps : 1); ++r)
        for (int t = 0; t < kPhaseTaps; ++t)
          phase_weights_.push_back(row_of_taps(tap + r * a_.up_y)[one.tap + t * a_.up_x]);
    }
  }

  Index first_of(int m) const {
    return Phase(s_.mid + m, a_.up_x, a_.pad_x, a_.up.width).first;
  }

  // The samples of a part that share taps go to a row of their own before they are interleaved.
  float* turn_row(float* to, std::size_t k) {
    return turns_ == 1 ? to + s_.across[k].to : turned_.data() + k % turns_ * s_.run;
  }

  void end_turn(float* to, std::size_t k) const {
    if (turns_ == 1 || static_cast<int>(k % turns_) != turns_ - 1) return;
    to += s_.across[k].to;
    if (turns_ == 2) return join(to);
    for (Index i = 0; i < s_.part; ++i) to[i] = turned_[i % turns_ * s_.run + i / turns_];
  }

  void join(float* to) const {
    for (Index u = 0; u < s_.run; u += kLanes)
      store_joined(to + 2 * u, load(turned_.data() + u), load(turned_.data() + s_.run + u));
  }

  const Resampling& a_;
  const Stripe& s_;
  int turns_;
  Phases phases_;
  std::vector<float> phase_weights_;  // for each first tap down: [phase, row, tap]
  Floats turned_;
  std::vector<const float*> rows_;
  std::vector<float> weights_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
