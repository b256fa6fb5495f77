// 3x3 convolution by Winograd's F(4x4, 3x3) (Lavin and Gray 2016): each 4x4 tile of the result
// costs 36 products a pair of channels in place of 144.
//
// A few rows of tiles at a time go through all three steps, so that nothing large is stored:
// transform the input, multiply matrices over the channels for each of the 36 places of a tile,
// transform back. Lanes are tiles: a tile's numbers depend on nothing but its own.

#include <algorithm>
#include <cstring>
#include <vector>

#include "plan.h"
#include "winograd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

// the block of results that a matrix product keeps in registers
#if defined(__AVX512F__)
constexpr int kRows = 8, kColumns = 3;
#elif defined(__AVX2__)
constexpr int kRows = 6, kColumns = 1;
#else
constexpr int kRows = 3, kColumns = 1;
#endif

// u[j * step + c] of six from g[j * step + c] of three, for a run of channels
inline void transform_taps(const double* __restrict g, double* __restrict u, Index step, Index n) {
  constexpr double p = 0.70710678118654752, q = 1.41421356237309505, third = 1. / 3;
  for (Index c = 0; c < n; ++c) {
    const double g0 = g[c], g1 = g[step + c], g2 = g[2 * step + c];
    u[c] = g0;
    u[step + c] = (-2 * g0 - 2 * p * g1 - g2) * third;
    u[2 * step + c] = (-2 * g0 + 2 * p * g1 - g2) * third;
    u[3 * step + c] = (0.5 * g0 + 0.5 * q * g1 + g2) * third;
    u[4 * step + c] = (0.5 * g0 - 0.5 * q * g1 + g2) * third;
    u[5 * step + c] = g2;
  }
}

// How the tiles are dealt out: `rows` rows of them at a time, of one sample after the other, so
// that few lanes stay empty.
struct Tiles {
  Index across, down, all, rows, units, columns;
  explicit Tiles(const Convolution& a) {
    across = ceil_div(a.out_w, 4);
    down = ceil_div(a.out_h, 4);
    all = a.samples * down;
    // wide enough to use every weight often, narrow enough for the second-level cache; whole blocks
    const Index wanted = (std::max(a.in_c, a.out_c) > 128 ? 2 : 3) * 3 * kLanes;
    rows = std::clamp<Index>(wanted / across, 1, ceil_div(all, 4));
    units = ceil_div(all, rows);
    columns = round_up(rows * across, kLanes);
  }
};

template <int kWide>
void multiply_block(
    const float* u, const float* v, float* m, Index in_c, Index columns, Index rows) {
  Vec sum[kRows][kWide] = {};
  for (Index c = 0; c < in_c; ++c) {
    Vec b[kWide];
    for (int j = 0; j < kWide; ++j) b[j] = load(v + c * columns + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec w = splat(u[c * kRows + i]);
      for (int j = 0; j < kWide; ++j) sum[i][j] += w * b[j];
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kWide; ++j)
      if (i < rows) store(m + i * columns + j * kLanes, sum[i][j]);
}

class Worker {
 public:
  Worker(const Convolution& a, const Tiles& tiles)
      : a_(a),
        tiles_(tiles),
        width_(4 * (tiles.across + 1)),
        part_(round_up(tiles.across + 1, kLanes) + kLanes),
        line_(width_ + 64),
        parts_((4 * tiles.rows + 2) * 4 * part_),
        v_(kPlaces * a.in_c * tiles.columns + kLanes),
        m_(kPlaces * a.out_c * tiles.columns + kLanes),
        phases_(16 * part_),
        result_(4 * part_) {}

  void run(Index unit) {
    const Index begin = unit * tiles_.rows, end = std::min(begin + tiles_.rows, tiles_.all);
    columns_ = round_up((end - begin) * tiles_.across, kLanes);
    for_samples(begin, end, [&](Index sample, Index top, Index rows, Index at) {
      for (Index c = 0; c < a_.in_c; ++c) read(sample, c, top, rows, at);
    });
    for (int k = 0; k < kPlaces; ++k) multiply(k);
    for_samples(begin, end, [&](Index sample, Index top, Index rows, Index at) {
      for (Index c = 0; c < a_.out_c; ++c) write(sample, c, top, rows, at);
    });
  }

 private:
  // step(sample, its first row, number of rows, first column) for rows [begin, end) of all samples
  template <class Step>
  void for_samples(Index begin, Index end, Step step) {
    for (Index row = begin; row < end;) {
      const Index top = row % tiles_.down, rows = std::min(end - row, tiles_.down - top);
      step(row / tiles_.down, top, rows, (row - begin) * tiles_.across);
      row += rows;
    }
  }

  void read(Index sample, Index c, Index top, Index rows, Index at) {
    const float* plane = a_.x + (sample * a_.in_c + c) * a_.in_h * a_.in_w;
    const float scale = a_.before ? a_.before[sample * a_.in_c + c] : 1;
    for (Index i = 0; i < 4 * rows + 2; ++i) {
      const Index y = 4 * top + i - a_.pad;
      float* to = parts_.data() + i * 4 * part_;
      if (y < 0 || y >= a_.in_h)
        std::fill(to, to + 4 * part_, 0.f);
      else
        split(plane + y * a_.in_w, scale, to);
    }
    for (Index r = 0; r < rows; ++r)
      for (Index t = 0; t < tiles_.across; t += kLanes)
        transform(c, r, t, at + r * tiles_.across + t);
  }

  // A row of the image, scaled and with zeros around it, by columns modulo 4.
  void split(const float* from, float scale, float* to) {
    float* line = line_.data();
    const Index end = std::min(a_.in_w + a_.pad, width_);
    std::fill(line, line + a_.pad, 0.f);
    for (Index i = a_.pad; i < end; ++i) line[i] = from[i - a_.pad] * scale;
    std::fill(line + end, line + width_, 0.f);
    float *p0 = to, *p1 = to + part_, *p2 = p1 + part_, *p3 = p2 + part_;
    for (Index t = 0; t < width_ / 4; ++t) {
      p0[t] = line[4 * t];
      p1[t] = line[4 * t + 1];
      p2[t] = line[4 * t + 2];
      p3[t] = line[4 * t + 3];
    }
  }

  void transform(Index c, Index r, Index t, Index at) {
    Vec half[6][6];
    for (int j = 0; j < 6; ++j) {
      Vec d[6];
      const float* from = parts_.data() + (4 * r * 4 + j % 4) * part_ + t + j / 4;
      for (int i = 0; i < 6; ++i) d[i] = load(from + i * 4 * part_);
      Vec v[6];
      transform_input(d, v);
      for (int i = 0; i < 6; ++i) half[i][j] = v[i];
    }
    const Index lanes = std::min<Index>(columns_ - at, kLanes);
    float* to = v_.data() + c * columns_ + at;
    for (int i = 0; i < 6; ++i) {
      Vec v[6];
      transform_input(half[i], v);
      for (int j = 0; j < 6; ++j) {
        float* place = to + (6 * i + j) * a_.in_c * columns_;
        // What goes beyond the tiles of this row is written over by the next row, but nothing
        // may go beyond the last row's end: there begins another channel or place.
        if (lanes == kLanes)
          store(place, v[j]);
        else
          std::memcpy(place, &v[j], lanes * sizeof(float));
      }
    }
  }

  void multiply(int k) {
    const float* v = v_.data() + k * a_.in_c * columns_;
    float* m = m_.data() + k * a_.out_c * columns_;
    const float* u = a_.taps + k * round_up(a_.out_c, kRows) * a_.in_c;
    for (Index j = 0; j < columns_;) {
      const Index left = (columns_ - j) / kLanes, wide = ceil_div(left, ceil_div(left, kColumns));
      for (Index o = 0; o < a_.out_c; o += kRows) {
        const float* block = u + o * a_.in_c;
        float* to = m + o * columns_ + j;
        const Index rows = a_.out_c - o;
        if (wide == 3) multiply_block<3>(block, v + j, to, a_.in_c, columns_, rows);
        if (wide == 2) multiply_block<2>(block, v + j, to, a_.in_c, columns_, rows);
        if (wide == 1) multiply_block<1>(block, v + j, to, a_.in_c, columns_, rows);
      }
      j += wide * kLanes;
    }
  }

  void write(Index sample, Index c, Index top, Index rows, Index at) {
    const float scale = a_.after ? a_.after[sample * a_.out_c + c] : 1;
    float* plane = a_.y + (sample * a_.out_c + c) * a_.out_h * a_.out_w;
    for (Index r = 0; r < rows; ++r) {
      for (Index t = 0; t < tiles_.across; t += kLanes)
        transform_back(c, t, at + r * tiles_.across + t, scale);
      for (int i = 0; i < 4; ++i) {
        const Index y = 4 * (top + r) + i;
        if (y >= a_.out_h) break;
        const float* p = phases_.data() + i * 4 * part_;
        float* line = result_.data();
        for (Index t = 0; t < tiles_.across; ++t) {
          line[4 * t] = p[t];
          line[4 * t + 1] = p[part_ + t];
          line[4 * t + 2] = p[2 * part_ + t];
          line[4 * t + 3] = p[3 * part_ + t];
        }
        std::copy(line, line + a_.out_w, plane + y * a_.out_w);
      }
    }
  }

  void transform_back(Index c, Index t, Index at, float scale) {
    const float* from = m_.data() + c * columns_ + at;
    Vec half[4][6];
    for (int j = 0; j < 6; ++j) {
      Vec m[6], y[4];
      for (int i = 0; i < 6; ++i) m[i] = load(from + (6 * i + j) * a_.out_c * columns_);
      transform_output(m, y);
      for (int i = 0; i < 4; ++i) half[i][j] = y[i];
    }
    for (int i = 0; i < 4; ++i) {
      Vec y[4];
      transform_output(half[i], y);
      for (int j = 0; j < 4; ++j) store(phases_.data() + (4 * i + j) * part_ + t, y[j] * scale);
    }
  }

  const Convolution& a_;
  const Tiles& tiles_;
  Index width_, part_, columns_ = 0;
  Floats line_, parts_, v_, m_, phases_, result_;
};

}  // namespace

// Floats that the transformed taps take.
Index convolution_taps(const Convolution& a) {
  return kPlaces * round_up(a.out_c, kRows) * a.in_c;
}

// Units: blocks of output channels. Taps [out_c, in_c, 3, 3] -> [36, out_c / kRows, in_c, kRows].
Index taps_units(const Convolution& a) { return ceil_div(a.out_c, kRows); }

void transform_convolution_taps(
    const Convolution& a, const float* w, float* taps, Index begin, Index end) {
  constexpr Index kRun = 64;  // input channels at a time
  const Index blocks = taps_units(a);
  std::vector<double> memory((9 + 18 + 36) * kRun);
  std::vector<float> places(kRows * kPlaces * kRun);
  double *g = memory.data(), *half = g + 9 * kRun, *u = half + 18 * kRun;
  for (Index b = begin; b < end; ++b)
    for (Index first = 0; first < a.in_c; first += kRun) {
      const Index n = std::min(kRun, a.in_c - first);
      for (int i = 0; i < kRows; ++i) {
        const Index o = b * kRows + i;
        float* to = places.data() + i * kPlaces * kRun;
        if (o >= a.out_c) {
          std::fill(to, to + kPlaces * kRun, 0.f);
          continue;
        }
        const float* from = w + (o * a.in_c + first) * 9;
        for (Index c = 0; c < n; ++c)
          for (int t = 0; t < 9; ++t) g[t * kRun + c] = from[9 * c + t];
        for (int y = 0; y < 3; ++y) transform_taps(g + 3 * y * kRun, half + 6 * y * kRun, kRun, n);
        for (int x = 0; x < 6; ++x) transform_taps(half + x * kRun, u + x * kRun, 6 * kRun, n);
        for (Index k = 0; k < kPlaces * kRun; ++k) to[k] = static_cast<float>(u[k]);
      }
      for (int k = 0; k < kPlaces; ++k) {
        float* to = taps + ((k * blocks + b) * a.in_c + first) * kRows;
        const float* from = places.data() + k * kRun;
        for (Index c = 0; c < n; ++c)
          for (int i = 0; i < kRows; ++i) to[c * kRows + i] = from[i * kPlaces * kRun + c];
      }
    }
}

Index convolution_units(const Convolution& a) { return Tiles(a).units; }

void run_convolution(const Convolution& a, Index begin, Index end) {
  const Tiles tiles(a);
  Worker worker(a, tiles);
  for (Index i = begin; i < end; ++i) worker.run(i);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
