// The outputs of a tile: downsampled along from columns that were downsampled across,
//   out [16 rows x 8 cols] = down along [16 x 16 mid rows] * low
// in units of 16 x 16 outputs; or, with a radial filter, from the activated samples by its rows k:
//   out [16 rows, 4 apart, x 8 cols] += mid [16 rows, 8 apart, x 16 cols at a time] * down_k^T
// in units of all rows x 8 columns: what is loaded of mid serves four output rows, each by another
// row of the filter. The last units reach back, so that they stay within the tile.
#pragma once

#include "band_stream.h"

namespace sg3 {

// One warp's share of a tile, plane after plane; with its sum, of a gradient, or else of squares.
template <class S, class T, bool Gradient>
struct BandDown {
    using Memory = BandMemory<S, T>;
    const BandBlock<S, T>& block;
    Memory& mem;
    int warp, pitch;
    T* out;          // of the tile's first row and column
    int rows, cols;  // outputs that there are
    int together;    // neighbors that are one word: 4, 2 or 1
    PerLane<float> total;

    SG3_DEVICE BandDown(const BandBlock<S, T>& block, int warp)
        : block(block), mem(block.mem), warp(warp), pitch(block.op.out_w) {
        const Sg3FilteredLrelu& op = block.op;
        const int64_t x = block.at.out_x, y = block.at.out_y;
        out = static_cast<T*>(op.y) + (block.at.plane * op.out_h + y) * op.out_w + x;
        rows = smaller(block.plan.rows, static_cast<int>(op.out_h - y));
        cols = smaller(block.plan.cols, static_cast<int>(op.out_w - x));
        const bool fours = op.out_w % 4 == 0 && block.plan.cols % 4 == 0 && !S::DOWN_RADIAL;
        together = fours ? 4 : (op.out_w % 2 == 0 ? 2 : 1);
    }

    // The next plane.
    SG3_DEVICE void run(int64_t plane) {
        each_lane([&](int lane) { total[lane] = 0.0f; });
        Weights weights;
        if constexpr (!S::DOWN_RADIAL) {
            SG3_UNROLL
            for (int i = 0; i < S::ROW_STEPS; ++i) {
                load_fragment(weights.along[i], mem.table + (Memory::ALONG + 4 * i) * 32);
            }
        }
        if (!S::DOWN_RADIAL && together == 4) {
            run_units<4>(weights);
        } else if (together == 2) {
            run_units<2>(weights);
        } else {
            run_units<1>(weights);
        }
        out += static_cast<int64_t>(block.op.out_h) * pitch;
        put_sum(plane);
    }

    // Sums of a plane: of its tiles, of their warps.
    SG3_DEVICE void put_sum(int64_t plane) const {
        const Sg3FilteredLrelu& op = block.op;
        if (!op.sums) return;
        const float sum = lane_sum(total);
        float* to = op.sums + plane * op.sums_plane + mem.tile * block.plan.warps + warp;
        each_lane([&](int lane) {
            if (lane == 0) *to = sum;
        });
    }

    struct Weights {
        FragmentA<T> along[S::ROW_STEPS];
    };

    template <int Together>
    SG3_DEVICE void run_units(const Weights& weights) {
        if constexpr (S::DOWN_RADIAL) {
            SG3_ROLLED
            for (int i = warp; i * 8 < cols; i += block.plan.warps) sum_radial<Together>(i * 8);
            return;
        }
        constexpr int ACROSS = (S::TILE_W + 15) / 16;
        SG3_ROLLED
        for (int i = warp; i < (rows + 15) / 16 * ACROSS; i += block.plan.warps) {
            const int row = i / ACROSS * 16, col = i % ACROSS * 16;
            if (col < cols) sum_along<Together>(weights, row, col);
        }
    }

    // Where a unit begins that ends with the tile, but not before its first row or column.
    static SG3_DEVICE int reach_back(int at, int end, int unit) {
        return larger(smaller(at, end - unit), 0);
    }

    // Whether row `y` is one of the unit from `row` on, and there.
    SG3_DEVICE bool has_row(int y, int row) const {
        return static_cast<unsigned>(y - row) < static_cast<unsigned>(rows - row);
    }

    template <int Together>
    SG3_DEVICE void sum_along(const Weights& weights, int row, int col) {
        const int begin = reach_back(row, rows, 16);
        const T* from = mem.low + begin * S::DOWN * Memory::LOW_PITCH + col;
        FragmentC sums[2];
        fill(sums[0], 0);
        fill(sums[1], 0);
        SG3_UNROLL
        for (int step = 0; step < S::ROW_STEPS; ++step) {
            FragmentA<T> low;
            load_matrices<true>(low, [&](int lane) {
                return eight_of(from, Memory::LOW_PITCH, lane) + step * 16 * Memory::LOW_PITCH;
            });
            add_halves(sums, weights.along[step], low);
        }
        each_lane([&](int lane) {
            const int x = col + lane % 4 * 4;
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) {
                const float *a = sums[0][lane].r + 2 * n, *b = sums[1][lane].r + 2 * n;
                const int y = begin + lane / 4 + 8 * n;
                if (!has_row(y, row)) continue;
                const Four four = {{pack(a[0], a[1], T()), pack(b[0], b[1], T())}};
                put<Together>(out + (y * pitch + x), x, four);
                add(lane, a, x);
                add(lane, b, x + 2);
            }
        });
    }

    // The two halves of `low`, 8 columns each.
    static SG3_DEVICE void add_halves(FragmentC* sums, const FragmentA<T>& weights,
                                      const FragmentA<T>& low) {
        SG3_UNROLL
        for (int half = 0; half < 2; ++half) {
            FragmentB<T> b;
            each_lane([&](int lane) {
                b[lane] = {{low[lane].r[2 * half], low[lane].r[2 * half + 1]}};
            });
            multiply_add(sums[half], weights, b);
        }
    }

    // Two neighbors from column x on, as far as there are any, to the lane's sum.
    SG3_DEVICE void add(int lane, const float* v, int x) {
        SG3_UNROLL
        for (int n = 0; n < 2; ++n) {
            if (x + n < cols) total[lane] += Gradient ? v[n] : v[n] * v[n];
        }
    }

    struct alignas(4 * sizeof(T)) Four {
        Pair<T> r[2];
    };

    // Neighbors, as far as there are any, from column x on.
    template <int Together>
    SG3_DEVICE void put(T* to, int x, const Four& four) const {
        if constexpr (Together == 4) {
            if (x < cols) store_word(to, four);
        } else {
            put<Together>(to, x, four.r[0]);
            put<Together>(to + 2, x + 2, four.r[1]);
        }
    }
    template <int Together>
    SG3_DEVICE void put(T* to, int x, const Pair<T>& pair) const {
        if (x >= cols) return;
        if constexpr (Together == 2) {
            store_pair(to, pair);
        } else {
            alignas(Pair<T>) T two[2];
            store_pair(two, pair);
            to[0] = two[0];
            if (x + 1 < cols) to[1] = two[1];
        }
    }

    // Row 4 * m + n of the outputs begins with upsampled row 8 * m + 2 * n, and takes filter row k
    // from row 8 * m + k + 2 * n.
    template <int Together>
    SG3_DEVICE void sum_radial(int col) {
        static_assert(S::DOWN == 2 && S::OUT_STEPS == 2, "32 columns for 8 outputs");
        static_assert(S::TILE_H <= 64 && S::MID_H >= 8 * LAST + 16, "rows that are loaded exist");
        const int x0 = reach_back(col, round_up(cols, 4), 8);
        const T* from = mem.low + x0 * S::DOWN;
        FragmentC sums[4];
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) fill(sums[n], 0);
        FragmentB<T> weights[S::DOWN_TAPS][2];
        SG3_UNROLL
        for (int k = 0; k < S::DOWN_TAPS + 6; ++k) {
            if (k < S::DOWN_TAPS) {
                load_fragments<2>(weights[k], mem.table + (Memory::ALONG + 4 * k) * 32);
            }
            SG3_UNROLL
            for (int step = 0; step < 2; ++step) {
                FragmentA<T> mid;
                load_matrices<false>(
                    mid, [&](int lane) { return radial_row(from, k, lane) + step * 16; });
                SG3_UNROLL
                for (int n = 0; n < 4; ++n) {
                    const int own = k - 2 * n;
                    if (own < 0 || own >= S::DOWN_TAPS) continue;
                    multiply_add(sums[n], mid, weights[own][step]);
                }
            }
        }
        each_lane([&](int lane) {
            const int x = x0 + lane % 4 * 2;
            SG3_UNROLL
            for (int n = 0; n < 8; ++n) {
                const float* v = sums[n % 4][lane].r + n / 4 * 2;
                const int y = lane / 4 * 4 + n % 4 + n / 4 * 32;
                if (y >= rows || x < col) continue;
                put<Together>(out + (y * pitch + x), x, pack(v[0], v[1], T()));
                add(lane, v, x);
            }
        });
    }

    // Of the rows 8 * m + k that are loaded, later ones belong to no output.
    static constexpr int LAST = (S::TILE_H - 1) / 4;

    static SG3_DEVICE const T* radial_row(const T* from, int k, int lane) {
        const int m = smaller(lane % 16, LAST);
        return from + Memory::radial_place(m * 8) + Memory::radial_place(k) + lane / 16 * 8;
    }
};

}  // namespace sg3
