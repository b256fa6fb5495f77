// What all tiles on the tensor cores share: loading, storing, and the table of the filters'
// fragments, which every warp of the block takes its weights from.
//
// Global memory is walked by rows, a warp a row, so that a lane's share of the index arithmetic is
// done once for all rows.
#pragma once

#include "codes.h"
#include "pairs.h"
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
    static constexpr int WARPS = S::THREADS / 32;

    const Sg3FilteredLrelu& op;
    Memory& mem;
    TilePlace at;
    float gain;
    PairBend<T> pairs;
    int lead;  // columns before the codes that are written: bytes of flags begin at whole words

    SG3_DEVICE BandBase(const Sg3FilteredLrelu& op, Memory& mem, int64_t plane, int rows,
                        int tile_x, int tile_y)
        : op(op),
          mem(mem),
          at(tile_place<S>(op, plane, tile_x, tile_y, S::TILE_W, rows)),
          gain(static_cast<float>(op.gain)),
          pairs(static_cast<float>(op.slope), static_cast<float>(op.limit)),
          lead(op.read_flags ? 0 : (4 - at.ax.shift) & 3) {}

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
        const int lane = thread % 32, rows = mid_rows() / S::UP + 8;
        const T zero = T(0.0f);
        const T bias = op.b ? static_cast<const T*>(op.b)[plane_channel(op, at.plane)] : zero;
        const int left = static_cast<int>(at.ax.in_first) + lane;
        int y = static_cast<int>(at.ay.in_first) + thread / 32;
        const T* from = static_cast<const T*>(op.x) + (at.plane * op.in_h + y) * op.in_w + left;
        T* to = mem.in() + thread / 32 * S::IN_PITCH + lane;
        constexpr int PARTS = (S::IN_PITCH + 31) / 32;
        bool known[PARTS];
        SG3_UNROLL
        for (int i = 0; i < PARTS; ++i) known[i] = left + i * 32 >= 0 && left + i * 32 < op.in_w;
        SG3_UNROLL_BY_2
        for (int row = thread / 32; row < rows; row += WARPS) {
            const bool inside = y >= 0 && y < op.in_h;
            SG3_UNROLL
            for (int i = 0; i < PARTS; ++i) {
                T v = zero;
                if (inside && known[i]) v = add(from[i * 32], bias);
                if (i < PARTS - 1 || lane + i * 32 < S::IN_PITCH) to[i * 32] = v;
            }
            y += WARPS;
            from += static_cast<int64_t>(WARPS) * op.in_w;
            to += WARPS * S::IN_PITCH;
        }
    }

    // The flags that the tile reads, as selectors.
    SG3_DEVICE void load_selectors(int thread) {
        const int lane = thread % 32;
        if (lane >= S::GROUPS) return;
        const int j = static_cast<int>(at.ax.mid_first) + lane * 4 + op.offset_x;
        const int byte = j >> 2, shift = 2 * (j & 3);  // rounds down: j may be negative
        uint32_t stored = 0;  // the bits of samples within the stored range
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) stored |= j + n >= 0 && j + n < op.flags_w ? 3u << (2 * n) : 0;
        const bool first = byte >= 0 && byte < op.flags_stride;
        const bool second = byte + 1 >= 0 && byte + 1 < op.flags_stride;
        int y = static_cast<int>(at.ay.mid_first) + op.offset_y + thread / 32;
        const uint8_t* from = op.flags + flags_plane(op, at) +
                              static_cast<int64_t>(y) * op.flags_stride + byte;
        uint8_t* to = mem.codes + thread / 32 * S::CODE_PITCH + lane * 4;
        SG3_UNROLL_BY_2
        for (int row = thread / 32; row < mid_rows(); row += WARPS) {
            const bool inside = y >= 0 && y < op.flags_h;
            uint32_t low = 0, high = 0;
            if (inside && first) low = from[0];
            if (inside && second) high = from[1];
            const uint32_t known = inside ? stored : 0;
            const uint32_t bits = (((low | high << 8) >> shift) & known) | (0xaau & ~known);
            store_word(to, selectors(spread_codes(bits)));
            y += WARPS;
            from += static_cast<int64_t>(WARPS) * op.flags_stride;
            to += WARPS * S::CODE_PITCH;
        }
    }

    // Two samples of one column, rows y and y + 1.
    template <FlagMode Mode>
    SG3_DEVICE Pair<T> bend_along(Pair<T> v, int y, int x) {
        uint8_t* code = mem.codes + y * S::CODE_PITCH + x + lead;
        if (Mode == READ_FLAGS) return pairs.scale(v, code[0] | code[S::CODE_PITCH] << 8);
        uint32_t codes = 0;
        v = pairs.bend(v, &codes);
        if (Mode == WRITE_FLAGS) {
            code[0] = static_cast<uint8_t>(codes);
            code[S::CODE_PITCH] = static_cast<uint8_t>(codes >> 16);
        }
        return v;
    }

    // Two samples of one row, columns x and x + 1; x is even.
    template <FlagMode Mode>
    SG3_DEVICE Pair<T> bend_across(Pair<T> v, int y, int x) {
        uint8_t* code = mem.codes + y * S::CODE_PITCH + x + lead;
        if (Mode == READ_FLAGS) {
            return pairs.scale(v, load_word<uint16_t>(code));
        }
        uint32_t codes = 0;
        v = pairs.bend(v, &codes);
        if (Mode == WRITE_FLAGS) {
            code[0] = static_cast<uint8_t>(codes);
            code[1] = static_cast<uint8_t>(codes >> 16);
        }
        return v;
    }

    // A C fragment of outputs, into shared memory. Rows come in eights.
    SG3_DEVICE void put_out(const float* v, int lane, int row, int col) {
        T* to = mem.out() + (row + lane / 4) * S::OUT_PITCH + col + lane % 4 * 2;
        store_pair(to, pack(v[0], v[1], T()));
        if (row + 8 < at.rows) store_pair(to + 8 * S::OUT_PITCH, pack(v[2], v[3], T()));
    }

    SG3_DEVICE void store_out(int thread) {
        constexpr int PAIRS = S::TILE_W / 2;
        static_assert(PAIRS <= 32, "a lane a pair");
        const int col = thread % 32 * 2, left = static_cast<int>(at.out_x);
        const int top = static_cast<int>(at.out_y);
        if (col >= S::TILE_W || left + col >= op.out_w) return;
        const bool alone = left + col + 1 >= op.out_w;
        const bool even = op.out_w % 2 == 0;  // then every row begins at a whole pair
        T* plane = static_cast<T*>(op.y) + at.plane * op.out_h * op.out_w;
        for (int row = thread / 32; row < at.rows && top + row < op.out_h; row += WARPS) {
            const T* from = mem.out() + row * S::OUT_PITCH + col;
            T* to = plane + static_cast<int64_t>(top + row) * op.out_w + left + col;
            if (even) {
                store_pair(to, load_pair(from));
            } else {
                to[0] = from[0];
                if (!alone) to[1] = from[1];
            }
        }
    }

    // Each tile stores the flags of its own samples; the last one of a row or column, the rest too.
    SG3_DEVICE void store_flags(int thread) {
        const OwnSamples own = own_samples(op, at);
        const int lane = thread % 32, valid = own.width - lane * 4;
        if (lane >= S::GROUPS || valid <= 0) return;
        const uint32_t kept = valid >= 4 ? 0xffu : (1u << (2 * valid)) - 1;
        uint8_t* to = op.flags + flags_plane(op, at) + own.y * op.flags_stride + own.x / 4 + lane;
        const uint8_t* from =
            mem.codes + at.ay.shift * S::CODE_PITCH + at.ax.shift + lead + lane * 4;
        for (int row = thread / 32; row < own.height; row += WARPS) {
            const auto four = load_word<uint32_t>(from + row * S::CODE_PITCH);
            to[static_cast<int64_t>(row) * op.flags_stride] =
                static_cast<uint8_t>(gather_codes(four) & kept);
        }
    }
};

}  // namespace sg3
