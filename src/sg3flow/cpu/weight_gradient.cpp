// The gradient of the weights of a 3x3 convolution: the transpose of Winograd's F(4x4, 3x3), so the
// same 36 products a tile and pair of channels.
//
// The image goes by strips of tile rows. Two steps a strip: transform the tiles of the input and of
// the gradient; for each of the 36 places of a tile, multiply matrices over the tiles and add the
// product to a sum. A last step makes the nine taps of the 36 sums. Lanes are channels. Every
// number is made by one unit, in an order that does not depend on threads.

#include <algorithm>

#include "aligned.h"
#include "as_constant.h"
#include "plan.h"
#include "transpose.h"
#include "winograd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// the block of sums that a matrix product keeps in registers
#if defined(__AVX512F__)
constexpr int kRows = 8, kColumns = 3;
#elif defined(__AVX2__)
constexpr int kRows = 4, kColumns = 3;
#else
constexpr int kRows = 4, kColumns = 2;
#endif
static_assert(kLanes % kRows == 0);

struct Strips {
  Index across, down, total, rows, count, tiles, in_blocks, out_blocks;
  explicit Strips(const Convolution& a) {
    across = ceil_div(a.out_w, 4);
    down = ceil_div(a.out_h, 4);
    total = a.samples * down;
    in_blocks = ceil_div(a.in_c, kLanes);
    out_blocks = ceil_div(a.out_c, kLanes);
    // long enough to use every sum often, short enough for the caches
    const Index column = kPlaces * kLanes * (in_blocks + out_blocks);
    const Index wanted = std::clamp<Index>(kFloats / column, 32, 512);
    rows = std::clamp<Index>(wanted / across, 1, total);
    tiles = rows * across;
    count = ceil_div(total, rows);
  }

  Index rows_of(Index strip) const { return std::min(rows, total - strip * rows); }

  // Floats of the tiles' places, one of 36, for so many blocks of channels. The places begin in
  // different sets of the first-level cache.
  Index place(Index blocks) const { return round_up(blocks * tiles * kLanes, 1024) + kLine; }

 private:
  static constexpr Index kFloats = 1 << 19;
};

// As many planes of a sample as a register has lanes, the last one again where there are fewer,
// and what they are multiplied by.
struct Planes {
  Index h, w, pad;
  const float* from[kLanes];
  Vec scale = {};
  Planes(
      const float* images, const float* factors, Index channels, Index height, Index width,
      Index padding, Index sample, Index block)
      : h(height), w(width), pad(padding) {
    const Index first = sample * channels + block * kLanes;
    const Index n = std::min<Index>(channels - block * kLanes, kLanes);
    for (Index c = 0; c < kLanes; ++c) from[c] = images + (first + std::min(c, n - 1)) * h * w;
    for (Index c = 0; c < n; ++c) scale[c] = factors ? factors[first + c] : 1;
  }
};

class Worker {
 public:
  explicit Worker(const WeightGradient& g) : g_(g), a_(g.of), strips_(a_) {}

  // Unit: a register of channels, of the input or of the gradient, in one row of tiles.
  void transform(Index strip, Index begin, Index end) {
    const Index rows = strips_.rows_of(strip);
    wide_ = round_up(4 * strips_.across + 2, kLanes) + kLanes;
    pixels_.resize(6 * wide_ * kLanes);
    for (Index i = begin; i < end; ++i) {
      const Index block = i / rows, row = i % rows, at = strip * strips_.rows + row;
      const Index sample = at / strips_.down, top = at % strips_.down * 4;
      // the row of tiles above has left two rows of its pixels
      const bool follows = i > begin && row > 0 && top > 0;
      if (block < strips_.in_blocks)
        transform_x(sample, top, block, row, follows);
      else
        transform_grad(sample, top, block - strips_.in_blocks, row);
    }
  }

  // Unit: as many rows of the sums of one place.
  void multiply(Index strip, Index begin, Index end) {
    const Index tiles = strips_.rows_of(strip) * strips_.across;
    for (Index i = begin; i < end; ++i) {
      const Index place = i / strips_.out_blocks, block = i % strips_.out_blocks;
      const float* u =
          g_.grad_tiles + place * strips_.place(strips_.out_blocks) + block * strips_.tiles * kLanes;
      const float* v = g_.x_tiles + place * strips_.place(strips_.in_blocks);
      const Index rows = std::min<Index>(a_.out_c - block * kLanes, kLanes);
      multiply_rows(u, v, g_.sums + sum_at(place, block * kLanes), tiles, rows, strip == 0);
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

  // Rows [first, last) of the planes below `top`, as vectors over the planes, from the tiles' first
  // column on; zeros beyond the image.
  void read(const Planes& planes, Index top, Index first, Index last) {
    const Index wide = 4 * strips_.across + 2;
    for (Index y = top + first; y < top + last; ++y) {
      if (y >= planes.pad && y < planes.h + planes.pad)
        read_row(planes, y - planes.pad, wide, pixels(y));
      else
        std::fill_n(pixels(y), wide * kLanes, 0.f);
    }
  }

  // What is loaded is whole cache lines where the rows of the image are: planes of 64 x 64
  // pixels share one set of the first-level cache, which keeps none of them for later.
  static void read_row(const Planes& planes, Index y, Index wide, float* to) {
    const Index w = planes.w;
    std::fill_n(to, planes.pad * kLanes, 0.f);
    to += planes.pad * kLanes;
    for (Index x = 0; x < w; x += kLanes, to += kLanes * kLanes) {
      Vec pixels[kLanes];
      for (int c = 0; c < kLanes; ++c) {
        const float* from = planes.from[c] + y * w + x;
        pixels[c] = load_lanes(from, first_lanes(w - x));
        __builtin_prefetch(from + 4 * w, 0, 2);  // the next row of tiles, into the second level
      }
      transpose_rows(pixels);
      for (int i = 0; i < kLanes; ++i) store(to + i * kLanes, pixels[i] * planes.scale);
    }
    for (Index x = planes.pad + round_up(w, kLanes); x < wide; ++x, to += kLanes) store(to, Vec{});
  }

  float* pixels(Index y) { return pixels_.data() + y % 6 * wide_ * kLanes; }

  void transform_x(Index sample, Index top, Index block, Index row, bool follows) {
    const Planes planes(a_.x, a_.before, a_.in_c, a_.in_h, a_.in_w, a_.pad, sample, block);
    read(planes, top, follows ? 2 : 0, 6);
    float* to = g_.x_tiles + (block * strips_.tiles + row * strips_.across) * kLanes;
    transform_tiles<6, transform_input>(top, to, strips_.place(strips_.in_blocks));
  }

  void transform_grad(Index sample, Index top, Index block, Index row) {
    const Planes planes(g_.grad, a_.after, a_.out_c, a_.out_h, a_.out_w, 0, sample, block);
    read(planes, top, 0, 4);
    float* to = g_.grad_tiles + (block * strips_.tiles + row * strips_.across) * kLanes;
    transform_tiles<4, transform_gradient>(top, to, strips_.place(strips_.out_blocks));
  }

  // kSize x kSize pixels of each tile -> 6 x 6 places, two rows of them at a time: these share
  // their sums, and stay in registers.
  template <int kSize, auto kTransform>
  void transform_tiles(Index top, float* to, Index next) {
    const float* from[kSize];
    for (int i = 0; i < kSize; ++i) from[i] = pixels(top + i);
    transform_rows<kSize, kTransform, 0, 5>(from, to, next);
    transform_rows<kSize, kTransform, 1, 2>(from, to, next);
    transform_rows<kSize, kTransform, 3, 4>(from, to, next);
  }

  template <int kSize, auto kTransform, int kFirst, int kSecond>
  void transform_rows(const float* const* from, float* to, Index next) const {
    Vec first[kSize], second[kSize];
    const auto down = [&](Index x, int j) {
      Vec d[kSize], v[6];
      for (int i = 0; i < kSize; ++i) d[i] = load(from[i] + x * kLanes);
      kTransform(d, v);
      first[j] = v[kFirst];
      second[j] = v[kSecond];
    };
    const auto across = [&](const Vec* half, float* places) {
      Vec v[6];
      kTransform(half, v);
      for (int j = 0; j < 6; ++j) store(places + j * next, v[j]);
    };
    constexpr int kShared = kSize - 4;  // columns of neighbouring tiles
    for (int j = 0; j < kShared; ++j) down(j, 4 + j);
    for (Index t = 0; t < strips_.across; ++t) {
      for (int j = 0; j < kShared; ++j) {
        first[j] = first[4 + j];
        second[j] = second[4 + j];
      }
      for (int j = kShared; j < kSize; ++j) down(4 * t + j, j);
      across(first, to + 6 * kFirst * next + t * kLanes);
      across(second, to + 6 * kSecond * next + t * kLanes);
    }
  }

  void multiply_rows(
      const float* u, const float* v, float* sums, Index tiles, Index rows, bool first) const {
    const Index blocks = strips_.in_blocks;
    for (Index j = 0; j < blocks;) {
      const Index left = blocks - j;
      const Index wide = ceil_div(left, ceil_div(left, kColumns));
      const float* columns = v + j * strips_.tiles * kLanes;
      for (Index o = 0; o < rows; o += kRows) {
        float* to = sums + (o * blocks + j) * kLanes;
        as_constant<kColumns>(wide, [&](auto vectors) {
          multiply_block<vectors>(u + o, columns, to, tiles, first);
        });
      }
      j += wide;
    }
  }

  template <int kWide>
  void multiply_block(
      const float* u, const float* v, float* to, Index tiles, bool first) const {
    const Index next = strips_.tiles * kLanes, line = strips_.in_blocks * kLanes;
    Vec sum[kRows][kWide];
    for (int i = 0; i < kRows; ++i)  // not `= {}`: that would clear an array in memory
      for (int j = 0; j < kWide; ++j) sum[i][j] = Vec{};
    if (!first)
      for (int i = 0; i < kRows; ++i) fetch_ahead<true>(to + i * line, kWide * kLanes);
    for (Index t = 0; t < tiles; ++t) {
      Vec b[kWide];
      for (int j = 0; j < kWide; ++j) b[j] = load(v + j * next + t * kLanes);
      for (int i = 0; i < kRows; ++i) {
        const Vec w = splat(u[t * kLanes + i]);
        for (int j = 0; j < kWide; ++j) sum[i][j] += w * b[j];
      }
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kWide; ++j) {
        float* at = to + i * line + j * kLanes;
        store(at, first ? sum[i][j] : load(at) + sum[i][j]);
      }
  }

  const WeightGradient& g_;
  const Convolution& a_;
  const Strips strips_;
  Floats pixels_;  // six rows of a register of planes
  Index wide_ = 0;
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
  return s.rows_of(step / 2) * (s.in_blocks + s.out_blocks);
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
