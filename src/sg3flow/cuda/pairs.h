// The nonlinearity on two samples at a time, in the type itself: what half precision is packed for.
#pragma once

#include "flags.h"
#include "matrix.h"

namespace sg3 {

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
struct Pairs {
    using Two = typename TwoOf<T>::type;
    static SG3_DEVICE Two two(uint32_t bits) { return *reinterpret_cast<const Two*>(&bits); }

    static SG3_DEVICE uint32_t add(uint32_t a, uint32_t b) {
        return bits_of(__hadd2(two(a), two(b)));
    }
    static SG3_DEVICE uint32_t times(uint32_t a, uint32_t b) {
        return bits_of(__hmul2(two(a), two(b)));
    }
    // The larger one; of a NaN and a number, the number.
    static SG3_DEVICE uint32_t larger(uint32_t a, uint32_t b) {
        return bits_of(__hmax2(two(a), two(b)));
    }
    static SG3_DEVICE uint32_t magnitude(uint32_t v) { return bits_of(__habs2(two(v))); }
    // NaN stays NaN.
    static SG3_DEVICE uint32_t clip(uint32_t v, uint32_t limit) {
        const uint32_t below = bits_of(__hmin2_nan(two(v), two(limit)));
        return bits_of(__hmax2_nan(two(below), __hneg2(two(limit))));
    }
    // 1 where it holds, else 0.
    static SG3_DEVICE uint32_t is_not_above_0(uint32_t v) {
        return bits_of(__hleu2(two(v), two(0)));
    }
    static SG3_DEVICE uint32_t reaches(uint32_t v, uint32_t limit) {
        return bits_of(__hge2(__habs2(two(v)), two(limit)));
    }
    // a + 2 * b
    static SG3_DEVICE uint32_t plus_twice(uint32_t a, uint32_t b) {
        return bits_of(__hfma2(two(b), two(pack(2.0f, 2.0f, T())), two(a)));
    }
    static SG3_DEVICE float largest(uint32_t v) {
        const float a = widen(two(v).x), b = widen(two(v).y);
        return a > b ? a : b;
    }
    // Bit by bit a where `mask` is 0, b where it is 1.
    static SG3_DEVICE uint32_t choose(uint32_t a, uint32_t b, uint32_t mask) {
        return (a & ~mask) | (b & mask);
    }
};

// Bytes of low (0 to 3) and high (4 to 7), those that the digits of `selector` name; 8 more stands
// for a byte of copies of that byte's sign.
SG3_DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t picked;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "r"(selector));
    return picked;
}
// The low word of high:low after a shift to the right by less than 32 bits.
SG3_DEVICE uint32_t shift_right(uint32_t low, uint32_t high, int bits) {
    return __funnelshift_r(low, high, bits);
}
SG3_DEVICE uint32_t bits_of(float v) { return __float_as_uint(v); }

#else

template <class T>
struct Pairs {
    using Two = HostPair<T>;

    template <class Work>
    static Two both(const Work& work) {
        Two result;
        for (int i = 0; i < 2; ++i) narrow(static_cast<float>(work(i)), &result.v[i]);
        return result;
    }
    static Two add(Two a, Two b) {
        return both([&](int i) { return widen(a.v[i]) + widen(b.v[i]); });
    }
    static Two times(Two a, Two b) {
        return both([&](int i) { return widen(a.v[i]) * widen(b.v[i]); });
    }
    static Two larger(Two a, Two b) {
        return both([&](int i) { return std::fmax(widen(a.v[i]), widen(b.v[i])); });
    }
    static Two magnitude(Two v) {
        return both([&](int i) { return std::fabs(widen(v.v[i])); });
    }
    static Two clip(Two v, Two limit) {
        return both([&](int i) {
            const float to = widen(limit.v[i]), x = widen(v.v[i]);
            return x > to ? to : (x < -to ? -to : x);
        });
    }
    static Two is_not_above_0(Two v) {
        return both([&](int i) { return !(widen(v.v[i]) > 0); });
    }
    static Two reaches(Two v, Two limit) {
        return both([&](int i) { return std::fabs(widen(v.v[i])) >= widen(limit.v[i]); });
    }
    static Two plus_twice(Two a, Two b) {
        return both([&](int i) { return widen(a.v[i]) + 2 * widen(b.v[i]); });
    }
    static float largest(Two v) { return std::fmax(widen(v.v[0]), widen(v.v[1])); }
    static Two choose(Two a, Two b, uint32_t mask) {
        return {{mask & 1 ? b.v[0] : a.v[0], mask >> 16 & 1 ? b.v[1] : a.v[1]}};
    }
};

inline uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t all = static_cast<uint64_t>(high) << 32 | low;
    uint32_t picked = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t digit = selector >> (4 * i) & 0xf;
        const uint32_t byte = static_cast<uint32_t>(all >> (8 * (digit & 7))) & 0xff;
        const uint32_t signs = byte & 0x80 ? 0xff : 0;
        picked |= (digit & 8 ? signs : byte) << (8 * i);
    }
    return picked;
}
inline uint32_t shift_right(uint32_t low, uint32_t high, int bits) {
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (bits & 31));
}
inline uint32_t bits_of(float v) { return load_word<uint32_t>(&v); }

#endif

template <class T>
SG3_DEVICE Pair<T> same_pair(float v) {
    return pack(v, v, T());
}

// The nonlinearity before its gain. `Clip` says whether a sample may reach the limit.
template <class T>
struct PairBend {
    Pair<T> slope, limit;

    SG3_DEVICE PairBend(float slope, float limit)
        : slope(same_pair<T>(slope)), limit(same_pair<T>(limit)) {}

    // Slopes are 1 at most, so that it is the larger of the two.
    SG3_DEVICE Pair<T> lean(Pair<T> v) const {
        return Pairs<T>::larger(v, Pairs<T>::times(v, slope));
    }

    // Codes of leaning samples, as numbers.
    template <bool Clip>
    SG3_DEVICE Pair<T> code(Pair<T> v) const {
        const Pair<T> sloped = Pairs<T>::is_not_above_0(v);
        return Clip ? Pairs<T>::plus_twice(sloped, Pairs<T>::reaches(v, limit)) : sloped;
    }
};

}  // namespace sg3
