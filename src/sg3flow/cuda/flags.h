// Two bits of every upsampled sample: what backward needs to know of the nonlinearity.
//
// Sample j of a row sits in bits 2 * (j % 4) of byte j / 4: bit 0 says that the slope applies
// (the sample is not above 0), bit 1 that it was clipped (its gradient is 0).
#pragma once

#include "launch.h"
#include "portable.h"

namespace sg3 {

constexpr unsigned SLOPED = 1, CLIPPED = 2;

// What a kernel does with flags, where that is compiled in.
enum FlagMode { NO_FLAGS, WRITE_FLAGS, READ_FLAGS };

template <class Real>
struct Bent {
    Real value;
    unsigned code;
};

// The nonlinearity before its gain; `limit` < 0 for none. NaN stays NaN, and counts as sloped.
template <class Real>
SG3_DEVICE Bent<Real> bend(Real v, Real slope, Real limit) {
    const bool sloped = !(v > Real(0));
    Real w = sloped ? v * slope : v;
    unsigned code = sloped ? SLOPED : 0;
    if (limit >= Real(0)) {
        if (w >= limit) {
            w = limit;
            code |= CLIPPED;
        } else if (w <= -limit) {
            w = -limit;
            code |= CLIPPED;
        }
    }
    return {w, code};
}

template <class Real>
SG3_DEVICE Real flag_factor(unsigned code, Real slope) {
    return code & CLIPPED ? Real(0) : (code & SLOPED ? slope : Real(1));
}

// The codes of 4 neighbors, row i and columns j ... j + 3 of the upsampled signal, one in each
// byte of the result. Outside the stored range nothing passes: CLIPPED.
SG3_DEVICE uint32_t read_codes(const uint8_t* flags, const Sg3FilteredLrelu& op, int64_t i,
                               int64_t j) {
    i += op.offset_y;
    j += op.offset_x;
    constexpr uint32_t none = 0x02020202u;
    if (i < 0 || i >= op.flags_h || j + 3 < 0 || j >= op.flags_w) return none;
    const uint8_t* row = flags + i * op.flags_stride;
    const int64_t byte = j >> 2;  // rounds down: j may be negative here
    uint32_t bits = byte >= 0 ? row[byte] : 0;
    if (byte + 1 < op.flags_stride) bits |= static_cast<uint32_t>(row[byte + 1]) << 8;
    bits >>= 2 * (j & 3);
    uint32_t codes = 0;
    SG3_UNROLL
    for (int n = 0; n < 4; ++n) {
        const bool inside = j + n >= 0 && j + n < op.flags_w;
        codes |= (inside ? (bits >> (2 * n)) & 3 : CLIPPED) << (8 * n);
    }
    return codes;
}

// The channel of a plane; 32 bits are enough, and a division in them is short.
SG3_BOTH int plane_channel(const Sg3FilteredLrelu& op, int64_t plane) {
    return static_cast<int>(static_cast<uint32_t>(plane) % static_cast<uint32_t>(op.channels));
}

// The byte of 4 codes; those beyond `valid` samples are left 0.
SG3_DEVICE uint8_t pack_codes(const uint8_t* codes, int64_t valid) {
    unsigned byte = 0;
    SG3_UNROLL
    for (int n = 0; n < 4; ++n) {
        if (n < valid) byte |= static_cast<unsigned>(codes[n]) << (2 * n);
    }
    return static_cast<uint8_t>(byte);
}

}  // namespace sg3
