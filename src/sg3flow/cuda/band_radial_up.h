// filtered_lrelu with a radial upsampling and a separable downsampling filter on one tile, on the
// tensor cores: what the gradient of a layer with a radial downsampling filter is. It only reads
// flags. Each step is a sum of products, and goes through shared memory to the next:
//   mid of phase p [16 rows x 8 cols] = sum over the phase's rows j of x [from row j on] * up_pj^T
//   low [16 mid rows x 8 cols] = scaled mid * down_matrix^T, stored transposed
//   out [16 rows x 8 cols] = down_matrix * low
#pragma once

#include "band_base.h"

namespace sg3 {

template <int Up, int UpTaps, int Down, int DownTaps>
struct RadialUpShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = true, DOWN_RADIAL = false;
    static constexpr int WARPS = 6, THREADS = WARPS * 32, PHASE_TAPS = UP_TAPS / UP;
    static constexpr int MID_W = WARPS * 16, GROUPS = MID_W / 4;
    static constexpr int OUT_STEPS = round_up(7 * DOWN + DOWN_TAPS + UP - 1, 16) / 16;
    static constexpr int ROW_STEPS = round_up(15 * DOWN + DOWN_TAPS + UP - 1, 16) / 16;
    static constexpr int TILE_W = ((MID_W - OUT_STEPS * 16) / (8 * DOWN) + 1) * 8;
    static constexpr int TILE_H = DOWN == 4 ? 16 : 32;

    // Whole blocks of 16 input rows.
    static SG3_BOTH constexpr int mid_rows(int tile_h) {
        return round_up((round_up(tile_h, 16) - 16) * DOWN + ROW_STEPS * 16, 16 * UP);
    }
    static constexpr int MID_H = mid_rows(TILE_H);
    static constexpr int IN_W = (MID_W - 16) / UP + 16, IN_H = MID_H / UP + 8;
    static constexpr int IN_PITCH = banked(IN_W), OUT_PITCH = banked(TILE_W);
    static constexpr int MID_PITCH = banked(MID_W), CODE_PITCH = MID_W + 4;
    static constexpr int LOW_PITCH = banked(MID_H);

    static_assert(UP == 2 && PHASE_TAPS <= 8, "16 samples and rows see at most 8 more inputs");
};

template <class S, class T>
struct RadialUpMemory {
    static constexpr int IN = S::IN_H * S::IN_PITCH, LOW = S::TILE_W * S::LOW_PITCH;
    static constexpr int MID = S::MID_H * S::MID_PITCH, OUT = S::TILE_H * S::OUT_PITCH;
    // The table of fragments: up_matrix of each phase and row as B, 8 columns and 8; down_matrix
    // across as B, along as A.
    static constexpr int ACROSS = 4 * S::UP_TAPS, ALONG = ACROSS + 2 * S::OUT_STEPS;
    static constexpr int TABLE = ALONG + 4 * S::ROW_STEPS;

    alignas(16) T in_or_low[larger(IN, LOW)];
    alignas(16) T mid_or_out[larger(MID, OUT)];
    alignas(16) Pair<T> table[TABLE * 32];
    alignas(16) uint8_t codes[S::MID_H * S::CODE_PITCH];

    SG3_DEVICE T* in() { return in_or_low; }
    SG3_DEVICE T* low() { return in_or_low; }
    SG3_DEVICE T* mid() { return mid_or_out; }
    SG3_DEVICE T* out() { return mid_or_out; }
};

template <class S, class T>
struct RadialUpTile : BandBase<S, T, RadialUpMemory<S, T>> {
    using Memory = RadialUpMemory<S, T>;
    using Base = BandBase<S, T, Memory>;
    using Base::at;
    using Base::Base;
    using Base::gain;
    using Base::mem;
    using Base::op;

    // The tile on this plane and the next ones: they share the table.
    template <FlagMode Mode, class Threads>
    SG3_DEVICE void run(const Threads& threads, int planes) {
        static_assert(Mode == READ_FLAGS, "no layer upsamples with a radial filter");
        for (int n = 0; n < planes; ++n, ++at.plane) {
            threads.each([&](int thread) {
                if (n == 0) load_table(thread);
                Base::load_input(thread);
                Base::load_selectors(thread);
            });
            threads.each_warp([&](int warp) { upsample(warp); });
            threads.each_warp([&](int warp) { downsample_across(warp); });
            threads.each_warp([&](int warp) { downsample_along(warp); });
            threads.each([&](int thread) { Base::store_out(thread); });
        }
    }

    SG3_DEVICE void load_table(int thread) {
        for (int i = thread; i < Memory::TABLE * 32; i += S::THREADS) {
            mem.table[i] = table_pair(i / 32, i % 32);
        }
    }

    SG3_DEVICE Pair<T> table_pair(int reg, int lane) {
        if (reg < Memory::ACROSS) {
            const PairPlace p = place_in_b(reg % 2, lane);
            const int row = reg / 4, mid = reg / 2 % 2 * 8 + p.col;
            return pack(radial(row, mid, p.row), radial(row, mid, p.row + 1), T());
        }
        if (reg < Memory::ALONG) {
            const PairPlace p = place_in_b(reg % 2, lane);
            const int tap = (reg - Memory::ACROSS) / 2 * 16 + p.row - p.col * S::DOWN - at.ax.shift;
            return pack(Base::down_weight(tap), Base::down_weight(tap + 1), T());
        }
        const PairPlace p = place_in_a(reg % 4, lane);
        const int tap = (reg - Memory::ALONG) / 4 * 16 + p.col - p.row * S::DOWN - at.ay.shift;
        return pack(gain * Base::down_weight(tap), gain * Base::down_weight(tap + 1), T());
    }

    // The filter's tap of row `row` in polyphase order, for input `in` of upsampled sample `mid`.
    SG3_DEVICE float radial(int row, int mid, int in) const {
        const int kx = Base::up_tap(mid, in);
        if (kx < 0) return 0.0f;
        const int ky = phase_tap(row / S::PHASE_TAPS, row % S::PHASE_TAPS, S::UP);
        return op.fu.taps[tap_index(ky, S::UP_TAPS, op.flip) * S::UP_TAPS +
                          tap_index(kx, S::UP_TAPS, op.flip)] *
               (S::UP * S::UP);
    }

    // The warp's 16 columns of the upsampled signal, 16 input rows at a time.
    SG3_DEVICE void upsample(int warp) {
        constexpr int J = S::PHASE_TAPS;
        FragmentB<T> weights[2 * S::UP_TAPS];
        SG3_UNROLL
        for (int i = 0; i < 2 * S::UP_TAPS; ++i) load_fragment(weights[i], mem.table + 2 * i * 32);
        SG3_ROLLED
        for (int n = 0; n < Base::mid_rows() / S::UP; n += 16) {
            FragmentC sums[2 * S::UP];
            SG3_UNROLL
            for (int i = 0; i < 2 * S::UP; ++i) clear(sums[i]);
            SG3_UNROLL
            for (int row = 0; row <= J; ++row) {
                FragmentA<T> in;
                each_lane([&](int lane) {
                    const T* from = mem.in() + (n + row) * S::IN_PITCH + warp * (16 / S::UP);
                    in[lane] = matrix_a(from, S::IN_PITCH, 8 * S::IN_PITCH, lane);
                });
                SG3_UNROLL
                for (int p = 0; p < S::UP; ++p) {
                    const int j = row - (p > 0);
                    if (j < 0 || j >= J) continue;
                    multiply_add(sums[2 * p], in, weights[2 * (p * J + j)]);
                    multiply_add(sums[2 * p + 1], in, weights[2 * (p * J + j) + 1]);
                }
            }
            SG3_UNROLL
            for (int i = 0; i < 2 * S::UP; ++i) {
                put_mid(sums[i], n * S::UP + i / 2, warp * 16 + i % 2 * 8);
            }
        }
    }

    // Rows row, row + UP, ... of the upsampled signal, times what the flags say.
    SG3_DEVICE void put_mid(FragmentC& mid, int row, int col) {
        each_lane([&](int lane) {
            const float* v = mid[lane].r;
            SG3_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int y = row + (i * 8 + lane / 4) * S::UP, x = col + lane % 4 * 2;
                const Pair<T> bent = Base::template bend_across<READ_FLAGS>(
                    pack(v[2 * i], v[2 * i + 1], T()), y, x);
                store_pair(mem.mid() + y * S::MID_PITCH + x, bent);
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
        for (int i = warp; i < Base::mid_rows() / 16 * COLS; i += S::WARPS) {
            const int row = i / COLS * 16, col = i % COLS * 8;
            FragmentC sum;
            clear(sum);
            SG3_UNROLL
            for (int step = 0; step < S::OUT_STEPS; ++step) {
                FragmentA<T> mid;
                each_lane([&](int lane) {
                    const T* from = mem.mid() + row * S::MID_PITCH + col * S::DOWN + step * 16;
                    mid[lane] = matrix_a(from, S::MID_PITCH, 8 * S::MID_PITCH, lane);
                });
                multiply_add(sum, mid, weights[step]);
            }
            each_lane([&](int lane) {
                T* to = mem.low() + (col + lane % 4 * 2) * S::LOW_PITCH + row + lane / 4;
                SG3_UNROLL
                for (int n = 0; n < 4; ++n) {
                    narrow(sum[lane].r[n], to + n % 2 * S::LOW_PITCH + n / 2 * 8);
                }
            });
        }
    }

    SG3_DEVICE void downsample_along(int warp) {
        FragmentA<T> weights[S::ROW_STEPS];
        SG3_UNROLL
        for (int i = 0; i < S::ROW_STEPS; ++i) {
            load_fragment(weights[i], mem.table + (Memory::ALONG + 4 * i) * 32);
        }
        constexpr int COLS = S::TILE_W / 8;
        for (int i = warp; i < (at.rows + 15) / 16 * COLS; i += S::WARPS) {
            const int row = i / COLS * 16, col = i % COLS * 8;
            FragmentC sum;
            clear(sum);
            SG3_UNROLL
            for (int step = 0; step < S::ROW_STEPS; ++step) {
                FragmentB<T> low;
                each_lane([&](int lane) {
                    const T* from = mem.low() + (col + lane / 4) * S::LOW_PITCH + row * S::DOWN +
                                    step * 16 + lane % 4 * 2;
                    low[lane] = {{load_pair(from), load_pair(from + 8)}};
                });
                multiply_add(sum, weights[step], low);
            }
            each_lane([&](int lane) { Base::put_out(sum[lane].r, lane, row, col); });
        }
    }
};

}  // namespace sg3
