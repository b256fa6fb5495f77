// Index arithmetic of resampling FIR filters, on one axis at a time.
//
// Upsampled sample m (after padding and filtering) sums c[k] * z[m + k - pad] over k, where
// z is the input with up - 1 zeros after each sample and c the filter as a correlation. Only every
// up-th k meets a sample that is not zero: the polyphase form (Karras et al. 2021, App. C).
#pragma once

#include "launch.h"
#include "portable.h"

namespace sg3 {

SG3_BOTH int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0)); }
SG3_BOTH int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
SG3_BOTH constexpr int round_up(int a, int b) { return (a + b - 1) / b * b; }

// The taps that meet the input at one upsampled sample: k = tap, tap + up, ..., on input samples
// first, first + 1, ...; clipped to [0, size).
struct Polyphase {
    int64_t first;
    int tap, count;
};

SG3_BOTH Polyphase polyphase(int64_t m, int pad, int up, int taps, int size) {
    int64_t first = ceil_div(m - pad, up);
    int64_t tap = first * up - (m - pad);
    int64_t count = tap < taps ? (taps - tap + up - 1) / up : 0;
    if (first < 0) {
        tap -= first * up;
        count += first;
        first = 0;
    }
    if (first + count > size) count = size - first;
    return {first, static_cast<int>(tap), static_cast<int>(count > 0 ? count : 0)};
}

// Where the filter keeps the k-th tap of its correlation form.
SG3_BOTH int tap_index(int k, int taps, int flip) { return flip ? k : taps - 1 - k; }

// A filter's value at correlation tap (kx, ky), without any gain.
template <class Acc>
SG3_DEVICE Acc filter_value(const Sg3Filter& f, int flip, int kx, int ky) {
    if (!f.taps) return Acc(1);
    const int x = tap_index(kx, f.width, flip), y = tap_index(ky, f.height, flip);
    if (f.separable) return static_cast<Acc>(f.taps[x]) * static_cast<Acc>(f.taps[y]);
    return f.taps[static_cast<int64_t>(y) * f.width + x];
}

SG3_BOTH bool is_identity(const Sg3Filter& f, int rate_x, int rate_y) {
    return !f.taps && rate_x == 1 && rate_y == 1;
}

// One axis of a tile. The tile's own upsampled samples begin `shift` before the first that the
// outputs need, on the input's grid, so that local sample L = up * n + p always has phase p:
// it sees inputs n + (p > 0) ... of the tile.
struct TileAxis {
    int64_t in_first;   // global index of the tile's first input sample
    int64_t mid_first;  // global index of local upsampled sample 0; may be negative
    int shift;          // local sample of the first one that output 0 needs, 0 <= shift < up
};

SG3_BOTH TileAxis tile_axis(int64_t out_first, int up, int down, int pad) {
    const int64_t need = out_first * down;
    const int64_t in_first = floor_div(need - pad, up);
    const int shift = static_cast<int>(need - pad - in_first * up);
    return {in_first, need - shift, shift};
}

// Phase p of a filter with up * n taps: its j-th tap in the correlation form.
SG3_BOTH constexpr int phase_tap(int p, int j, int up) { return (p == 0 ? 0 : up - p) + j * up; }

}  // namespace sg3
