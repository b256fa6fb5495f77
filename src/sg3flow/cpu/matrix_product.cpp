// Matrix products by Strassen's recursion (Strassen 1969), two levels of it at once: 49 products of
// quarter-sized blocks instead of 64. As in Huang et al. 2016 ("Strassen's algorithm reloaded"),
// the sums of blocks are made while a block is packed, and a few rows of results are added wherever
// they belong while they are in the first-level cache, so that no level is ever stored.
//
// y [M, P] = a [M, K] x b [K, P] goes by strips of b's columns; a strip of b and of y stays in the
// cache, and a's 49 sums are made once for all strips.

#include <algorithm>
#include <array>
#include <vector>

#include "aligned.h"
#include "block_product.h"
#include "plan.h"
#include "weighted_sums.h"

namespace sg3flow {
namespace SG3FLOW_ISA {
namespace {

constexpr int kSide = 4;                  // blocks along each side of a matrix
constexpr Index kBlock = 48;              // columns of a block
constexpr Index kStrip = kSide * kBlock;  // columns of a strip
constexpr Index kAheadRows = 4;           // of b, on their way to the cache
static_assert(kBlock % (kColumns * kLanes) == 0);

// One of a sum of blocks: which one, and its sign.
struct Term {
  int block;
  float sign;
};
using Terms = std::vector<Term>;

// One product of Strassen's: (sum of blocks of a) x (sum of blocks of b), added to blocks of y.
// Blocks are numbered row * side + column. A block of b that stands alone has no minus.
struct Step {
  Terms a, b, y;
};

const std::array<Step, 7>& strassen() {
  static const std::array<Step, 7> steps = {{
      {{{0, 1}, {3, 1}}, {{0, 1}, {3, 1}}, {{0, 1}, {3, 1}}},
      {{{2, 1}, {3, 1}}, {{0, 1}}, {{2, 1}, {3, -1}}},
      {{{0, 1}}, {{1, 1}, {3, -1}}, {{1, 1}, {3, 1}}},
      {{{3, 1}}, {{2, 1}, {0, -1}}, {{0, 1}, {2, 1}}},
      {{{0, 1}, {1, 1}}, {{3, 1}}, {{0, -1}, {1, 1}}},
      {{{2, 1}, {0, -1}}, {{0, 1}, {1, 1}}, {{3, 1}}},
      {{{1, 1}, {3, -1}}, {{2, 1}, {3, 1}}, {{0, 1}}},
  }};
  return steps;
}

// The terms of one level within those of the level above it.
Terms both(const Terms& outer, const Terms& inner) {
  Terms all;
  for (const Term& o : outer)
    for (const Term& i : inner) {
      const int row = o.block / 2 * 2 + i.block / 2, column = o.block % 2 * 2 + i.block % 2;
      all.push_back({row * kSide + column, o.sign * i.sign});
    }
  return all;
}

const std::vector<Step>& steps() {
  static const std::vector<Step> all = [] {
    std::vector<Step> made;
    for (const Step& outer : strassen())
      for (const Step& inner : strassen())
        made.push_back({both(outer.a, inner.a), both(outer.b, inner.b), both(outer.y, inner.y)});
    return made;
  }();
  return all;
}

// Blocks are a quarter of a matrix in each direction, rounded up: zeros fill them.
struct Sizes {
  Index rows, inner;    // of a block
  Index panels, panel;  // of kRows rows of a block, and the floats of one
  explicit Sizes(const MatrixProduct& p) {
    panels = ceil_div(p.rows, kSide * kRows);
    rows = panels * kRows;
    inner = ceil_div(p.inner, kSide);
    panel = round_up(inner * kRows, kLanes);
  }
};

// A sum of blocks of `size` floats each.
void add_up(const Terms& terms, const float* blocks, Index size, float* sum) {
  const float* from[4];
  float signs[4];
  for (std::size_t t = 0; t < terms.size(); ++t) {
    from[t] = blocks + terms[t].block * size;
    signs[t] = terms[t].sign;
  }
  weigh(sum, from, signs, static_cast<int>(terms.size()), size, Keep{});
}

// Panel i of each block of a: by columns, zeros beyond the matrix.
void read_panels(const MatrixProduct& p, const Sizes& size, Index i, float* blocks) {
  for (int row = 0; row < kSide; ++row) {
    const Index m = row * size.rows + i * kRows;
    const Index there = std::clamp<Index>(p.rows - m, 0, kRows);
    for (Index k = 0; k < p.inner; ++k) {
      const float* from = p.a + m * p.row_step + k * p.inner_step;
      float* to = blocks + (row * kSide + k / size.inner) * size.panel + k % size.inner * kRows;
      for (Index r = 0; r < kRows; ++r) to[r] = r < there ? from[r * p.row_step] : 0.f;
    }
  }
}

// One strip of columns at a time: its blocks of b, and of the result.
class Strip {
 public:
  explicit Strip(const MatrixProduct& p)
      : p_(p),
        size_(p),
        b_(kSide * kSide * size_.inner * kBlock),
        sum_(size_.inner * kBlock),
        y_(kSide * kSide * size_.rows * kBlock) {}

  void run(Index strip) {
    first_ = strip * kStrip;
    read();
    begun_.fill(false);
    for (std::size_t i = 0; i < steps().size(); ++i) step(steps()[i], i);
    write();
  }

 private:
  Lanes lanes(Index column) const { return first_lanes(p_.columns - first_ - column); }

  void read() {
    for (Index k = 0; k < kSide * size_.inner; ++k) {
      fetch_ahead(p_.b + std::min(k + kAheadRows, p_.inner - 1) * p_.columns + first_, kStrip);
      for (Index j = 0; j < kStrip; j += kLanes) {
        const Index block = k / size_.inner * kSide + j / kBlock;
        float* to = b_.data() + (block * size_.inner + k % size_.inner) * kBlock + j % kBlock;
        const Lanes there = k < p_.inner ? lanes(j) : Lanes{0};
        store(to, there ? load_lanes(p_.b + k * p_.columns + first_ + j, there) : Vec{});
      }
    }
  }

  const float* sum_of(const Terms& terms) {
    const Index size = size_.inner * kBlock;
    if (terms.size() == 1) return b_.data() + terms[0].block * size;
    add_up(terms, b_.data(), size, sum_.data());
    return sum_.data();
  }

  void step(const Step& s, Index number) {
    const float* b = sum_of(s.b);
    const float* a = p_.sums + number * size_.panels * size_.panel;
    for (Index panel = 0; panel < size_.panels; ++panel) {
      alignas(64) float tile[kRows * kBlock];
      for (Index j = 0; j < kBlock; j += kColumns * kLanes)
        multiply_block<kColumns>(
            a + panel * size_.panel, b + j, tile + j, size_.inner, kBlock, kRows);
      for (const Term& t : s.y) add(t, tile, (t.block * size_.rows + panel * kRows) * kBlock);
    }
    for (const Term& t : s.y) begun_[t.block] = true;
  }

  void add(const Term& t, const float* tile, Index at) {
    float* y = y_.data() + at;
    const Vec sign = splat(t.sign);
    if (begun_[t.block])
      for (Index k = 0; k < kRows * kBlock; k += kLanes)
        store(y + k, load(y + k) + sign * load(tile + k));
    else
      for (Index k = 0; k < kRows * kBlock; k += kLanes) store(y + k, sign * load(tile + k));
  }

  void write() const {
    for (Index m = 0; m < p_.rows; ++m)
      for (Index j = 0; j < kStrip; j += kLanes) {
        const Index block = m / size_.rows * kSide + j / kBlock;
        const float* from = y_.data() + (block * size_.rows + m % size_.rows) * kBlock + j % kBlock;
        store_first(p_.y + m * p_.columns + first_ + j, load(from), lanes(j));
      }
  }

  const MatrixProduct& p_;
  const Sizes size_;
  Floats b_, sum_, y_;
  std::array<bool, kSide * kSide> begun_;
  Index first_ = 0;
};

}  // namespace

Index block_sums(const MatrixProduct& p) {
  const Sizes size(p);
  return static_cast<Index>(steps().size()) * size.panels * size.panel;
}

// Units: panels of rows of a block, all 49 sums of each. [49, panels, inner, kRows]
Index block_sums_units(const MatrixProduct& p) { return Sizes(p).panels; }

void add_blocks(const MatrixProduct& p, float* sums, Index begin, Index end) {
  const Sizes size(p);
  Floats blocks(kSide * kSide * size.panel);
  for (Index i = begin; i < end; ++i) {
    read_panels(p, size, i, blocks.data());
    for (std::size_t s = 0; s < steps().size(); ++s)
      add_up(steps()[s].a, blocks.data(), size.panel, sums + (s * size.panels + i) * size.panel);
  }
}

Index matrix_product_units(const MatrixProduct& p) { return ceil_div(p.columns, kStrip); }

void run_matrix_product(const MatrixProduct& p, Index begin, Index end) {
  Strip strip(p);
  for (Index i = begin; i < end; ++i) strip.run(i);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
