// The nonlinearity between the two filters, and the two bits a sample that backward needs of it:
// bit 0 the slope applies (v <= 0), bit 1 the clamp is reached (slope 0).
#pragma once

#include <algorithm>
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

// Activates, and leaves the two bits of each sample in a byte.
class Record : public Activate {
 public:
  Record(float gain, float slope, float clamp, std::uint8_t* codes)
      : Activate(gain, slope, clamp), codes_(codes) {}

  Vec operator()(Vec v, std::int64_t k) const {
    const IntVec low = v > 0;
    const Vec y = v * (low ? positive_ : negative_);
    const IntVec high = (y >= limit_) | (y <= -limit_);
    const ByteVec code = __builtin_convertvector((~low & 1) | (high & 2), ByteVec);
    std::memcpy(codes_ + k, &code, sizeof code);
    return clipped(y);
  }

 private:
  std::uint8_t* codes_;
};

// Multiplies by the slope that the bits stand for.
class Replay {
 public:
  Replay(float gain, float slope, const std::uint8_t* codes)
      : positive_(splat(gain)), negative_(splat(gain * slope)), codes_(codes) {}

  Vec operator()(Vec v, std::int64_t k) const {
    ByteVec bytes;
    std::memcpy(&bytes, codes_ + k, sizeof bytes);
    const IntVec code = __builtin_convertvector(bytes, IntVec);
    const Vec slope = (code & 1) != 0 ? negative_ : positive_;
    return (code & 2) != 0 ? Vec{} : v * slope;
  }

 private:
  Vec positive_, negative_;
  const std::uint8_t* codes_;
};

// The bits of one middle row: packed as four samples a byte in the order of the columns, plane by
// plane, or one byte a sample in the order of the row.
class FlagRow {
 public:
  FlagRow(const Stripe& s, int parts)
      : part_(s.part),
        slot_(s.slot),
        parts_(parts),
        owned_(ceil_div(s.owned, 4)),
        codes_(s.part * parts + 64),
        shifted_(s.slot * parts / 4 + 64),
        nibbles_(s.slot + 64) {}

  std::uint8_t* codes() { return codes_.data(); }

  // Sizes and pointers are copied first: writes of bytes could change any member, as far as the
  // compiler knows.
  void pack(Index slot, std::uint8_t* __restrict to) {
    const Index part = part_, width = slot_, owned = owned_;
    const std::uint8_t* c = codes_.data() + slot * width;
    if (parts_ == 4) {
      for (Index b = 0; b < owned; ++b)
        to[b] = static_cast<std::uint8_t>(
            c[b] | c[part + b] << 2 | c[2 * part + b] << 4 | c[3 * part + b] << 6);
    } else if (parts_ == 2) {
      std::uint8_t* __restrict n = nibbles_.data();
      for (Index k = 0; k < width; ++k) n[k] = static_cast<std::uint8_t>(c[k] | c[part + k] << 2);
      for (Index b = 0; b < owned; ++b)
        to[b] = static_cast<std::uint8_t>(n[2 * b] | n[2 * b + 1] << 4);
    } else {
      for (Index b = 0; b < owned; ++b) {
        int byte = 0;
        for (int i = 3; i >= 0; --i) byte = byte << 2 | code(c, 4 * b + i);
        to[b] = static_cast<std::uint8_t>(byte);
      }
    }
  }

  // Columns from `begin` on; those outside [0, width) count as clamped.
  void unpack(Index slot, const std::uint8_t* from, Index begin, Index width) {
    shift(from, begin, width);
    const Index part = part_, count = slot_;
    const std::uint8_t* s = shifted_.data();
    std::uint8_t* __restrict c = codes_.data() + slot * count;
    if (parts_ == 4) {
      for (int j = 0; j < 4; ++j)
        for (Index b = 0; b < count; ++b)
          c[j * part + b] = static_cast<std::uint8_t>(s[b] >> 2 * j);
    } else if (parts_ == 2) {
      std::uint8_t* __restrict n = nibbles_.data();
      for (Index b = 0; b < (count + 1) / 2; ++b) {
        n[2 * b] = s[b];
        n[2 * b + 1] = s[b] >> 4;
      }
      for (Index k = 0; k < count; ++k) {
        c[k] = n[k];
        c[part + k] = n[k] >> 2;
      }
    } else {
      const int parts = parts_;
      for (Index m = 0; m < count * parts; ++m)
        c[m % parts * part + m / parts] = static_cast<std::uint8_t>(s[m / 4] >> 2 * (m % 4));
    }
  }

 private:
  static constexpr std::uint8_t kOutside = 0xAA;

  int code(const std::uint8_t* codes, Index m) const {  // of column m, clamped beyond the row
    return m / parts_ < slot_ ? codes[m % parts_ * part_ + m / parts_] & 3 : 2;
  }

  void shift(const std::uint8_t* from, Index begin, Index width) {
    const Index bytes = ceil_div(width, 4), count = ceil_div(slot_ * parts_, 4) + 1;
    const Index first = floor_div(begin, 4);
    const int bits = static_cast<int>(2 * (begin - 4 * first));
    raw_.assign(count + 1, kOutside);
    const Index a = std::max<Index>(first, 0), b = std::min(first + count + 1, bytes);
    if (a < b) std::copy(from + a, from + b, raw_.begin() + (a - first));
    if (a < b && b == bytes && width % 4) {
      std::uint8_t& last = raw_[b - 1 - first];
      const int kept = (1 << 2 * (width % 4)) - 1;
      last = static_cast<std::uint8_t>((last & kept) | (kOutside & ~kept));
    }
    const std::uint8_t* raw = raw_.data();
    std::uint8_t* __restrict to = shifted_.data();
    for (Index i = 0; i < count; ++i)
      to[i] = static_cast<std::uint8_t>((raw[i] | raw[i + 1] << 8) >> bits);
  }

  Index part_, slot_;
  int parts_;
  Index owned_;
  std::vector<std::uint8_t> codes_, shifted_, nibbles_, raw_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
