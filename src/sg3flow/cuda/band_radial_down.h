// filtered_lrelu with a separable upsampling and a radial downsampling filter on one tile, on the
// tensor cores: upsampling and the nonlinearity as in band_tile.h, but the bent samples go to
// shared memory, and the outputs are the sum over the filter's rows k of
//   out [16 rows x 8 cols] += bent [rows DOWN * i + k, 16 cols at a time] * down_matrix_k^T
#pragma once

#include "band_base.h"

namespace sg3 {

template <int Up, int UpTaps, int Down, int DownTaps>
struct RadialDownShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = false, DOWN_RADIAL = true;
    static constexpr int WARPS = 8, THREADS = WARPS * 32, PHASE_TAPS = UP_TAPS / UP;
    static constexpr int MID_W = WARPS * 16, GROUPS = MID_W / 4;
    static constexpr int OUT_STEPS = round_up(7 * DOWN + DOWN_TAPS + UP - 1, 16) / 16;
    static constexpr int TILE_W = ((MID_W - OUT_STEPS * 16) / (8 * DOWN) + 1) * 8, TILE_H = 32;

    // Whole blocks of 8 input rows.
    static SG3_BOTH constexpr int mid_rows(int tile_h) {
        return round_up((round_up(tile_h, 16) - 1) * DOWN + DOWN_TAPS + UP - 1, 8 * UP);
    }
    static constexpr int MID_H = mid_rows(TILE_H);
    static constexpr int IN_W = (MID_W - 16) / UP + 16, IN_H = MID_H / UP + 8;
    static constexpr int IN_PITCH = banked(IN_W), OUT_PITCH = banked(TILE_W);
    // Every DOWN-th row is read at a time: 2 more words, modulo 4, part their banks.
    static constexpr int MID_PITCH = MID_W + 4, CODE_PITCH = MID_W + 4;

    static_assert(DOWN == 2 && 16 / UP + PHASE_TAPS <= 16, "16 samples see at most 16 inputs");
    static_assert(TILE_W * DOWN + DOWN_TAPS - 1 + UP - 1 <= MID_W, "the samples of the last tile");
    static_assert(TILE_H * DOWN + DOWN_TAPS - 1 + UP - 1 <= MID_H, "the samples of the last tile");
    static_assert(TILE_W * DOWN % 4 == 0, "no byte of flags belongs to two tiles");
};

template <class S, class T>
struct RadialDownMemory {
    static constexpr int IN = S::IN_H * S::IN_PITCH, OUT = S::TILE_H * S::OUT_PITCH;
    // The table of fragments: up_matrix as A, the same for both axes; down_matrix of each row as B.
    static constexpr int DOWN = 4 * (S::UP / 2);
    static constexpr int TABLE = DOWN + 2 * S::OUT_STEPS * S::DOWN_TAPS;

    alignas(16) T in_or_out[larger(IN, OUT)];
    alignas(16) T mid[S::MID_H * S::MID_PITCH + 16];  // the last unit reads beyond the last row
    alignas(16) Pair<T> table[TABLE * 32];
    alignas(16) uint8_t codes[S::MID_H * S::CODE_PITCH];

    SG3_DEVICE T* in() { return in_or_out; }
    SG3_DEVICE T* out() { return in_or_out; }  // the inputs are used up by then
};

template <class S, class T>
struct RadialDownTile : BandBase<S, T, RadialDownMemory<S, T>> {
    using Memory = RadialDownMemory<S, T>;
    using Base = BandBase<S, T, Memory>;
    using Base::at;
    using Base::Base;
    using Base::gain;
    using Base::mem;
    using Base::op;

    // The tile on this plane and the next ones: they share the table.
    template <FlagMode Mode, class Threads>
    SG3_DEVICE void run(const Threads& threads, int planes) {
        for (int n = 0; n < planes; ++n, ++at.plane) {
            threads.each([&](int thread) {
                if (n == 0) load_table(thread);
                Base::load_input(thread);
                if (Mode == READ_FLAGS) Base::load_selectors(thread);
            });
            threads.each_warp([&](int warp) { upsample<Mode>(warp); });
            threads.each_warp([&](int warp) { downsample(warp); });
            threads.each([&](int thread) {
                Base::store_out(thread);
                if (Mode == WRITE_FLAGS) Base::store_flags(thread);
            });
        }
    }

    SG3_DEVICE void load_table(int thread) {
        for (int i = thread; i < Memory::TABLE * 32; i += S::THREADS) {
            mem.table[i] = table_pair(i / 32, i % 32);
        }
    }

    SG3_DEVICE Pair<T> table_pair(int reg, int lane) {
        if (reg < Memory::DOWN) {
            const PairPlace p = place_in_a(reg % 4, lane);
            const int mid = p.row + reg / 4 * 16;
            return pack(Base::up_weight(Base::up_tap(mid, p.col)),
                        Base::up_weight(Base::up_tap(mid, p.col + 1)), T());
        }
        const int fragment = (reg - Memory::DOWN) / 2, ky = fragment / S::OUT_STEPS;
        const PairPlace p = place_in_b(reg % 2, lane);
        const int kx = fragment % S::OUT_STEPS * 16 + p.row - p.col * S::DOWN - at.ax.shift;
        return pack(radial(kx, ky), radial(kx + 1, ky), T());
    }

    SG3_DEVICE float radial(int kx, int ky) const {
        if (kx < 0 || kx >= S::DOWN_TAPS) return 0.0f;
        return gain * op.fd.taps[tap_index(ky, S::DOWN_TAPS, op.flip) * S::DOWN_TAPS +
                                 tap_index(kx, S::DOWN_TAPS, op.flip)];
    }

    // The warp's 16 columns of the upsampled signal, 8 input rows at a time.
    template <FlagMode Mode>
    SG3_DEVICE void upsample(int warp) {
        FragmentA<T> up[S::UP / 2];
        SG3_UNROLL
        for (int i = 0; i < S::UP / 2; ++i) load_fragment(up[i], mem.table + 4 * i * 32);
        FragmentB<T> in[2];  // 16 input rows x 8 columns; the rows come in from the back
        upsample_across(up[0], warp, 0, in);
        SG3_ROLLED
        for (int block = 0; block < Base::mid_rows() / (8 * S::UP); ++block) {
            upsample_across(up[0], warp, block + 1, in);
            SG3_UNROLL
            for (int i = 0; i < S::UP / 2; ++i) {
                SG3_UNROLL
                for (int half = 0; half < 2; ++half) {
                    FragmentC mid;
                    clear(mid);
                    multiply_add(mid, up[i], in[half]);
                    put_mid<Mode>(mid, block * 8 * S::UP + i * 16, warp * 16 + half * 8);
                }
            }
        }
    }

    SG3_DEVICE void upsample_across(const FragmentA<T>& weights, int warp, int block,
                                    FragmentB<T>* in) {
        FragmentB<T> x;
        each_lane([&](int lane) {
            const int row = block * 8 + lane / 4, col = warp * (16 / S::UP) + lane % 4 * 2;
            x[lane].r[0] = load_pair(mem.in() + row * S::IN_PITCH + col);
            x[lane].r[1] = load_pair(mem.in() + row * S::IN_PITCH + col + 8);
        });
        FragmentC c;
        clear(c);
        multiply_add(c, weights, x);
        each_lane([&](int lane) {
            const float* v = c[lane].r;
            in[0][lane] = {{in[0][lane].r[1], pack(v[0], v[1], T())}};
            in[1][lane] = {{in[1][lane].r[1], pack(v[2], v[3], T())}};
        });
    }

    template <FlagMode Mode>
    SG3_DEVICE void put_mid(FragmentC& mid, int row, int col) {
        each_lane([&](int lane) {
            const float* v = mid[lane].r;
            SG3_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int y = row + i * 8 + lane / 4, x = col + lane % 4 * 2;
                const Pair<T> bent = Base::template bend_across<Mode>(
                    pack(v[2 * i], v[2 * i + 1], T()), y, x);
                store_pair(mem.mid + y * S::MID_PITCH + x, bent);
            }
        });
    }

    // Units of 16 output rows x 16 columns: 8 and 8, which share what they read. The second 8 of
    // the last unit of a row may not exist; they are computed from anything and dropped.
    SG3_DEVICE void downsample(int warp) {
        constexpr int UNITS = (S::TILE_W / 8 + 1) / 2;
        SG3_ROLLED
        for (int i = warp; i < (at.rows + 15) / 16 * UNITS; i += S::WARPS) {
            const int row = i / UNITS * 16, col = i % UNITS * 16;
            FragmentC sums[2];
            clear(sums[0]);
            clear(sums[1]);
            const T* from = mem.mid + (row * S::DOWN + at.ay.shift) * S::MID_PITCH + col * S::DOWN;
            SG3_UNROLL
            for (int ky = 0; ky < S::DOWN_TAPS; ++ky) {
                add_filter_row(sums, from + ky * S::MID_PITCH,
                               mem.table + (Memory::DOWN + 2 * ky * S::OUT_STEPS) * 32);
            }
            each_lane([&](int lane) {
                Base::put_out(sums[0][lane].r, lane, row, col);
                if (col + 8 < S::TILE_W) Base::put_out(sums[1][lane].r, lane, row, col + 8);
            });
        }
    }

    SG3_DEVICE void add_filter_row(FragmentC* sums, const T* from, const Pair<T>* table) {
        constexpr int STEPS = S::OUT_STEPS, NEXT = S::DOWN / 2;  // steps to the second 8 columns
        FragmentB<T> weights[STEPS];
        SG3_UNROLL
        for (int i = 0; i < STEPS; ++i) load_fragment(weights[i], table + 2 * i * 32);
        SG3_UNROLL
        for (int step = 0; step < STEPS + NEXT; ++step) {
            FragmentA<T> mid;
            each_lane([&](int lane) {
                mid[lane] = matrix_a(from + step * 16, S::DOWN * S::MID_PITCH,
                                     8 * S::DOWN * S::MID_PITCH, lane);
            });
            if (step < STEPS) multiply_add(sums[0], mid, weights[step]);
            if (step >= NEXT) multiply_add(sums[1], mid, weights[step - NEXT]);
        }
    }
};

}  // namespace sg3
