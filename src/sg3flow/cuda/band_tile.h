// filtered_lrelu with separable filters on one tile, as products with small banded matrices: for
// half-precision types on the tensor cores. Sums run in float32, what is between the steps is
// rounded to the type, as in plain PyTorch.
//
// Each warp owns 16 columns of the upsampled signal and runs down the tile's rows; upsampling on
// both axes, the nonlinearity and the downsampling along follow each other in registers:
//   across [16 cols x 8 in rows]  = up_matrix * x^T
//   mid    [16 cols x 8 mid rows] = across * up_matrix^T         over 16 input rows
//   low    [16 out rows x 8 cols] = down_matrix * bent(mid)^T    over 16 upsampled rows, summed up
// 16 upsampled rows reach at most 16 output rows. After every 8 * DOWN of them the first 8 output
// rows are complete: they go to shared memory and the window moves on. When all rows are there,
// out [16 rows x 8 cols] = low * down_matrix^T.
#pragma once

#include "band_base.h"

namespace sg3 {

template <int Up, int UpTaps, int Down, int DownTaps>
struct BandShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = false, DOWN_RADIAL = false;
    static constexpr int WARPS = 8, THREADS = WARPS * 32, PHASE_TAPS = UP_TAPS / UP;
    static constexpr int MID_W = WARPS * 16, GROUPS = MID_W / 4;
    static constexpr int OUT_STEPS = round_up(7 * DOWN + DOWN_TAPS + UP - 1, 16) / 16;
    static constexpr int TILE_W = ((MID_W - OUT_STEPS * 16) / (8 * DOWN) + 1) * 8;
    static constexpr int TILE_H = DOWN == 4 ? 32 : 56;  // at most: rows are shared out evenly

    // A turn of the loop: whole blocks of 8 input rows and whole moves of the window.
    static constexpr int TURN_IN = larger(1, DOWN / UP);
    static constexpr int TURN_MID = TURN_IN * 8 * UP;
    static constexpr int WINDOWS = DOWN / 2;  // blocks of 16 upsampled rows for a move
    static SG3_BOTH constexpr int turns(int tile_h) {
        return (8 * DOWN * (tile_h / 8 + 1) + TURN_MID - 1) / TURN_MID;
    }
    static SG3_BOTH constexpr int mid_rows(int tile_h) { return turns(tile_h) * TURN_MID; }
    static constexpr int MID_H = mid_rows(TILE_H);
    static constexpr int IN_W = (MID_W - 16) / UP + 16, IN_H = MID_H / UP + 8;

    static constexpr int IN_PITCH = banked(IN_W), LOW_PITCH = banked(MID_W);
    static constexpr int OUT_PITCH = banked(TILE_W), CODE_PITCH = MID_W + 4;

    static_assert(16 / UP + PHASE_TAPS <= 16, "16 upsampled samples see at most 16 inputs");
    static_assert((DOWN_TAPS - 1 + UP - 1) / DOWN <= 8, "16 of them reach at most 16 outputs");
    static_assert(TILE_W * DOWN + DOWN_TAPS - 1 + UP - 1 <= MID_W, "the samples of the last tile");
    static_assert(TILE_W * DOWN % 4 == 0, "no byte of flags belongs to two tiles");
};

template <class S, class T>
struct BandMemory {
    static constexpr int IN = S::IN_H * S::IN_PITCH, OUT = S::TILE_H * S::OUT_PITCH;
    // The table of fragments: up_matrix as A and as B, down_matrix along as A, across as B.
    static constexpr int UP_B = 4, ALONG = UP_B + 2 * S::UP, ACROSS = ALONG + 4 * S::WINDOWS;
    static constexpr int TABLE = ACROSS + 2 * S::OUT_STEPS;

    alignas(16) T in_or_out[larger(IN, OUT)];
    alignas(16) T low[S::TILE_H * S::LOW_PITCH];
    alignas(16) Pair<T> table[TABLE * 32];
    alignas(16) uint8_t codes[S::MID_H * S::CODE_PITCH];

    SG3_DEVICE T* in() { return in_or_out; }
    SG3_DEVICE T* out() { return in_or_out; }  // the inputs are used up by then
};

template <class S, class T>
struct BandTile : BandBase<S, T, BandMemory<S, T>> {
    using Memory = BandMemory<S, T>;
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
            threads.each_warp([&](int warp) { stream<Mode>(warp); });
            threads.each_warp([&](int warp) { downsample_across(warp); });
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
        if (reg < Memory::UP_B) {
            const PairPlace p = place_in_a(reg, lane);
            return pack(up(p.row, p.col), up(p.row, p.col + 1), T());
        }
        if (reg < Memory::ALONG) {
            const PairPlace p = place_in_b(reg % 2, lane);
            const int mid = (reg - Memory::UP_B) / 2 * 8 + p.col;
            return pack(up(mid, p.row), up(mid, p.row + 1), T());
        }
        if (reg < Memory::ACROSS) {
            const PairPlace p = place_in_a(reg % 4, lane);
            const int tap = (reg - Memory::ALONG) / 4 * 16 + p.col + (8 - p.row) * S::DOWN;
            return pack(gain * Base::down_weight(tap - at.ay.shift),
                        gain * Base::down_weight(tap + 1 - at.ay.shift), T());
        }
        const PairPlace p = place_in_b(reg % 2, lane);
        const int tap = (reg - Memory::ACROSS) / 2 * 16 + p.row - p.col * S::DOWN;
        return pack(Base::down_weight(tap - at.ax.shift), Base::down_weight(tap + 1 - at.ax.shift),
                    T());
    }

    SG3_DEVICE float up(int mid, int in) { return Base::up_weight(Base::up_tap(mid, in)); }

    struct TwoPairs {
        Pair<T> r[2];
    };
    using Strip = PerLane<TwoPairs>;  // [16 cols x 8 rows], rounded

    template <FlagMode Mode>
    SG3_DEVICE void stream(int warp) {
        FragmentA<T> across, along[S::WINDOWS];
        FragmentB<T> up[S::UP];
        load_fragment(across, mem.table);
        SG3_UNROLL
        for (int i = 0; i < S::UP; ++i) {
            load_fragment(up[i], mem.table + (Memory::UP_B + 2 * i) * 32);
        }
        SG3_UNROLL
        for (int i = 0; i < S::WINDOWS; ++i) {
            load_fragment(along[i], mem.table + (Memory::ALONG + 4 * i) * 32);
        }
        FragmentC sums[2];
        clear(sums[0]);
        clear(sums[1]);
        Strip before, after;
        upsample_across(across, warp, 0, before);
        SG3_ROLLED
        for (int turn = 0; turn < S::turns(at.rows); ++turn) {
            SG3_UNROLL
            for (int block = 0; block < S::TURN_MID / 16; ++block) {
                constexpr int PER_IN = S::UP / 2;  // blocks of 16 upsampled rows of 8 input rows
                if (block % PER_IN == 0) {
                    upsample_across(across, warp, turn * S::TURN_IN + block / PER_IN + 1, after);
                }
                const int row = turn * S::TURN_MID + block * 16;
                FragmentB<T> bent[2];
                bend_block<Mode>(before, after, up + block % PER_IN * 2, warp, row, bent);
                multiply_add(sums[0], along[block % S::WINDOWS], bent[0]);
                multiply_add(sums[1], along[block % S::WINDOWS], bent[1]);
                if (block % S::WINDOWS == S::WINDOWS - 1) move_window(sums, warp, row);
                if (block % PER_IN == PER_IN - 1) before = after;
            }
        }
    }

    // 8 input rows, upsampled across to the warp's 16 columns.
    SG3_DEVICE void upsample_across(const FragmentA<T>& weights, int warp, int block,
                                    Strip& strip) {
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
            strip[lane] = {{pack(v[0], v[1], T()), pack(v[2], v[3], T())}};
        });
    }

    // 16 upsampled rows from 16 input rows, bent, as the right-hand sides of 8 columns each.
    template <FlagMode Mode>
    SG3_DEVICE void bend_block(const Strip& before, const Strip& after, const FragmentB<T>* up,
                               int warp, int row, FragmentB<T>* bent) {
        FragmentA<T> in;
        each_lane([&](int lane) {
            const TwoPairs &a = before[lane], &b = after[lane];
            in[lane] = {{a.r[0], a.r[1], b.r[0], b.r[1]}};
        });
        SG3_UNROLL
        for (int half = 0; half < 2; ++half) {
            FragmentC mid;
            clear(mid);
            multiply_add(mid, in, up[half]);
            each_lane([&](int lane) {
                const float* v = mid[lane].r;
                const int y = row + half * 8 + lane % 4 * 2, x = warp * 16 + lane / 4;
                bent[0][lane].r[half] =
                    Base::template bend_along<Mode>(pack(v[0], v[1], T()), y, x);
                bent[1][lane].r[half] =
                    Base::template bend_along<Mode>(pack(v[2], v[3], T()), y, x + 8);
            });
        }
    }

    // The first 8 of the window's output rows are complete with the upsampled rows from `row` on.
    SG3_DEVICE void move_window(FragmentC* sums, int warp, int row) {
        each_lane([&](int lane) {
            const int out = (row + 16) / S::DOWN - 16 + lane / 4;
            SG3_UNROLL
            for (int half = 0; half < 2; ++half) {
                float* v = sums[half][lane].r;
                if (out >= 0 && out < at.rows) {
                    T* to = mem.low + out * S::LOW_PITCH + warp * 16 + half * 8 + lane % 4 * 2;
                    store_pair(to, pack(v[0], v[1], T()));
                }
                sums[half][lane] = {{v[2], v[3], 0, 0}};
            }
        });
    }

    SG3_DEVICE void downsample_across(int warp) {
        FragmentB<T> weights[S::OUT_STEPS];
        SG3_UNROLL
        for (int i = 0; i < S::OUT_STEPS; ++i) {
            load_fragment(weights[i], mem.table + (Memory::ACROSS + 2 * i) * 32);
        }
        constexpr int COLS = S::TILE_W / 8;
        for (int i = warp; i < (at.rows + 15) / 16 * COLS; i += S::WARPS) {
            const int row = i / COLS * 16, col = i % COLS * 8;
            FragmentC sum;
            clear(sum);
            SG3_UNROLL
            for (int step = 0; step < S::OUT_STEPS; ++step) {
                FragmentA<T> low;
                each_lane([&](int lane) {
                    // rows come in eights: the second half of the last 16 may not exist
                    const int second = row + 8 < at.rows ? 8 * S::LOW_PITCH : 0;
                    const T* from = mem.low + row * S::LOW_PITCH + col * S::DOWN + step * 16;
                    low[lane] = matrix_a(from, S::LOW_PITCH, second, lane);
                });
                multiply_add(sum, low, weights[step]);
            }
            each_lane([&](int lane) { Base::put_out(sum[lane].r, lane, row, col); });
        }
    }
};

}  // namespace sg3
