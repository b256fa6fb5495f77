// 3x3 convolution by Winograd's F(4x4, 3x3) (Lavin and Gray 2016): each 4x4 tile of the result
// costs 36 products per pair of channels instead of 144.
//
// A few rows of tiles at a time go through all three steps, so that nothing large is stored:
// transform the input, multiply matrices over the channels for each of the 36 places of a tile,
// transform back. Lanes are tiles: a tile's numbers depend on nothing but its own.

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "as_constant.h"
#include "block_product.h"
#include "plan.h"
#include "shuffles.h"
#include "winograd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// How the work is split: `rows` rows of tiles at a time, of one sample after the other, and, for
// many threads and few tiles, a group of the output channels. Chosen is the cut whose busiest thread
// has the least to do.
struct Tiles {
  Index across, down, all, blocks, rows = 1, groups = 1, pieces, columns;
  explicit Tiles(const Convolution& a) {
    across = ceil_div(a.out_w, 4);
    down = ceil_div(a.out_h, 4);
    all = a.samples * down;
    blocks = ceil_div(a.out_c, kRows);
    const Index most = std::clamp<Index>(kWidest / across, 1, all);
    Index least = busiest(1, 1, a.threads);
    for (Index g = 1; g <= std::min(blocks, a.threads); g *= 2)
      for (Index n = 1; n <= most; ++n) {
        const Index products = busiest(n, g, a.threads);
        if (products > least || (products == least && g > groups)) continue;
        least = products;
        rows = n;
        groups = g;
      }
    pieces = ceil_div(all, rows);
    columns = round_up(rows * across, kLanes);
  }

  // output channels of the longest group, with those that fill its last block
  Index channels(Index n) const { return ceil_div(blocks, n) * kRows; }

 private:
  // wide enough to use every weight often, narrow enough for the caches
  static constexpr Index kWidest = 144;
  // columns whose products would take as long as reading the weights
  static constexpr Index kStart = 8;
  // output channels whose products would take as long as transforming the input
  static constexpr Index kTransform = 48;

  // the products of one thread, over the input channels
  Index busiest(Index n, Index g, Index threads) const {
    const Index units = ceil_div(ceil_div(all, n) * g, threads);
    return units * (round_up(n * across, kLanes) + kStart) * (channels(g) + kTransform);
  }
};

class Worker {
 public:
  Worker(const Convolution& a, const Tiles& tiles)
      : a_(a),
        tiles_(tiles),
        part_(round_up((tiles.rows + 1) * tiles.across, kLanes) + kLanes),
        parts_(4 * 6 * part_),
        place_(
            round_up(std::max(a.in_c, tiles.channels(tiles.groups)) * tiles.columns, 1024) + kLine),
        places_((kPlaces + 1) * place_) {
    for (Index x = 0; x < 4 * round_up(tiles.across + 1, kLanes); x += kLanes) {
      const int before = first_lanes(a.pad - x);
      inside_.push_back(static_cast<Lanes>(first_lanes(a.in_w + a.pad - x) & ~before));
      written_.push_back(first_lanes(a.out_w - x));
    }
  }

  void run(Index unit) {
    const Index begin = unit / tiles_.groups * tiles_.rows;
    const Index end = std::min(begin + tiles_.rows, tiles_.all), group = unit % tiles_.groups;
    first_ = tiles_.blocks * group / tiles_.groups * kRows;
    last_ = std::min(tiles_.blocks * (group + 1) / tiles_.groups * kRows, a_.out_c);
    const Index used = (end - begin) * tiles_.across;
    columns_ = round_up(used, kLanes);
    // channels in this order: what a vector writes beyond its tiles is written over afterwards
    for (Index c = 0; c < a_.in_c; ++c)
      for_samples(begin, end, [&](Index sample, Index top, Index rows, Index at) {
        read(sample, c, top, rows, at);
      });
    for (int k = 0; k < kPlaces; ++k) multiply(k);
    for (Index c = first_; c < last_; ++c)
      for_samples(begin, end, [&](Index sample, Index top, Index rows, Index at) {
        write(sample, c, top, rows, at);
      });
  }

 private:
  // One of the 36 matrices, of the input and of the result: what is made of one lies where the one
  // before it was, so that both need the memory of one.
  float* input(int k) { return places_.data() + (k + 1) * place_; }
  float* result(int k) { return places_.data() + k * place_; }

  // step(sample, its first row, number of rows, first column) for rows [begin, end) of all samples
  template <class Step>
  void for_samples(Index begin, Index end, Step step) {
    for (Index row = begin; row < end;) {
      const Index top = row % tiles_.down, rows = std::min(end - row, tiles_.down - top);
      step(row / tiles_.down, top, rows, (row - begin) * tiles_.across);
      row += rows;
    }
  }

  // The rows of the image, transformed across, by their number modulo 4 and by the six columns of a
  // tile: sample (y, x) of tile (r, t) is number r * across + t of part (y % 4, x), a row further
  // where y is 4 or 5. So a row serves both rows of tiles that see it.
  void read(Index sample, Index c, Index top, Index rows, Index at) {
    const float* plane = a_.x + (sample * a_.in_c + c) * a_.in_h * a_.in_w;
    const float scale = a_.before ? a_.before[sample * a_.in_c + c] : 1;
    for (Index i = 0; i < 4 * rows + 2; ++i) {
      const Index y = 4 * top + i - a_.pad;
      float* to = parts_.data() + i % 4 * 6 * part_ + i / 4 * tiles_.across;
      if (y < 0 || y >= a_.in_h)
        for (int j = 0; j < 6; ++j) std::fill_n(to + j * part_, tiles_.across, 0.f);
      else
        transform_across(plane + y * a_.in_w, scale, to);
      fetch_ahead(plane + (a_.in_h + y) * a_.in_w, a_.in_w);  // of the next channel
    }
    const Index tiles = rows * tiles_.across, end = at + tiles;
    // lanes without a tile are multiplied too, and what lies there may be denormal and slow
    transform_down(columns_ - end < kLanes ? columns_ - at : tiles, input(0) + c * columns_ + at);
  }

  // A row of the image, scaled and with zeros around it, by the columns of the tiles.
  void transform_across(const float* from, float scale, float* to) const {
    Vec d[6], next[4] = {};
    columns(from, scale, 0, d);
    for (Index t = 0; t < tiles_.across; t += kLanes) {
      if (t + kLanes <= tiles_.across) columns(from, scale, t + kLanes, next);
      for (int j = 0; j < 2; ++j) d[4 + j] = shifted(d[j], next[j]);
      Vec v[6];
      transform_input(d, v);
      for (int j = 0; j < 6; ++j) store(to + j * part_ + t, v[j]);
      std::copy(next, next + 4, d);
    }
  }

  // The first four columns of a register of tiles.
  void columns(const float* from, float scale, Index t, Vec* parts) const {
    Vec row[4];
    for (int i = 0; i < 4; ++i) {
      const Index x = 4 * t + i * kLanes - a_.pad;
      row[i] = load_lanes(from + x, inside_[4 * t / kLanes + i]) * scale;
    }
    part_by_4(row, parts);
  }

  void transform_down(Index tiles, float* to) const {
    for (int j = 0; j < 6; ++j) {
      const float* rows[6];
      for (int i = 0; i < 6; ++i)
        rows[i] = parts_.data() + (i % 4 * 6 + j) * part_ + i / 4 * tiles_.across;
      for (Index t = 0; t < tiles; t += kLanes) {
        Vec d[6], v[6];
        for (int i = 0; i < 6; ++i) d[i] = load(rows[i] + t);
        transform_input(d, v);
        for (int i = 0; i < 6; ++i) store(to + (6 * i + j) * place_ + t, v[i]);
      }
    }
  }

  void multiply(int k) {
    const float* v = input(k);
    float* m = result(k);
    const float* u = a_.taps + k * round_up(a_.out_c, kRows) * a_.in_c;
    for (Index j = 0; j < columns_;) {
      const Index left = (columns_ - j) / kLanes, wide = ceil_div(left, ceil_div(left, kColumns));
      for (Index o = first_; o < last_; o += kRows) {
        float* to = m + (o - first_) * columns_ + j;
        as_constant<kColumns>(wide, [&](auto vectors) {
          multiply_block<vectors>(
              u + o * a_.in_c, v + j, to, a_.in_c, columns_, last_ - o);
        });
      }
      j += wide * kLanes;
    }
  }

  void write(Index sample, Index c, Index top, Index rows, Index at) {
    const float scale = a_.after ? a_.after[sample * a_.out_c + c] : 1;
    float* plane = a_.y + (sample * a_.out_c + c) * a_.out_h * a_.out_w;
    gather_down(rows * tiles_.across, result(0) + (c - first_) * columns_ + at);
    for (Index i = 0; i < std::min(4 * rows, a_.out_h - 4 * top); ++i) {
      float* to = plane + (4 * top + i) * a_.out_w;
      fetch_ahead<true>(to + a_.out_h * a_.out_w, a_.out_w);  // of the next channel
      gather_across(i, scale, to);
    }
  }

  // The four rows of every tile, each by its six places across.
  void gather_down(Index tiles, const float* from) {
    for (int j = 0; j < 6; ++j)
      for (Index t = 0; t < tiles; t += kLanes) {
        Vec m[6], y[4];
        for (int i = 0; i < 6; ++i) m[i] = load(from + (6 * i + j) * place_ + t);
        transform_output(m, y);
        for (int i = 0; i < 4; ++i) store(parts_.data() + (6 * i + j) * part_ + t, y[i]);
      }
  }

  // Row i of the result.
  void gather_across(Index i, float scale, float* to) const {
    const float* from = parts_.data() + i % 4 * 6 * part_ + i / 4 * tiles_.across;
    for (Index t = 0; t < tiles_.across; t += kLanes) {
      Vec m[6], y[4], row[4];
      for (int j = 0; j < 6; ++j) m[j] = load(from + j * part_ + t);
      transform_output(m, y);
      join_by_4(y, row);
      for (int j = 0; j < 4; ++j)
        store_first(to + 4 * t + j * kLanes, row[j] * scale, written_[4 * t / kLanes + j]);
    }
  }

  const Convolution& a_;
  const Tiles& tiles_;
  Index part_, columns_ = 0;
  Index first_ = 0, last_ = 0;  // output channels of the unit
  Floats parts_;                // of one channel, between the two transforms
  // Floats of a matrix. They begin in different sets of the first-level cache, and leave room for a
  // vector that begins at the last tile.
  Index place_;
  Scratch places_;
  // which lanes of each vector of a row lie in the image, and in the result
  std::vector<Lanes> inside_, written_;
};

}  // namespace

Index convolution_units(const Convolution& a) {
  const Tiles tiles(a);
  return tiles.pieces * tiles.groups;
}

void run_convolution(const Convolution& a, Index begin, Index end) {
  const Tiles tiles(a);
  Worker worker(a, tiles);
  for (Index i = begin; i < end; ++i) worker.run(i);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
