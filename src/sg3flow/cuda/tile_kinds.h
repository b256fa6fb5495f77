// The kinds of tiles that StyleGAN3's T and R use at any resolution: (up, taps) before and
// (down, taps) after the nonlinearity, as a layer has them and, exchanged, as its gradient does.
#pragma once

#include "band_tile.h"
#include "plain_tile.h"

namespace sg3 {

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

// Whether S fits, and if so visit(Kind<S>, std::bool_constant<reads flags>). Kinds that only a
// gradient has exist with flags to read alone.
template <class S, bool GradientOnly, class Visit>
bool attempt(const Sg3FilteredLrelu& op, const Visit& visit) {
    if (!kind_fits<S>(op)) return false;
    if (op.read_flags) {
        visit(Kind<S>(), std::true_type());
        return true;
    }
    if constexpr (!GradientOnly) {
        visit(Kind<S>(), std::false_type());
        return true;
    }
    return false;
}

// Visits the kind of plain tile that fits; false for none.
template <class Visit>
bool visit_kind(const Sg3FilteredLrelu& op, const Visit& visit) {
    return attempt<PlainTile<2, 12, false, 2, 12, false>, false>(op, visit) ||
           attempt<PlainTile<2, 12, false, 2, 12, true>, false>(op, visit) ||
           attempt<PlainTile<4, 24, false, 2, 12, false>, false>(op, visit) ||
           attempt<PlainTile<4, 24, false, 2, 12, true>, false>(op, visit) ||
           attempt<PlainTile<2, 12, true, 2, 12, false>, true>(op, visit) ||
           attempt<PlainTile<2, 12, false, 4, 24, false>, true>(op, visit) ||
           attempt<PlainTile<2, 12, true, 4, 24, false>, true>(op, visit);
}

// Whether tiles on the tensor cores can compute it: their nonlinearity takes the larger of a sample
// and the slope times it, whose sign must still be the sample's, and they count the outputs of a
// plane in 32 bits.
inline bool suits_bands(const Sg3FilteredLrelu& op) {
    constexpr int64_t most = int64_t(1) << 31;
    const bool bends = op.read_flags || (op.slope >= 0 && op.slope <= 1);
    return bends && static_cast<int64_t>(op.out_w) * op.out_h < most;
}

// The same for the tiles on the tensor cores.
template <class Visit>
bool visit_band(const Sg3FilteredLrelu& op, const Visit& visit) {
    if (!suits_bands(op)) return false;
    return attempt<BandShape<2, 12, false, 2, 12, false>, false>(op, visit) ||
           attempt<BandShape<4, 24, false, 2, 12, false>, false>(op, visit) ||
           attempt<BandShape<2, 12, false, 4, 24, false>, true>(op, visit) ||
           attempt<BandShape<2, 12, false, 2, 12, true>, false>(op, visit) ||
           attempt<BandShape<4, 24, false, 2, 12, true>, false>(op, visit) ||
           attempt<BandShape<2, 12, true, 2, 12, false>, true>(op, visit) ||
           attempt<BandShape<2, 12, true, 4, 24, false>, true>(op, visit);
}

}  // namespace sg3
