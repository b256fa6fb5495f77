// The nonlinearity between the two filters, and the two bits a sample that backward needs of it:
// bit 0 the slope applies (v <= 0), bit 1 the clamp is reached (slope 0).
#pragma once

#include <limits>
#include <vector>

#include "simd.h"

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

// The bits of one split row of `parts` * `length` samples: packed as four samples a byte in the
// order of the columns, or one byte a sample in the order of the row.
class FlagRow {
 public:
  FlagRow(std::int64_t length, int parts, std::int64_t owned)
      : length_(length),
        parts_(parts),
        owned_((owned + 3) / 4),
        codes_(length * parts + 64),
        shifted_(length * parts / 4 + 64),
        nibbles_(length + 64) {}

  std::uint8_t* codes() { return codes_.data(); }

  void pack(std::uint8_t* to) {
    const std::uint8_t* c = codes_.data();
    if (parts_ == 4) {
      for (std::int64_t b = 0; b < owned_; ++b)
        to[b] = static_cast<std::uint8_t>(
            c[b] | c[length_ + b] << 2 | c[2 * length_ + b] << 4 | c[3 * length_ + b] << 6);
    } else if (parts_ == 2) {
      std::uint8_t* n = nibbles_.data();
      for (std::int64_t k = 0; k < length_; ++k)
        n[k] = static_cast<std::uint8_t>(c[k] | c[length_ + k] << 2);
      for (std::int64_t b = 0; b < owned_; ++b)
        to[b] = static_cast<std::uint8_t>(n[2 * b] | n[2 * b + 1] << 4);
    } else {
      for (std::int64_t b = 0; b < owned_; ++b) {
        int byte = 0;
        for (int i = 3; i >= 0; --i) byte = byte << 2 | code(4 * b + i);
        to[b] = static_cast<std::uint8_t>(byte);
      }
    }
  }

  // Columns from `begin` on; those outside [0, width) count as clamped.
  void unpack(const std::uint8_t* from, std::int64_t begin, std::int64_t width) {
    shift(from, begin, width);
    const std::uint8_t* s = shifted_.data();
    std::uint8_t* c = codes_.data();
    if (parts_ == 4) {
      for (int j = 0; j < 4; ++j)
        for (std::int64_t b = 0; b < length_; ++b) c[j * length_ + b] = s[b] >> 2 * j;
    } else if (parts_ == 2) {
      for (std::int64_t b = 0; b < length_ / 2; ++b) {
        c[2 * b] = s[b];
        c[2 * b + 1] = s[b] >> 4;
        c[length_ + 2 * b] = s[b] >> 2;
        c[length_ + 2 * b + 1] = s[b] >> 6;
      }
    } else {
      for (std::int64_t m = 0; m < length_ * parts_; ++m)
        c[m % parts_ * length_ + m / parts_] = s[m / 4] >> 2 * (m % 4);
    }
  }

 private:
  static constexpr std::uint8_t kOutside = 0xAA;

  int code(std::int64_t m) const {  // of column m, clamped beyond the row
    return m / parts_ < length_ ? codes_[m % parts_ * length_ + m / parts_] & 3 : 2;
  }

  void shift(const std::uint8_t* from, std::int64_t begin, std::int64_t width) {
    const std::int64_t bytes = (width + 3) / 4, count = (length_ * parts_ + 3) / 4 + 1;
    const std::int64_t first = begin >= 0 ? begin / 4 : -((3 - begin) / 4);
    const int bits = static_cast<int>(2 * (begin - 4 * first));
    raw_.assign(count + 1, kOutside);
    const std::int64_t a = std::max<std::int64_t>(first, 0), b = std::min(first + count + 1, bytes);
    if (a < b) std::memcpy(raw_.data() + (a - first), from + a, b - a);
    if (a < b && b == bytes && width % 4) {
      std::uint8_t& last = raw_[b - 1 - first];
      const int kept = (1 << 2 * (width % 4)) - 1;
      last = static_cast<std::uint8_t>((last & kept) | (kOutside & ~kept));
    }
    for (std::int64_t i = 0; i < count; ++i)
      shifted_[i] = static_cast<std::uint8_t>((raw_[i] | raw_[i + 1] << 8) >> bits);
  }

  std::int64_t length_;
  int parts_;
  std::int64_t owned_;
  std::vector<std::uint8_t> codes_, shifted_, nibbles_, raw_;
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
