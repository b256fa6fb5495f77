// The kinds of tiles that StyleGAN3's T and R use at any resolution: (up, taps) before and
// (down, taps) after the nonlinearity, as a layer has them and, exchanged, as its gradient does.
#pragma once

#include <type_traits>

#include "tile_shape.h"

namespace sg3 {

template <int Up, int UpTaps, bool UpRadial, int Down, int DownTaps, bool DownRadial>
using PlainTile = TileShape<Up, UpTaps, UpRadial, Down, DownTaps, DownRadial, Down == 4 ? 16 : 32,
                            Down == 4 ? 12 : 32, 128>;

template <class S>
struct Kind {
    using Shape = S;
};

inline bool filter_fits(const Sg3Filter& f, int taps, bool radial) {
    const bool separable = f.separable != 0;
    return f.taps && f.width == taps && f.height == taps && separable != radial;
}

template <class S>
bool kind_fits(const Sg3FilteredLrelu& op) {
    return op.up_x == S::UP && op.up_y == S::UP && op.down_x == S::DOWN && op.down_y == S::DOWN &&
           filter_fits(op.fu, S::UP_TAPS, S::UP_RADIAL) &&
           filter_fits(op.fd, S::DOWN_TAPS, S::DOWN_RADIAL);
}

// Calls visit(Kind<S>, std::bool_constant<reads flags>) for the kind that fits; false for none.
// Kinds that only a gradient has exist with flags to read alone.
template <class Visit>
bool visit_kind(const Sg3FilteredLrelu& op, const Visit& visit) {
    bool done = false;
    const auto attempt = [&](auto kind, auto gradient_only) {
        using S = typename decltype(kind)::Shape;
        if (done || !kind_fits<S>(op)) return;
        if (op.read_flags) {
            visit(kind, std::true_type());
            done = true;
        } else if constexpr (!decltype(gradient_only)::value) {
            visit(kind, std::false_type());
            done = true;
        }
    };
    attempt(Kind<PlainTile<2, 12, false, 2, 12, false>>(), std::false_type());
    attempt(Kind<PlainTile<2, 12, false, 2, 12, true>>(), std::false_type());
    attempt(Kind<PlainTile<4, 24, false, 2, 12, false>>(), std::false_type());
    attempt(Kind<PlainTile<4, 24, false, 2, 12, true>>(), std::false_type());
    attempt(Kind<PlainTile<2, 12, true, 2, 12, false>>(), std::true_type());
    attempt(Kind<PlainTile<2, 12, false, 4, 24, false>>(), std::true_type());
    attempt(Kind<PlainTile<2, 12, true, 4, 24, false>>(), std::true_type());
    return done;
}

}  // namespace sg3
