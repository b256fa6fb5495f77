// The nonlinearity between the two filters, and the two bits per sample that backward needs of it:
// bit 0 the slope applies (v <= 0), bit 1 the clamp is reached (slope 0).
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "plan.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

class Activate {
 public:
  Activate(float gain, float slope, float clamp)
      : positive_(splat(gain)),
        negative_(splat(gain * slope)),
        limit_(splat(clamp < 0 ? std::numeric_limits<float>::infinity() : clamp)) {}

  Vec operator()(Vec v, std::int64_t) const { return clipped(v * (v > 0 ? positive_ : negative_)); }

 protected:
  // comparisons in this order let NaN through
  Vec clipped(Vec y) const {
    y = y > limit_ ? limit_ : y;
    return y < -limit_ ? -limit_ : y;
  }

  Vec positive_, negative_, limit_;
};

// The two bits of each sample of a middle row, by words of 16. What is put in by bytes is read by
// words.
static_assert(std::endian::native == std::endian::little);
struct RowBits {
  std::vector<std::uint16_t> low, high;
  explicit RowBits(Index words) : low(words), high(words) {}
};

// The bits of the register of samples that begins at k.
static inline void put_bits(std::uint16_t* bits, Index k, Lanes lanes) {
  auto* byte = reinterpret_cast<std::uint8_t*>(bits) + k / 8;
  if constexpr (kLanes == 16) std::memcpy(byte, &lanes, 2);
  if constexpr (kLanes == 8) *byte = static_cast<std::uint8_t>(lanes);
  if constexpr (kLanes == 4)
    *byte = static_cast<std::uint8_t>(k % 8 ? *byte | lanes << 4 : lanes);
}

static inline Lanes get_bits(const std::uint16_t* bits, Index k) {
  const auto* byte = reinterpret_cast<const std::uint8_t*>(bits) + k / 8;
  Lanes lanes = *byte;
  if constexpr (kLanes == 16) std::memcpy(&lanes, byte, 2);
  if constexpr (kLanes == 4) lanes = lanes >> k % 8 & kAllLanes;
  return lanes;
}

// Activates, and leaves the two bits of each sample.
class Record : public Activate {
 public:
  Record(float gain, float slope, float clamp, RowBits& bits)
      : Activate(gain, slope, clamp), low_(bits.low.data()), high_(bits.high.data()) {}

  Vec operator()(Vec v, std::int64_t k) const {
    const Vec y = v * (v > 0 ? positive_ : negative_);
    put_bits(low_, k, kAllLanes & ~lanes_above(v, Vec{}));
    put_bits(high_, k, lanes_from(y, limit_) | lanes_from(-y, limit_));
    return clipped(y);
  }

 private:
  std::uint16_t *low_, *high_;
};

// Multiplies by the slope that the bits stand for.
class Replay {
 public:
  Replay(float gain, float slope, const RowBits& bits)
      : positive_(splat(gain)),
        negative_(splat(gain * slope)),
        low_(bits.low.data()),
        high_(bits.high.data()) {}

  Vec operator()(Vec v, std::int64_t k) const {
    const Vec slope = choose(get_bits(low_, k), negative_, positive_);
    return choose(get_bits(high_, k), Vec{}, v * slope);
  }

 private:
  Vec positive_, negative_;
  const std::uint16_t *low_, *high_;
};

// The bits of some samples of one part lie 2 * kParts places apart in a word of packed samples.
template <int kParts>
struct Spread {
  static constexpr int kStep = 2 * kParts;
  static constexpr int kAtOnce = std::min(kWord, 64 / kStep);

  // Runs of so many bits, each at the place of its first.
  static constexpr std::uint64_t runs(int length) {
    std::uint64_t word = 0;
    for (int i = 0; i < kAtOnce * kStep; ++i)
      if (i % (length * kStep) < length) word |= std::uint64_t{1} << i;
    return word;
  }

  // Halves of runs move apart, or together. There are instructions for it, but AMD's processors
  // before Zen 3 take a hundred cycles for one, and those have no AVX-512.
  static std::uint64_t apart(std::uint64_t bits) {
#if defined(__AVX512F__) && defined(__BMI2__)
    constexpr std::uint64_t places = runs(1);
    return _pdep_u64(bits, places);
#else
    return move_apart<kAtOnce / 2>(bits);
#endif
  }

  static std::uint64_t together(std::uint64_t word) {
    constexpr std::uint64_t places = runs(1);
#if defined(__AVX512F__) && defined(__BMI2__)
    return _pext_u64(word, places);
#else
    return move_together<1>(word & places);
#endif
  }

  template <int kHalf>
  static std::uint64_t move_apart(std::uint64_t bits) {
    if constexpr (kHalf > 0) {
      constexpr std::uint64_t kept = runs(kHalf);
      return move_apart<kHalf / 2>((bits | bits << kHalf * (kStep - 1)) & kept);
    }
    return bits;
  }

  template <int kHalf>
  static std::uint64_t move_together(std::uint64_t word) {
    if constexpr (kHalf < kAtOnce) {
      constexpr std::uint64_t kept = runs(2 * kHalf);
      return move_together<2 * kHalf>((word | word >> kHalf * (kStep - 1)) & kept);
    }
    return word;
  }
};

// Bits of the rows of one stripe, between memory, where four samples make a byte in the order of
// the columns, plane by plane, and `RowBits`, where a row lies by columns modulo `parts`.
// Rows are kept for a turn before they are read in another order than they were written in: such
// a load has to wait until the stores have left for the cache.
class FlagRows {
 public:
  static constexpr Index kRows = 4;  // that are in use: two pairs

  FlagRows(const Stripe& s, int parts)
      : part_(s.part / kWord),
        slot_(s.slot),
        parts_(parts),
        owned_(ceil_div(s.owned, 4)),
        rows_(kRows, RowBits(part_ * parts + 1)),
        packed_(kRows * (s.part * parts / 4 + 64)) {}

  RowBits& bits(Index row) { return rows_[row % kRows]; }

  // From the bits of a row to its bytes of one plane.
  void pack(Index row, Index slot, std::uint8_t* to) const {
    if (parts_ == 1) return pack_words<1>(rows_[row % kRows], slot, to);
    if (parts_ == 2) return pack_words<2>(rows_[row % kRows], slot, to);
    if (parts_ == 4) return pack_words<4>(rows_[row % kRows], slot, to);
    pack_singly(rows_[row % kRows], slot, to);
  }

  // The bytes of one plane, from column `begin` on; those outside [0, width) count as clamped.
  // No byte outside of [first, last) is read.
  void fetch(
      Index row, Index slot, const std::uint8_t* from, Index begin, Index width,
      const std::uint8_t* first, const std::uint8_t* last) {
    std::uint8_t* to = packed(row) + slot * slot_ * parts_ / 4;
    for (Index b = 0; b < slot_ * parts_ / 4; b += 8) {
      const Index column = begin + 4 * b;
      const std::uint8_t* at = from + floor_div(column, 4);
      const int shift = static_cast<int>(2 * (column & 3));
      std::uint64_t word = 0, next = 0;
      if (at >= first && at + 9 <= last) {
        std::memcpy(&word, at, 8);
        next = at[8];
      } else {
        for (int i = 0; i < 8; ++i)
          if (at + i >= first && at + i < last) word |= std::uint64_t{at[i]} << 8 * i;
        if (at + 8 >= first && at + 8 < last) next = at[8];
      }
      word = word >> shift | next << 1 << (63 - shift);
      const std::uint64_t inside = first_samples(width - column) & ~first_samples(-column);
      word = (word & inside) | (kOutside & ~inside);
      std::memcpy(to + b, &word, 8);
    }
  }

  // From the bytes to the bits, once all planes are fetched.
  void unpack(Index row) {
    if (parts_ == 1) return unpack_words<1>(packed(row), rows_[row % kRows]);
    if (parts_ == 2) return unpack_words<2>(packed(row), rows_[row % kRows]);
    if (parts_ == 4) return unpack_words<4>(packed(row), rows_[row % kRows]);
    unpack_singly(packed(row), rows_[row % kRows]);
  }

 private:
  static constexpr std::uint64_t kOutside = 0xAAAAAAAAAAAAAAAA;

  static std::uint64_t first_samples(Index n) {
    return n <= 0 ? 0 : n >= 32 ? ~std::uint64_t{0} : (std::uint64_t{1} << 2 * n) - 1;
  }

  // The first n bytes of a word, n of 1 and up.
  static void store_bytes(std::uint8_t* to, std::uint64_t word, Index n) {
    if (n >= 8) return std::memcpy(to, &word, 8), void();
    for (const int size : {4, 2, 1})
      if (n & size) {
        std::memcpy(to, &word, size);
        to += size;
        word >>= 8 * size;
      }
  }

  template <int kParts>
  void pack_words(const RowBits& bits, Index slot, std::uint8_t* to) const {
    constexpr int run = Spread<kParts>::kAtOnce;
    for (Index b = 0, k = slot * slot_; b < owned_; b += run * kParts / 4, k += run) {
      std::uint64_t word = 0;
      for (int p = 0; p < kParts; ++p) {
        word |= Spread<kParts>::apart(some_bits<run>(bits.low, p, k)) << 2 * p;
        word |= Spread<kParts>::apart(some_bits<run>(bits.high, p, k)) << (2 * p + 1);
      }
      store_bytes(to + b, word, owned_ - b);
    }
  }

  template <int kCount>
  std::uint64_t some_bits(const std::vector<std::uint16_t>& bits, int p, Index k) const {
    std::uint32_t two;
    std::memcpy(&two, bits.data() + p * part_ + k / kWord, sizeof two);
    return two >> k % kWord & ((1u << kCount) - 1);
  }

  template <int kParts>
  void unpack_words(const std::uint8_t* from, RowBits& bits) const {
    constexpr int run = Spread<kParts>::kAtOnce;
    std::uint16_t *low = bits.low.data(), *high = bits.high.data();
    for (Index v = 0; v < part_; ++v) {
      std::uint64_t lows[kParts] = {}, highs[kParts] = {};
      for (int k = 0; k < kWord; k += run) {
        std::uint64_t word;
        std::memcpy(&word, from + (v * kWord + k) * kParts / 4, 8);
        for (int p = 0; p < kParts; ++p) {
          lows[p] |= Spread<kParts>::together(word >> 2 * p) << k;
          highs[p] |= Spread<kParts>::together(word >> (2 * p + 1)) << k;
        }
      }
      for (int p = 0; p < kParts; ++p) {
        low[p * part_ + v] = static_cast<std::uint16_t>(lows[p]);
        high[p * part_ + v] = static_cast<std::uint16_t>(highs[p]);
      }
    }
  }

  void pack_singly(const RowBits& bits, Index slot, std::uint8_t* to) const {
    std::fill(to, to + owned_, std::uint8_t{0});
    for (Index m = 0; m < std::min(4 * owned_, slot_ * parts_); ++m) {
      const Index k = slot * slot_ + m / parts_, at = m % parts_ * part_ + k / kWord;
      const int low = bits.low[at] >> k % kWord & 1, high = bits.high[at] >> k % kWord & 1;
      to[m / 4] = static_cast<std::uint8_t>(to[m / 4] | (low | high << 1) << 2 * (m % 4));
    }
  }

  void unpack_singly(const std::uint8_t* from, RowBits& bits) const {
    std::fill(bits.low.begin(), bits.low.end(), std::uint16_t{0});
    std::fill(bits.high.begin(), bits.high.end(), std::uint16_t{0});
    for (Index m = 0; m < part_ * kWord * parts_; ++m) {
      const int code = from[m / 4] >> 2 * (m % 4);
      const Index k = m / parts_, at = m % parts_ * part_ + k / kWord;
      bits.low[at] = static_cast<std::uint16_t>(bits.low[at] | (code & 1) << k % kWord);
      bits.high[at] = static_cast<std::uint16_t>(bits.high[at] | (code >> 1 & 1) << k % kWord);
    }
  }

  std::uint8_t* packed(Index row) { return packed_.data() + row % kRows * (packed_.size() / kRows); }

  Index part_, slot_;  // words of a part, and samples of a plane in it
  int parts_;
  Index owned_;
  std::vector<RowBits> rows_;
  std::vector<std::uint8_t> packed_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
