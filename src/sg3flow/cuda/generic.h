// Any rates, any filters, any dtype: one sample at a time, straight from global memory.
//
// filtered_lrelu takes two steps here, through a workspace that holds the upsampled signal of some
// planes. Slower than the tiles by far; it serves ops that no tile kind fits.
#pragma once

#include "flags.h"
#include "geometry.h"
#include "types.h"

namespace sg3 {

// One sample of upfirdn2d, before the gain: the polyphase sum around upsampled sample (mx, my).
template <class Acc, class T>
SG3_DEVICE Acc fir_sample(const T* plane, int in_w, const Sg3Filter& f, int flip,
                          const Polyphase& px, const Polyphase& py, int up_x, int up_y, Acc bias) {
    Acc sum = 0;
    for (int j = 0; j < py.count; ++j) {
        const T* row = plane + (py.first + j) * in_w + px.first;
        const int ky = py.tap + j * up_y;
        for (int i = 0; i < px.count; ++i) {
            const Acc tap = filter_value<Acc>(f, flip, px.tap + i * up_x, ky);
            sum += tap * (static_cast<Acc>(widen(row[i])) + bias);
        }
    }
    return sum;
}

// Output sample `index` of upfirdn2d, in NCHW order.
template <class In, class Out>
SG3_DEVICE void upfirdn_sample(const Sg3Upfirdn& op, int64_t index) {
    using Acc = Sum<In>;
    const int64_t x = index % op.out_w, rest = index / op.out_w;
    const int64_t y = rest % op.out_h, plane = rest / op.out_h;
    const Polyphase px = polyphase(x * op.down_x, op.pad_x, op.up_x, op.filter.width, op.in_w);
    const Polyphase py = polyphase(y * op.down_y, op.pad_y, op.up_y, op.filter.height, op.in_h);
    const In* from = static_cast<const In*>(op.x) + plane * op.in_h * op.in_w;
    const Acc sum = fir_sample<Acc>(from, op.in_w, op.filter, op.flip, px, py, op.up_x,
                                    op.up_y, Acc(0));
    narrow(sum * static_cast<Acc>(op.gain), static_cast<Out*>(op.y) + index);
}

// 4 neighbors of the upsampled, activated signal: one byte of its flags. `index` counts such groups
// over the planes from `first_plane` on; `mid` receives those planes, times `gain`.
template <class T, class Mid>
SG3_DEVICE void bend_group(const Sg3FilteredLrelu& op, int64_t first_plane, int64_t index,
                           Mid* mid, double gain) {
    using Acc = Sum<T>;
    const int64_t groups = (op.mid_w + 3) / 4;
    const int64_t x = index % groups * 4, rest = index / groups;
    const int64_t y = rest % op.mid_h, local = rest / op.mid_h, plane = first_plane + local;
    const T* from = static_cast<const T*>(op.x) + plane * op.in_h * op.in_w;
    const int64_t flags_plane = plane * op.flags_h * static_cast<int64_t>(op.flags_stride);
    const Acc bias = op.b ? widen(static_cast<const T*>(op.b)[plane_channel(op, plane)]) : Acc(0);
    const Acc limit = static_cast<Acc>(op.limit);
    const Polyphase py = polyphase(y, op.pad_y, op.up_y, op.fu.height, op.in_h);
    const uint32_t read = op.read_flags ? read_codes(op.flags + flags_plane, op, y, x) : 0;
    uint8_t codes[4] = {0, 0, 0, 0};
    for (int n = 0; n < 4 && x + n < op.mid_w; ++n) {
        const Polyphase px = polyphase(x + n, op.pad_x, op.up_x, op.fu.width, op.in_w);
        Acc v = fir_sample<Acc>(from, op.in_w, op.fu, op.flip, px, py, op.up_x, op.up_y,
                                bias);
        v *= static_cast<Acc>(op.up_x) * static_cast<Acc>(op.up_y);
        if (op.read_flags) {
            v *= flag_factor((read >> (8 * n)) & 3, static_cast<Acc>(op.slope));
        } else {
            const Bent<Acc> bent = bend(v, static_cast<Acc>(op.slope), limit);
            v = bent.value;
            codes[n] = static_cast<uint8_t>(bent.code);
        }
        narrow(v * static_cast<Acc>(gain), mid + (local * op.mid_h + y) * op.mid_w + x + n);
    }
    if (!op.read_flags && op.flags) {
        op.flags[flags_plane + y * op.flags_stride + x / 4] = pack_codes(codes, op.mid_w - x);
    }
}

// The second step of filtered_lrelu on `planes` planes of the workspace, as one upfirdn2d.
template <class T>
SG3_BOTH Sg3Upfirdn second_step(const Sg3FilteredLrelu& op, int64_t first_plane, int64_t planes) {
    Sg3Upfirdn step = {};
    step.x = op.workspace;
    step.y = static_cast<T*>(op.y) + first_plane * op.out_h * op.out_w;
    step.filter = op.fd;
    step.planes = planes;
    step.type = op.type;
    step.in_w = op.mid_w;
    step.in_h = op.mid_h;
    step.out_w = op.out_w;
    step.out_h = op.out_h;
    step.up_x = step.up_y = 1;
    step.down_x = op.down_x;
    step.down_y = op.down_y;
    step.flip = op.flip;
    step.gain = op.gain;
    return step;
}

// Planes that go through the workspace at a time.
SG3_BOTH int64_t workspace_planes(const Sg3FilteredLrelu& op) {
    constexpr int64_t samples = int64_t(1) << 24;
    const int64_t plane = static_cast<int64_t>(op.mid_w) * op.mid_h;
    const int64_t fit = samples / (plane > 0 ? plane : 1);
    return fit < 1 ? 1 : (fit < op.planes ? fit : op.planes);
}

}  // namespace sg3
