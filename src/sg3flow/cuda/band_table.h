// The filters as fragments of banded matrices: a table in shared memory, which every warp of the
// block takes its weights from. The phase of the tile's first upsampled sample, and the column that
// the tile leads by, go into the upsampling weights.
#pragma once

#include "band_shape.h"

namespace sg3 {

template <class S, class T>
struct BandTable {
    using Block = BandBlock<S, T>;
    using Memory = typename Block::Memory;
    const Block& block;
    const Sg3FilteredLrelu& op;
    float gain;

    SG3_DEVICE explicit BandTable(const Block& block)
        : block(block), op(block.op), gain(static_cast<float>(op.gain)) {}

    SG3_DEVICE void load(int thread) const {
        for (int i = thread; i < Memory::TABLE * 32; i += block.plan.warps * 32) {
            block.mem.table[i] = pair(i / 128 * 4 + i % 4, i / 4 % 32);
        }
    }

    SG3_DEVICE Pair<T> pair(int reg, int lane) const {
        if (reg < Memory::ACROSS) return S::UP_RADIAL ? up_radial(reg, lane) : up(reg, lane);
        if (reg < Memory::ALONG) return across(reg - Memory::ACROSS, lane);
        if (reg >= Memory::POWERS) return powers(reg - Memory::POWERS, lane);
        reg -= Memory::ALONG;
        return S::DOWN_RADIAL ? down_radial(reg, lane) : along(reg, lane);
    }

    // Upsampling tap of sample `mid` after the first one, of phase `shift`, for input `in`; -1 for
    // none.
    static SG3_DEVICE int up_tap(int mid, int shift, int in) {
        const int p = (mid + shift) % S::UP, j = in - (mid + shift) / S::UP - (p > 0);
        return j >= 0 && j < S::PHASE_TAPS ? phase_tap(p, j, S::UP) : -1;
    }
    SG3_DEVICE float up_weight(int mid, int shift, int in) const {
        const int tap = up_tap(mid, shift, in);
        return tap < 0 ? 0.0f : op.fu.taps[tap_index(tap, S::UP_TAPS, op.flip)] * S::UP;
    }
    SG3_DEVICE float down_weight(int tap) const {
        if (tap < 0 || tap >= S::DOWN_TAPS) return 0.0f;
        return op.fd.taps[tap_index(tap, S::DOWN_TAPS, op.flip)];
    }

    // Along as A: 16 upsampled rows, 16 input rows. Across as B: 16 inputs, 8 upsampled columns,
    // for the one or two blocks of a strip; for one, also with the halves of the inputs exchanged.
    SG3_DEVICE Pair<T> up(int reg, int lane) const {
        if (reg < Memory::UP_X) {
            const PairPlace p = place_in_a(reg, lane);
            const int shift = block.at.ay.shift;
            return pack(up_weight(p.row, shift, p.col), up_weight(p.row, shift, p.col + 1), T());
        }
        const PairPlace p = place_in_b(reg % 2, lane);
        const int n = (reg - Memory::UP_X) / 2, turned = n / S::UP * 8;
        const int mid = n % S::UP * 8 + p.col, in = (p.row + turned) % 16 - block.lead;
        const int shift = block.at.ax.shift;
        return pack(up_weight(mid, shift, in), up_weight(mid, shift, in + 1), T());
    }

    // As B: 16 inputs of a row, 8 upsampled columns; of each phase and row, 8 columns and 8.
    SG3_DEVICE Pair<T> up_radial(int reg, int lane) const {
        const PairPlace p = place_in_b(reg % 2, lane);
        const int row = reg / 4, mid = reg / 2 % 2 * 8 + p.col, in = p.row - block.lead;
        return pack(radial_weight(row, mid, in), radial_weight(row, mid, in + 1), T());
    }
    SG3_DEVICE float radial_weight(int row, int mid, int in) const {
        const int kx = up_tap(mid, block.at.ax.shift, in);
        if (kx < 0) return 0.0f;
        const int phase = (row / S::PHASE_TAPS + block.at.ay.shift) % S::UP;
        const int ky = phase_tap(phase, row % S::PHASE_TAPS, S::UP);
        return op.fu.taps[tap_index(ky, S::UP_TAPS, op.flip) * S::UP_TAPS +
                          tap_index(kx, S::UP_TAPS, op.flip)] *
               (S::UP * S::UP);
    }

    // As B: 16 upsampled columns, the 8 outputs before them or from their first one on.
    SG3_DEVICE Pair<T> across(int reg, int lane) const {
        const PairPlace p = place_in_b(reg % 2, lane);
        const int before = reg / 2 % 2 == 0 ? 8 : 0;
        const int tap = reg / 4 * 16 + p.row - (p.col - before) * S::DOWN;
        return pack(down_weight(tap), down_weight(tap + 1), T());
    }

    // As A: 16 output rows, 16 upsampled rows.
    SG3_DEVICE Pair<T> along(int reg, int lane) const {
        const PairPlace p = place_in_a(reg % 4, lane);
        const int tap = reg / 4 * 16 + p.col - p.row * S::DOWN;
        return pack(gain * down_weight(tap), gain * down_weight(tap + 1), T());
    }

    // As B: 16 upsampled columns, 8 outputs; for each row of the filter.
    SG3_DEVICE Pair<T> down_radial(int reg, int lane) const {
        const PairPlace p = place_in_b(reg % 2, lane);
        const int step = reg / 2 % S::OUT_STEPS, ky = reg / 2 / S::OUT_STEPS;
        const int kx = step * 16 + p.row - p.col * S::DOWN;
        return pack(radial(kx, ky), radial(kx + 1, ky), T());
    }
    SG3_DEVICE float radial(int kx, int ky) const {
        if (kx < 0 || kx >= S::DOWN_TAPS) return 0.0f;
        return gain * op.fd.taps[tap_index(ky, S::DOWN_TAPS, op.flip) * S::DOWN_TAPS +
                                 tap_index(kx, S::DOWN_TAPS, op.flip)];
    }

    // As B, for the four blocks of a group: 16 columns, 8 groups of 8 columns in the four blocks.
    static SG3_DEVICE Pair<T> powers(int reg, int lane) {
        const PairPlace p = place_in_b(reg % 2, lane);
        const bool own = p.col == reg;  // which is 2 * block + the half of its columns
        const float first = own ? static_cast<float>(1 << (2 * (p.row % 8))) : 0.0f;
        return pack(first, 4 * first, T());
    }

    // No upsampled sample is larger than the largest input times this, rounded as they may be.
    SG3_DEVICE float up_bound() const {
        float most = 0;
        SG3_UNROLL
        for (int p = 0; p < S::UP; ++p) {
            float sum = 0;
            SG3_UNROLL
            for (int j = 0; j < S::PHASE_TAPS; ++j) sum += fabsf(op.fu.taps[p + j * S::UP] * S::UP);
            most = sum > most ? sum : most;
        }
        return most * most * 1.02f;
    }
};

}  // namespace sg3
