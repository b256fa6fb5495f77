// The nonlinearity on two samples at a time, in the type itself: what half precision is packed for.
#pragma once

#include "flags.h"
#include "matrix.h"

namespace sg3 {

// In shared memory a code to read is kept as its selector, 0x10 + 0x22 * code: the two bytes of the
// factor (1, slope, 0, 0), as the byte permutation of the hardware counts them.
SG3_DEVICE uint32_t selectors(uint32_t codes) { return codes * 0x22u + 0x10101010u; }

#if defined(__CUDACC__)

SG3_DEVICE uint32_t bits_of(__half2 v) { return *reinterpret_cast<const uint32_t*>(&v); }
SG3_DEVICE uint32_t bits_of(__nv_bfloat162 v) { return *reinterpret_cast<const uint32_t*>(&v); }

template <class T>
struct TwoOf;
template <>
struct TwoOf<__half> {
    using type = __half2;
};
template <>
struct TwoOf<__nv_bfloat16> {
    using type = __nv_bfloat162;
};

template <class T>
struct PairBend {
    using Two = typename TwoOf<T>::type;
    uint32_t slope, limit, one_slope;

    // A negative limit, for none, becomes a NaN, which nothing reaches.
    SG3_DEVICE PairBend(float slope_, float limit_)
        : slope(pack(slope_, slope_, T())),
          limit(limit_ >= 0 ? pack(limit_, limit_, T()) : 0x7fff7fffu),
          one_slope(pack(1.0f, slope_, T())) {}

    static SG3_DEVICE Two two(uint32_t bits) { return *reinterpret_cast<const Two*>(&bits); }

    // `codes` receives the code of the first sample in its lower half, of the second in its upper.
    SG3_DEVICE uint32_t bend(uint32_t v, uint32_t* codes) const {
        const uint32_t above = __hgt2_mask(two(v), two(0));
        const uint32_t low = bits_of(__hmul2(two(v), two(slope)));
        const uint32_t w = (v & above) | (low & ~above);
        const uint32_t clipped = __hge2_mask(__habs2(two(w)), two(limit));
        *codes = (~above & 0x00010001u) | (clipped & 0x00020002u);
        const uint32_t edge = (w & 0x80008000u) | limit;
        return (edge & clipped) | (w & ~clipped);
    }

    // Times what the selectors in the two lower bytes of `selector` stand for.
    SG3_DEVICE uint32_t scale(uint32_t v, uint32_t selector) const {
        return bits_of(__hmul2(two(v), two(__byte_perm(one_slope, 0, selector))));
    }
};

#else

template <class T>
struct PairBend {
    float slope, limit;

    PairBend(float slope_, float limit_) : slope(rounded<T>(slope_)), limit(rounded<T>(limit_)) {}

    HostPair<T> bend(HostPair<T> v, uint32_t* codes) const {
        *codes = 0;
        for (int i = 0; i < 2; ++i) {
            const Bent<float> bent = sg3::bend<float>(widen(v.v[i]), slope, limit);
            narrow(bent.value, &v.v[i]);
            *codes |= bent.code << (16 * i);
        }
        return v;
    }

    HostPair<T> scale(HostPair<T> v, uint32_t selector) const {
        for (int i = 0; i < 2; ++i) {
            const unsigned code = (((selector >> (8 * i)) & 0xff) - 0x10) / 0x22;
            narrow(widen(v.v[i]) * flag_factor(code, slope), &v.v[i]);
        }
        return v;
    }
};

#endif

}  // namespace sg3
