// Bias, leaky ReLU, gain and clamp in one pass over memory, and the slope of it in another.

#include <algorithm>
#include <limits>

#include "flags.h"
#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

namespace {

// The slope at the result y of the forward pass: 0 where it reached the clamp.
class Slope {
 public:
  Slope(float gain, float slope, float clamp)
      : positive_(splat(gain)),
        negative_(splat(gain * slope)),
        limit_(splat(clamp < 0 ? std::numeric_limits<float>::infinity() : clamp)),
        clamps_(clamp >= 0) {}

  Vec operator()(Vec grad, Vec y) const {
    const Vec v = grad * (y > 0 ? positive_ : negative_);
    return clamps_ ? (((y >= limit_) | (y <= -limit_)) ? Vec{} : v) : v;
  }

 private:
  Vec positive_, negative_, limit_;
  bool clamps_;
};

Vec load_first(const float* p, int n) {
  return n == kLanes ? load(p) : load_lanes(p, first_lanes(n));
}

template <class Step>
void for_vectors(std::int64_t n, Step step) {
  for (std::int64_t k = 0; k + kLanes <= n; k += kLanes) step(k, kLanes);
  if (n % kLanes) step(n - n % kLanes, static_cast<int>(n % kLanes));
}

void run_plane(const Pointwise& a, std::int64_t plane) {
  const std::int64_t at = plane * a.inner;
  float* y = a.y + at;
  if (a.grad) {
    const Slope slope(a.gain, a.slope, a.clamp);
    return for_vectors(a.inner, [&](std::int64_t k, int n) {
      store_first(
          y + k, slope(load_first(a.grad + at + k, n), load_first(a.x + at + k, n)), first_lanes(n));
    });
  }
  const Activate act(a.gain, a.slope, a.clamp);
  const Vec bias = splat(a.bias ? a.bias[plane % a.channels] : 0);
  for_vectors(a.inner, [&](std::int64_t k, int n) {
    store_first(y + k, act(load_first(a.x + at + k, n) + bias, 0), first_lanes(n));
  });
}

// [outer, channels]: a row of channels at a time
void run_row(const Pointwise& a, std::int64_t row) {
  const std::int64_t at = row * a.channels;
  const Activate act(a.gain, a.slope, a.clamp);
  for_vectors(a.channels, [&](std::int64_t k, int n) {
    const Vec v = load_first(a.x + at + k, n) + load_first(a.bias + k, n);
    store_first(a.y + at + k, act(v, 0), first_lanes(n));
  });
}

}  // namespace

void run_pointwise(const Pointwise& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    if (a.inner == 1 && a.channels > 1 && a.bias && !a.grad)
      run_row(a, i);
    else
      run_plane(a, i);
  }
}

void run_plane_products(const PlaneProducts& p, std::int64_t begin, std::int64_t end) {
  constexpr int kSums = 4;  // as many additions as are under way at a time
  for (std::int64_t i = begin; i < end; ++i) {
    const float *a = p.a + i * p.inner, *b = p.b + i * p.inner;
    Vec sums[kSums] = {};
    std::int64_t k = 0;
    for (; k + kSums * kLanes <= p.inner; k += kSums * kLanes)
      for (int j = 0; j < kSums; ++j)
        sums[j] += load(a + k + j * kLanes) * load(b + k + j * kLanes);
    for (; k < p.inner; k += kLanes) {
      const int n = static_cast<int>(std::min<std::int64_t>(p.inner - k, kLanes));
      sums[0] += load_first(a + k, n) * load_first(b + k, n);
    }
    const Vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double total = 0;
    for (int j = 0; j < kLanes; ++j) total += all[j];
    p.y[i] = static_cast<float>(total);
  }
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
