// What all tiles on the tensor cores share: loading, the nonlinearity, storing, and the table of the
// filters' fragments, which every warp of the block takes its weights from.
#pragma once

#include "codes.h"
#include "matrix.h"
#include "tile_shape.h"

namespace sg3 {

// Rows of 4 words more, modulo 8, let the 8 rows of a fragment fall into different banks.
SG3_BOTH constexpr int banked(int width) { return round_up(width - 8, 16) + 8; }

// Rows of a tile, of at most S::TILE_H, where `out_h` rows are shared out evenly.
template <class S>
SG3_BOTH int band_rows(int out_h) {
    const int tiles = (out_h + S::TILE_H - 1) / S::TILE_H;
    return round_up((out_h + tiles - 1) / tiles, 8);
}

// One register of a fragment: the pair of (row, col) and its neighbour, along the row in an A,
// down the column in a B.
struct PairPlace {
    int row, col;
};
SG3_DEVICE PairPlace place_in_a(int reg, int lane) {
    return {lane / 4 + reg % 2 * 8, lane % 4 * 2 + reg / 2 * 8};
}
SG3_DEVICE PairPlace place_in_b(int reg, int lane) { return {lane % 4 * 2 + reg * 8, lane / 4}; }

template <class T>
SG3_DEVICE void load_fragment(FragmentA<T>& a, const Pair<T>* table) {
    each_lane([&](int lane) {
        SG3_UNROLL
        for (int i = 0; i < 4; ++i) a[lane].r[i] = table[i * 32 + lane];
    });
}
template <class T>
SG3_DEVICE void load_fragment(FragmentB<T>& b, const Pair<T>* table) {
    each_lane([&](int lane) {
        SG3_UNROLL
        for (int i = 0; i < 2; ++i) b[lane].r[i] = table[i * 32 + lane];
    });
}

// An A fragment of a row-major matrix in shared memory; `second` leads from its row 0 to row 8.
template <class T>
SG3_DEVICE LaneA<T> matrix_a(const T* from, int row_step, int second, int lane) {
    from += lane / 4 * row_step + lane % 4 * 2;
    return {{load_pair(from), load_pair(from + second), load_pair(from + 8),
             load_pair(from + second + 8)}};
}

template <class S, class T, class Memory>
struct BandBase {
    const Sg3FilteredLrelu& op;
    Memory& mem;
    TilePlace at;
    float gain, slope;
    float limit;  // of the bent samples before the gain, or -1

    SG3_DEVICE BandBase(const Sg3FilteredLrelu& op, Memory& mem, int64_t plane, int rows,
                        int tile_x, int tile_y)
        : op(op),
          mem(mem),
          at(tile_place(op, plane, tile_x, tile_y, S::TILE_W, rows)),
          gain(static_cast<float>(op.gain)),
          slope(static_cast<float>(op.slope)),
          limit(op.clamp >= 0 ? static_cast<float>(op.clamp / op.gain) : -1.0f) {}

    SG3_DEVICE int mid_rows() const { return S::mid_rows(at.rows); }

    // Upsampling tap of sample `mid` of a strip for input sample `in`; both begin together.
    // -1 where there is none.
    static SG3_DEVICE int up_tap(int mid, int in) {
        const int p = mid % S::UP, j = in - mid / S::UP - (p > 0);
        return j >= 0 && j < S::PHASE_TAPS ? phase_tap(p, j, S::UP) : -1;
    }
    SG3_DEVICE float up_weight(int tap) const {
        if (tap < 0) return 0.0f;
        return op.fu.taps[tap_index(tap, S::UP_TAPS, op.flip)] * S::UP;
    }
    SG3_DEVICE float down_weight(int tap) const {
        if (tap < 0 || tap >= S::DOWN_TAPS) return 0.0f;
        return op.fd.taps[tap_index(tap, S::DOWN_TAPS, op.flip)];
    }

    // The bias belongs to the image, not to the zeros around it.
    SG3_DEVICE void load_input(int thread) {
        const T* x = static_cast<const T*>(op.x) + at.plane * op.in_h * op.in_w;
        const float bias = op.b ? widen(static_cast<const T*>(op.b)[at.plane % op.channels]) : 0.0f;
        const int count = (mid_rows() / S::UP + 8) * S::IN_PITCH;
        SG3_UNROLL_BY_4
        for (int i = thread; i < count; i += S::THREADS) {
            const int64_t row = at.ay.in_first + i / S::IN_PITCH;
            const int64_t col = at.ax.in_first + i % S::IN_PITCH;
            const bool inside = row >= 0 && row < op.in_h && col >= 0 && col < op.in_w;
            narrow(inside ? widen(x[row * op.in_w + col]) + bias : 0.0f, mem.in() + i);
        }
    }

    // Bends a sample, or multiplies it by what its flag says.
    template <bool ReadFlags>
    SG3_DEVICE float bend_one(float v, uint8_t* code) {
        if (ReadFlags) return v * flag_factor(*code, slope);
        const Bent<float> bent = bend(v, slope, limit);
        if (op.flags) *code = static_cast<uint8_t>(bent.code);
        return bent.value;
    }

    // A C fragment of outputs, into shared memory. Rows come in eights.
    SG3_DEVICE void put_out(const float* v, int lane, int row, int col) {
        T* to = mem.out() + (row + lane / 4) * S::OUT_PITCH + col + lane % 4 * 2;
        store_pair(to, pack(v[0], v[1], T()));
        if (row + 8 < at.rows) store_pair(to + 8 * S::OUT_PITCH, pack(v[2], v[3], T()));
    }

    SG3_DEVICE void store_out(int thread) {
        constexpr int PAIRS = S::TILE_W / 2;
        for (int i = thread; i < at.rows * PAIRS; i += S::THREADS) {
            const int row = i / PAIRS, col = i % PAIRS * 2;
            const int64_t y = at.out_y + row, x = at.out_x + col;
            if (y >= op.out_h || x >= op.out_w) continue;
            const T* from = mem.out() + row * S::OUT_PITCH + col;
            T* to = static_cast<T*>(op.y) + (at.plane * op.out_h + y) * op.out_w + x;
            if (op.out_w % 2 == 0) {  // then every row begins at a whole pair
                store_pair(to, load_pair(from));
            } else {
                to[0] = from[0];
                if (x + 1 < op.out_w) to[1] = from[1];
            }
        }
    }
};

}  // namespace sg3
