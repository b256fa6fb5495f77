// The gradient of the weights of a 3x3 convolution: the transpose of Winograd's F(4x4, 3x3), so the
// same 36 products per tile and pair of channels.
//
// The rows of tiles are cut into parts, each with sums of its own, and a thread does all of a part,
// strip by strip: transform the tiles of the input and of the gradient; for each of the 36 places of
// a tile, multiply matrices over the tiles and add the product to a sum. Nothing that one thread
// makes is read by another before the end: between the cores of two chips that would take as long as
// the products. Where parts are fewer than threads, a unit does a group of the channels only, and
// others transform some of the same tiles. At last the parts are added, and the nine taps made of
// the sums.
//
// Lanes are channels. The order of every sum depends on the shapes alone.

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

// Some registers of channels: groups of all of them, as even as possible.
struct Group {
  Index first, blocks;
  Group(Index all, Index groups, Index i) : first(all * i / groups) {
    blocks = all * (i + 1) / groups - first;
  }
};

// How the rows of tiles and, with many threads, the channels are split.
struct Parts {
  Index across, down, total, in_blocks, out_blocks;
  Index count, rows, strip_rows;
  Index in_groups = 1, out_groups = 1;
  explicit Parts(const Convolution& a) {
    across = ceil_div(a.out_w, 4);
    down = ceil_div(a.out_h, 4);
    total = a.samples * down;
    in_blocks = ceil_div(a.in_c, kLanes);
    out_blocks = ceil_div(a.out_c, kLanes);
    // a power of two, or what is left of one: most machines have as many threads, or a divisor
    const Index most = std::min(total * across / kTiles, kSums / sums());
    for (count = 1; count < kMost && 2 * count <= most;) count *= 2;
    rows = ceil_div(total, count);
    count = ceil_div(total, rows);
    const Index wanted = kStrip / (kPlaces * kLanes * (in_blocks + out_blocks));
    strip_rows = std::max(std::min<Index>(wanted, 512) / across, ceil_div(32, across));
    strip_rows = std::min(strip_rows, rows);
    share_out_channels(a.threads);
  }

  Index units() const { return count * in_groups * out_groups; }

  // floats of the sums of a part
  Index sums() const { return kPlaces * out_blocks * in_blocks * kLanes * kLanes; }

  // the longest group
  Index in_in_group() const { return ceil_div(in_blocks, in_groups); }
  Index out_in_group() const { return ceil_div(out_blocks, out_groups); }

 private:
  // Chosen are the groups whose busiest thread has the least to do, and of those the fewest.
  void share_out_channels(Index threads) {
    Index least = busiest(1, 1, threads);
    for (Index i = 1; i <= std::min(in_blocks, threads); ++i)
      for (Index o = 1; o <= std::min(out_blocks, threads); ++o) {
        const Index work = busiest(i, o, threads);
        if (work > least || (work == least && i * o >= in_groups * out_groups)) continue;
        least = work;
        in_groups = i;
        out_groups = o;
      }
  }

  // Of one thread, in thirds of a product of two registers of channels: transforming one takes two.
  Index busiest(Index in, Index out, Index threads) const {
    const Index i = ceil_div(in_blocks, in), o = ceil_div(out_blocks, out);
    return ceil_div(count * in * out, threads) * (3 * i * o + 2 * (i + o));
  }

  static constexpr Index kMost = 16;       // parts
  static constexpr Index kTiles = 384;     // of a part, at least: its sums are written and read
  static constexpr Index kSums = 1 << 21;  // floats, of all parts
  // floats of a strip: long enough to use every sum often, short enough for the caches
  static constexpr Index kStrip = 1 << 19;
};

// Where a row of sums begins: [part, place, output channel, input channel], with the channels that
// fill the last register.
Index sum_at(const Parts& parts, Index part, Index place, Index o) {
  const Index row = (part * kPlaces + place) * parts.out_blocks * kLanes + o;
  return row * parts.in_blocks * kLanes;
}

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
  explicit Worker(const WeightGradient& g)
      : g_(g),
        a_(g.of),
        parts_(a_),
        tiles_(parts_.strip_rows * parts_.across),
        wide_(round_up(4 * parts_.across + 2, kLanes) + kLanes),
        x_place_(place(parts_.in_in_group())),
        grad_place_(place(parts_.out_in_group())),
        pixels_(6 * wide_ * kLanes),
        x_tiles_(kPlaces * x_place_),
        grad_tiles_(kPlaces * grad_place_) {}

  // Unit: the sums of a part, for a group of input channels and a group of output channels.
  void run(Index unit) {
    const Group in(parts_.in_blocks, parts_.in_groups, unit % parts_.in_groups);
    unit /= parts_.in_groups;
    const Group out(parts_.out_blocks, parts_.out_groups, unit % parts_.out_groups);
    const Index part = unit / parts_.out_groups;
    const Index begin = part * parts_.rows, end = std::min(begin + parts_.rows, parts_.total);
    for (Index at = begin; at < end; at += parts_.strip_rows) {
      const Index rows = std::min(parts_.strip_rows, end - at);
      transform(at, rows, in, out);
      for (int k = 0; k < kPlaces; ++k)
        multiply(k, part, rows * parts_.across, in, out, at == begin);
    }
  }

 private:
  // Floats of one of the places of a strip's tiles. They begin in different sets of the first-level
  // cache.
  Index place(Index blocks) const { return round_up(blocks * tiles_ * kLanes, 1024) + kLine; }

  // The tiles of `rows` rows of them, from row `at` of all samples on.
  void transform(Index at, Index rows, const Group& in, const Group& out) {
    for (Index block = 0; block < in.blocks; ++block)
      for (Index row = 0; row < rows; ++row) {
        const Index top = (at + row) % parts_.down * 4;
        // the row of tiles above has left two rows of its pixels
        const bool follows = row > 0 && top > 0;
        float* to = x_tiles_.data() + (block * tiles_ + row * parts_.across) * kLanes;
        transform_x((at + row) / parts_.down, top, in.first + block, follows, to);
      }
    for (Index block = 0; block < out.blocks; ++block)
      for (Index row = 0; row < rows; ++row) {
        const Index top = (at + row) % parts_.down * 4;
        float* to = grad_tiles_.data() + (block * tiles_ + row * parts_.across) * kLanes;
        transform_grad((at + row) / parts_.down, top, out.first + block, to);
      }
  }

  void multiply(int k, Index part, Index tiles, const Group& in, const Group& out, bool first) {
    for (Index block = 0; block < out.blocks; ++block) {
      const float* u = grad_tiles_.data() + k * grad_place_ + block * tiles_ * kLanes;
      const Index row = (out.first + block) * kLanes;
      float* to = g_.sums + sum_at(parts_, part, k, row) + in.first * kLanes;
      const Index rows = std::min<Index>(a_.out_c - row, kLanes);
      multiply_rows(u, x_tiles_.data() + k * x_place_, to, tiles, rows, in.blocks, first);
    }
  }

  // Rows [first, last) of the planes below `top`, as vectors over the planes, from the tiles' first
  // column on; zeros beyond the image.
  void read(const Planes& planes, Index top, Index first, Index last) {
    const Index wide = 4 * parts_.across + 2;
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

  void transform_x(Index sample, Index top, Index block, bool follows, float* to) {
    const Planes planes(a_.x, a_.before, a_.in_c, a_.in_h, a_.in_w, a_.pad, sample, block);
    read(planes, top, follows ? 2 : 0, 6);
    transform_tiles<6, transform_input>(top, to, x_place_);
  }

  void transform_grad(Index sample, Index top, Index block, float* to) {
    const Planes planes(g_.grad, a_.after, a_.out_c, a_.out_h, a_.out_w, 0, sample, block);
    read(planes, top, 0, 4);
    transform_tiles<4, transform_gradient>(top, to, grad_place_);
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
    constexpr int kShared = kSize - 4;  // columns of neighboring tiles
    for (int j = 0; j < kShared; ++j) down(j, 4 + j);
    for (Index t = 0; t < parts_.across; ++t) {
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
      const float* u, const float* v, float* sums, Index tiles, Index rows, Index blocks,
      bool first) const {
    const Index line = parts_.in_blocks * kLanes;
    for (Index j = 0; j < blocks;) {
      const Index left = blocks - j;
      const Index wide = ceil_div(left, ceil_div(left, kColumns));
      for (Index o = 0; o < rows; o += kRows) {
        as_constant<kColumns>(wide, [&](auto vectors) {
          multiply_block<vectors>(
              u + o, v + j * tiles_ * kLanes, sums + o * line + j * kLanes, tiles, first);
        });
      }
      j += wide;
    }
  }

  template <int kWide>
  void multiply_block(
      const float* u, const float* v, float* to, Index tiles, bool first) const {
    const Index next = tiles_ * kLanes, line = parts_.in_blocks * kLanes;
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
  const Parts parts_;
  Index tiles_, wide_, x_place_, grad_place_;  // of a strip; of a row; floats of a place
  Floats pixels_;                              // six rows of a register of planes
  Scratch x_tiles_, grad_tiles_;
};

// One output channel: its taps, of the sums of all parts.
void gather_channel(const WeightGradient& g, const Parts& parts, Index o) {
  const Index next_part = parts.sums(), next_place = next_part / kPlaces;
  for (Index block = 0; block < parts.in_blocks; ++block) {
    const float* from = g.sums + sum_at(parts, 0, 0, o) + block * kLanes;
    Vec half[3][6], taps[9];
    for (int j = 0; j < 6; ++j) {
      Vec u[6], column[3];
      for (int i = 0; i < 6; ++i) {
        const float* sums = from + (6 * i + j) * next_place;
        u[i] = load(sums);
        for (Index part = 1; part < parts.count; ++part) u[i] += load(sums + part * next_part);
      }
      gather_taps(u, column);
      for (int i = 0; i < 3; ++i) half[i][j] = column[i];
    }
    for (int i = 0; i < 3; ++i) gather_taps(half[i], taps + 3 * i);
    const Index n = std::min<Index>(g.of.in_c - block * kLanes, kLanes);
    float* to = g.w + (o * g.of.in_c + block * kLanes) * 9;
    for (Index c = 0; c < n; ++c)
      for (int t = 0; t < 9; ++t) to[9 * c + t] = taps[t][c];
  }
}

}  // namespace

Index weight_gradient_sums(const Convolution& a) {
  const Parts parts(a);
  return parts.count * parts.sums();
}

Index weight_gradient_units(const Convolution& a) { return Parts(a).units(); }

void run_weight_gradient(const WeightGradient& g, Index begin, Index end) {
  Worker worker(g);
  for (Index i = begin; i < end; ++i) worker.run(i);
}

void finish_weight_gradient(const WeightGradient& g, Index begin, Index end) {
  const Parts parts(g.of);
  for (Index o = begin; o < end; ++o) gather_channel(g, parts, o);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
