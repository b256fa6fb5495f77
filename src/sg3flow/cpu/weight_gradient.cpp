// The gradient of the weights of a 3x3 convolution: the transpose of Winograd's F(4x4, 3x3), so the
// same 36 products a tile and pair of channels.
//
// The image goes by strips of tile rows. Two steps a strip: transform the tiles of the input and of
// the gradient; for each of the 36 places of a tile, multiply matrices over the tiles and add the
// product to a sum. A last step makes the nine taps of the 36 sums. Lanes are channels. Every
// number is made by one unit, in an order that does not depend on threads.

#include <algorithm>

#include "plan.h"
#include "winograd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// the block of sums that a matrix product keeps in registers; kRows divides kLanes
#if defined(__AVX512F__)
constexpr int kRows = 8, kColumns = 3;
#else
constexpr int kRows = 4, kColumns = 1;
#endif

struct Strips {
  Index across, down, rows, count, tiles, in_blocks, out_blocks;
  explicit Strips(const Convolution& a) {
    across = ceil_div(a.out_w, 4);
    down = ceil_div(a.out_h, 4);
    in_blocks = ceil_div(a.in_c, kLanes);
    out_blocks = ceil_div(a.out_c, kLanes);
    // long enough to use every sum often, short enough for the caches
    const Index column = kPlaces * kLanes * (in_blocks + out_blocks);
    const Index wanted = std::clamp<Index>(kFloats / column, 32, 512);
    rows = std::clamp<Index>(wanted / across, 1, a.samples * down);
    tiles = rows * across;
    count = ceil_div(a.samples * down, rows);
  }

  // Floats of the tiles' places, one of 36, for so many blocks of channels. The places begin in
  // different sets of the first-level cache.
  Index place(Index blocks) const { return (round_up(blocks * tiles, 64) + 1) * kLanes; }

 private:
  static constexpr Index kFloats = 1 << 20;
};

class Worker {
 public:
  explicit Worker(const WeightGradient& g) : g_(g), a_(g.of), strips_(a_) {}

  // Unit: 16 channels, of the input or of the gradient, in one row of tiles.
  void transform(Index strip, Index begin, Index end) {
    const Index wide = round_up(4 * strips_.across + 2, kLanes);
    pixels_.resize(6 * wide * kLanes);
    const Index blocks = strips_.in_blocks + strips_.out_blocks;
    for (Index i = begin; i < end; ++i) {
      const Index row = i / blocks, block = i % blocks, at = strip * strips_.rows + row;
      const Index sample = at / strips_.down, top = at % strips_.down * 4;
      if (block < strips_.in_blocks)
        transform_x(sample, top, block, row, wide);
      else
        transform_grad(sample, top, block - strips_.in_blocks, row, wide);
    }
  }

  // Unit: 16 rows of the sums of one place.
  void multiply(Index strip, Index begin, Index end) {
    const Index left = a_.samples * strips_.down - strip * strips_.rows;
    const Index tiles = std::min(left, strips_.rows) * strips_.across;
    for (Index i = begin; i < end; ++i) {
      const Index place = i / strips_.out_blocks, block = i % strips_.out_blocks;
      const float* u =
          g_.grad_tiles + place * strips_.place(strips_.out_blocks) + block * strips_.tiles * kLanes;
      const float* v = g_.x_tiles + place * strips_.place(strips_.in_blocks);
      for (Index o = 0; o < kLanes; o += kRows) {
        const Index row = block * kLanes + o;
        if (row >= a_.out_c) break;
        multiply_rows(u + o, v, g_.sums + sum_at(place, row), tiles, strip == 0);
      }
    }
  }

  // Unit: one output channel.
  void finish(Index begin, Index end) {
    for (Index o = begin; o < end; ++o)
      for (Index block = 0; block < strips_.in_blocks; ++block) {
        Vec half[3][6], taps[9];
        for (int j = 0; j < 6; ++j) {
          Vec u[6], g[3];
          for (int i = 0; i < 6; ++i) u[i] = load(g_.sums + sum_at(6 * i + j, o) + block * kLanes);
          gather_taps(u, g);
          for (int i = 0; i < 3; ++i) half[i][j] = g[i];
        }
        for (int i = 0; i < 3; ++i) gather_taps(half[i], taps + 3 * i);
        const Index n = std::min<Index>(a_.in_c - block * kLanes, kLanes);
        float* to = g_.w + (o * a_.in_c + block * kLanes) * 9;
        for (Index c = 0; c < n; ++c)
          for (int t = 0; t < 9; ++t) to[9 * c + t] = taps[t][c];
      }
  }

 private:
  // [place, row, column], a row to each output channel and those that fill its block
  Index sum_at(Index place, Index row) const {
    return (place * strips_.out_blocks * kLanes + row) * strips_.in_blocks * kLanes;
  }

  // `wide` pixels of a row of 16 planes, as vectors over the planes; zeros beyond the image
  void read(
      const float* images, const float* factors, Index channels, Index h, Index w, Index sample,
      Index block, Index y, Index x, Index wide, float* to) const {
    if (y < 0 || y >= h) return std::fill(to, to + wide * kLanes, 0.f), void();
    const Index first = sample * channels + block * kLanes;
    const Index n = std::min<Index>(channels - block * kLanes, kLanes);
    Vec scale = splat(1);
    if (factors)
      for (Index c = 0; c < n; ++c) scale[c] = factors[first + c];
    for (Index k = 0; k < wide; k += kLanes) {
      Vec planes[kLanes] = {};
      const Index from = x + k;
      const auto lanes = static_cast<Lanes>(first_lanes(w - from) & ~first_lanes(-from));
      for (Index c = 0; c < n; ++c)
        planes[c] = load_lanes(images + ((first + c) * h + y) * w + from, lanes);
      transpose(planes);
      for (int i = 0; i < kLanes; ++i) store(to + (k + i) * kLanes, planes[i] * scale);
    }
  }

  void transform_x(Index sample, Index top, Index block, Index row, Index wide) {
    for (Index i = 0; i < 6; ++i)
      read(
          a_.x, a_.before, a_.in_c, a_.in_h, a_.in_w, sample, block, top + i - a_.pad, -a_.pad,
          wide, pixels_.data() + i * wide * kLanes);
    float* to = g_.x_tiles + (block * strips_.tiles + row * strips_.across) * kLanes;
    for (Index t = 0; t < strips_.across; ++t)
      transform_tile<6>(wide, t, transform_input, to, strips_.in_blocks);
  }

  void transform_grad(Index sample, Index top, Index block, Index row, Index wide) {
    for (Index i = 0; i < 4; ++i)
      read(
          g_.grad, a_.after, a_.out_c, a_.out_h, a_.out_w, sample, block, top + i, 0, wide,
          pixels_.data() + i * wide * kLanes);
    float* to = g_.grad_tiles + (block * strips_.tiles + row * strips_.across) * kLanes;
    for (Index t = 0; t < strips_.across; ++t)
      transform_tile<4>(wide, t, transform_gradient, to, strips_.out_blocks);
  }

  // kSize x kSize pixels -> 6 x 6 places
  template <int kSize, class Transform>
  void transform_tile(Index wide, Index t, Transform step, float* to, Index blocks) const {
    Vec half[6][kSize];
    for (int j = 0; j < kSize; ++j) {
      Vec d[kSize], v[6];
      for (int i = 0; i < kSize; ++i) d[i] = load(pixels_.data() + (i * wide + 4 * t + j) * kLanes);
      step(d, v);
      for (int i = 0; i < 6; ++i) half[i][j] = v[i];
    }
    for (int i = 0; i < 6; ++i) {
      Vec v[6];
      step(half[i], v);
      for (int j = 0; j < 6; ++j)
        store(to + (6 * i + j) * strips_.place(blocks) + t * kLanes, v[j]);
    }
  }

  void multiply_rows(const float* u, const float* v, float* sums, Index tiles, bool first) const {
    const Index blocks = strips_.in_blocks;
    for (Index j = 0; j < blocks;) {
      const Index left = blocks - j;
      const Index wide = ceil_div(left, ceil_div(left, kColumns));
      const float* columns = v + j * strips_.tiles * kLanes;
      float* to = sums + j * kLanes;
      if (wide == 3) multiply_block<3>(u, columns, to, tiles, first);
      if (wide == 2) multiply_block<2>(u, columns, to, tiles, first);
      if (wide == 1) multiply_block<1>(u, columns, to, tiles, first);
      j += wide;
    }
  }

  template <int kWide>
  void multiply_block(
      const float* u, const float* v, float* to, Index tiles, bool first) const {
    const Index next = strips_.tiles * kLanes, line = strips_.in_blocks * kLanes;
    constexpr int wide = kWide * kRegisters;
    Register sum[kRows][wide] = {};
    for (Index t = 0; t < tiles; ++t) {
      Register b[wide];
      for (int j = 0; j < wide; ++j)
        b[j] = load_register(
            v + j / kRegisters * next + t * kLanes + j % kRegisters * kRegister);
      for (int i = 0; i < kRows; ++i) {
        const Register w = u[t * kLanes + i] - Register{};
        for (int j = 0; j < wide; ++j) sum[i][j] += w * b[j];
      }
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < wide; ++j) {
        float* at = to + i * line + j * kRegister;
        const Register all = first ? sum[i][j] : load_register(at) + sum[i][j];
        std::memcpy(at, &all, sizeof all);
      }
  }

  const WeightGradient& g_;
  const Convolution& a_;
  const Strips strips_;
  Floats pixels_;
};

}  // namespace

WeightGradientMemory weight_gradient_memory(const Convolution& a) {
  const Strips s(a);
  return {
      kPlaces * s.place(s.in_blocks), kPlaces * s.place(s.out_blocks),
      kPlaces * s.in_blocks * s.out_blocks * kLanes * kLanes};
}

Index weight_gradient_steps(const Convolution& a) { return 2 * Strips(a).count + 1; }

Index weight_gradient_units(const Convolution& a, Index step) {
  const Strips s(a);
  if (step == 2 * s.count) return a.out_c;
  if (step % 2) return kPlaces * s.out_blocks;
  const Index rows = std::min(s.rows, a.samples * s.down - step / 2 * s.rows);
  return rows * (s.in_blocks + s.out_blocks);
}

void run_weight_gradient(const WeightGradient& g, Index step, Index begin, Index end) {
  Worker worker(g);
  if (step == 2 * Strips(g.of).count)
    worker.finish(begin, end);
  else if (step % 2)
    worker.multiply(step / 2, begin, end);
  else
    worker.transform(step / 2, begin, end);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
