// upfirdn2d by a 4x4 filter, with the rates 1 and 2: loops of constant length.
#pragma once

#include "generic.h"

namespace sg3 {

constexpr int SMALL_TAPS = 4;

// 1: no resampling, 2: up 2, 3: down 2, 0: another filter or other rates.
inline int small_kind(const Sg3Upfirdn& op) {
    const bool fits = op.filter.taps && op.filter.width == SMALL_TAPS &&
                      op.filter.height == SMALL_TAPS && op.up_x == op.up_y &&
                      op.down_x == op.down_y && op.type != SG3_FLOAT64 &&
                      static_cast<int64_t>(op.in_w) * op.in_h < (int64_t(1) << 31);
    if (!fits) return 0;
    if (op.up_x == 1 && op.down_x == 1) return 1;
    if (op.up_x == 2 && op.down_x == 1) return 2;
    return op.up_x == 1 && op.down_x == 2 ? 3 : 0;
}

// Tap i of the filter as a correlation, times the gain.
SG3_DEVICE float small_tap(const Sg3Upfirdn& op, int i) {
    const double gain = op.gain;
    return static_cast<float>(
        gain * filter_value<float>(op.filter, op.flip, i % SMALL_TAPS, i / SMALL_TAPS));
}

// a / Up, rounded down; Up is 1 or 2.
template <int Up>
SG3_DEVICE int floor_half(int a) {
    return Up == 2 ? a >> 1 : a;
}

// `base` is added to the sample.
template <class T, int Up, int Down>
SG3_DEVICE void small_sample(const Sg3Upfirdn& op, const float* taps, int64_t index,
                             float base = 0.0f) {
    constexpr int COUNT = SMALL_TAPS / Up;
    const int64_t rest = index / op.out_w, plane = rest / op.out_h;
    const int mx = static_cast<int>(index - rest * op.out_w) * Down - op.pad_x;
    const int my = static_cast<int>(rest - plane * op.out_h) * Down - op.pad_y;
    const int x0 = -floor_half<Up>(-mx), y0 = -floor_half<Up>(-my);
    const float* tap = taps + (y0 * Up - my) * SMALL_TAPS + (x0 * Up - mx);
    const T* from = static_cast<const T*>(op.x) + plane * op.in_h * op.in_w;
    float sum = base;
    SG3_UNROLL
    for (int j = 0; j < COUNT; ++j) {
        const int y = y0 + j;
        SG3_UNROLL
        for (int i = 0; i < COUNT; ++i) {
            const int x = x0 + i;
            const bool inside = y >= 0 && y < op.in_h && x >= 0 && x < op.in_w;
            const float v = inside ? widen(from[y * op.in_w + x]) : 0.0f;
            sum += tap[(j * SMALL_TAPS + i) * Up] * v;
        }
    }
    narrow(sum, static_cast<T*>(op.y) + index);
}

}  // namespace sg3
