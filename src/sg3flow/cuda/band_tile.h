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

#include "flags.h"
#include "matrix.h"
#include "tile_shape.h"

namespace sg3 {

template <int Up, int UpTaps, int Down, int DownTaps>
struct BandShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = false, DOWN_RADIAL = false;
    static constexpr int WARPS = 8, THREADS = WARPS * 32, PHASE_TAPS = UP_TAPS / UP;
    static constexpr int MID_W = WARPS * 16, GROUPS = MID_W / 4;
    static constexpr int OUT_STEPS = round_up(7 * DOWN + DOWN_TAPS + UP - 1, 16) / 16;
    static constexpr int TILE_W = ((MID_W - OUT_STEPS * 16) / (8 * DOWN) + 1) * 8;
    static constexpr int TILE_H = DOWN == 4 ? 32 : 64;  // at most: rows are shared out evenly

    // A turn of the loop: whole blocks of 8 input rows and whole moves of the window.
    static constexpr int TURN_IN = larger(1, DOWN / UP);
    static constexpr int TURN_MID = TURN_IN * 8 * UP;
    static constexpr int WINDOWS = DOWN / 2;  // blocks of 16 upsampled rows for a move
    static SG3_BOTH constexpr int turns(int tile_h) {
        return (8 * DOWN * (tile_h / 8 + 1) + TURN_MID - 1) / TURN_MID;
    }
    static constexpr int MID_H = turns(TILE_H) * TURN_MID;
    static constexpr int IN_W = (MID_W - 16) / UP + 16, IN_H = MID_H / UP + 8;

    // Rows of 4 more words, modulo 8, let the 8 rows of a fragment fall into different banks.
    static constexpr int banked(int width) { return round_up(width - 8, 16) + 8; }
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
    alignas(16) T in[larger(IN, OUT)];  // the outputs take the place of the inputs
    alignas(16) T low[S::TILE_H * S::LOW_PITCH];
    alignas(16) uint8_t codes[S::MID_H * S::CODE_PITCH];
    float up_taps[S::UP_TAPS], down_taps[S::DOWN_TAPS];
};

// Rows of a tile, where `out_h` rows are shared out evenly.
template <class S>
SG3_BOTH int band_rows(int out_h) {
    const int tiles = (out_h + S::TILE_H - 1) / S::TILE_H;
    return round_up((out_h + tiles - 1) / tiles, 8);
}

template <class S, class T>
struct BandTile {
    using Memory = BandMemory<S, T>;

    const Sg3FilteredLrelu& op;
    Memory& mem;
    int64_t plane;
    int rows;
    int64_t out_x, out_y;  // the tile's first output
    TileAxis ax, ay;
    float gain, slope;
    float limit;  // of the bent samples before the gain, or -1

    SG3_DEVICE BandTile(const Sg3FilteredLrelu& op, Memory& mem, int64_t plane, int rows,
                        int tile_x, int tile_y)
        : op(op),
          mem(mem),
          plane(plane),
          rows(rows),
          out_x(static_cast<int64_t>(tile_x) * S::TILE_W),
          out_y(static_cast<int64_t>(tile_y) * rows),
          ax(tile_axis(out_x, S::UP, S::DOWN, op.pad_x)),
          ay(tile_axis(out_y, S::UP, S::DOWN, op.pad_y)),
          gain(static_cast<float>(op.gain)),
          slope(static_cast<float>(op.slope)),
          limit(op.clamp >= 0 ? static_cast<float>(op.clamp / op.gain) : -1.0f) {}

    template <bool ReadFlags, class Threads>
    SG3_DEVICE void run(const Threads& threads) {
        threads.each([&](int thread) {
            load_taps(thread);
            load_input(thread);
            if (ReadFlags) load_codes(thread);
        });
        threads.each_warp([&](int warp) { stream<ReadFlags>(warp); });
        threads.each_warp([&](int warp) { downsample_across(warp); });
        threads.each([&](int thread) {
            store_out(thread);
            if (!ReadFlags && op.flags) store_codes(thread);
        });
    }

    SG3_DEVICE void load_taps(int thread) {
        if (thread < S::UP_TAPS) {
            mem.up_taps[thread] = op.fu.taps[tap_index(thread, S::UP_TAPS, op.flip)] * S::UP;
        }
        if (thread < S::DOWN_TAPS) {
            mem.down_taps[thread] = op.fd.taps[tap_index(thread, S::DOWN_TAPS, op.flip)];
        }
    }

    // The bias belongs to the image, not to the zeros around it.
    SG3_DEVICE void load_input(int thread) {
        const T* x = static_cast<const T*>(op.x) + plane * op.in_h * op.in_w;
        const float bias = op.b ? widen(static_cast<const T*>(op.b)[plane % op.channels]) : 0.0f;
        const int count = (turns() * S::TURN_MID / S::UP + 8) * S::IN_PITCH;
        SG3_UNROLL_BY_4
        for (int i = thread; i < count; i += S::THREADS) {
            const int64_t row = ay.in_first + i / S::IN_PITCH, col = ax.in_first + i % S::IN_PITCH;
            const bool inside = row >= 0 && row < op.in_h && col >= 0 && col < op.in_w;
            narrow(inside ? widen(x[row * op.in_w + col]) + bias : 0.0f, mem.in + i);
        }
    }

    SG3_DEVICE int turns() const { return S::turns(rows); }

    SG3_DEVICE void load_codes(int thread) {
        const uint8_t* flags =
            op.flags + plane * op.flags_h * static_cast<int64_t>(op.flags_stride);
        for (int i = thread; i < turns() * S::TURN_MID * S::GROUPS; i += S::THREADS) {
            const int row = i / S::GROUPS, col = i % S::GROUPS * 4;
            const uint32_t four = read_codes(flags, op, ay.mid_first + row, ax.mid_first + col);
            std::memcpy(mem.codes + row * S::CODE_PITCH + col, &four, 4);
        }
    }

    // Upsampled sample `mid` of a strip's share of input sample `in`; both begin at the same place.
    SG3_DEVICE float up_weight(int mid, int in) const {
        const int p = mid % S::UP, j = in - mid / S::UP - (p > 0);
        return j >= 0 && j < S::PHASE_TAPS ? mem.up_taps[phase_tap(p, j, S::UP)] : 0.0f;
    }

    SG3_DEVICE float down_weight(int tap) const {
        return tap >= 0 && tap < S::DOWN_TAPS ? mem.down_taps[tap] : 0.0f;
    }

    struct TwoPairs {
        Pair<T> r[2];
    };
    using Strip = PerLane<TwoPairs>;  // [16 cols x 8 rows], rounded

    template <bool ReadFlags>
    SG3_DEVICE void stream(int warp) {
        FragmentA<T> across, along[S::WINDOWS];
        FragmentB<T> up[S::UP];
        fill(across, [&](int row, int col) { return up_weight(row, col); });
        SG3_UNROLL
        for (int i = 0; i < S::UP; ++i) {
            fill(up[i], [&](int row, int col) { return up_weight(i * 8 + col, row); });
        }
        SG3_UNROLL
        for (int i = 0; i < S::WINDOWS; ++i) {
            fill(along[i], [&](int row, int col) {
                return gain * down_weight(i * 16 + col + (8 - row) * S::DOWN - ay.shift);
            });
        }
        FragmentC sums[2];
        clear(sums[0]);
        clear(sums[1]);
        Strip before, after;
        upsample_across(across, warp, 0, before);
        SG3_ROLLED
        for (int turn = 0; turn < turns(); ++turn) {
            SG3_UNROLL
            for (int block = 0; block < S::TURN_MID / 16; ++block) {
                constexpr int PER_IN = S::UP / 2;  // blocks of 16 upsampled rows of 8 input rows
                if (block % PER_IN == 0) {
                    upsample_across(across, warp, turn * S::TURN_IN + block / PER_IN + 1, after);
                }
                const int row = turn * S::TURN_MID + block * 16;
                FragmentB<T> bent[2];
                bend_block<ReadFlags>(before, after, up + block % PER_IN * 2, warp, row, bent);
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
            x[lane].r[0] = load_pair(mem.in + row * S::IN_PITCH + col);
            x[lane].r[1] = load_pair(mem.in + row * S::IN_PITCH + col + 8);
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
    template <bool ReadFlags>
    SG3_DEVICE void bend_block(const Strip& before, const Strip& after, const FragmentB<T>* up, int warp,
                               int row, FragmentB<T>* bent) {
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
                float* v = mid[lane].r;
                const int at = (row + half * 8 + lane % 4 * 2) * S::CODE_PITCH + warp * 16 + lane / 4;
                bend_four<ReadFlags>(v, mem.codes + at);
                bent[0][lane].r[half] = pack(v[0], v[1], T());
                bent[1][lane].r[half] = pack(v[2], v[3], T());
            });
        }
    }

    // v: columns c and c + 8, in each two rows; `codes` is at the first.
    template <bool ReadFlags>
    SG3_DEVICE void bend_four(float* v, uint8_t* codes) {
        SG3_UNROLL
        for (int i = 0; i < 4; ++i) {
            uint8_t* code = codes + i % 2 * S::CODE_PITCH + i / 2 * 8;
            if (ReadFlags) {
                v[i] *= flag_factor(*code, slope);
            } else {
                const Bent<float> bent = bend(v[i], slope, limit);
                v[i] = bent.value;
                if (op.flags) *code = static_cast<uint8_t>(bent.code);
            }
        }
    }

    // The first 8 of the window's output rows are complete with the upsampled rows from `row` on.
    SG3_DEVICE void move_window(FragmentC* sums, int warp, int row) {
        each_lane([&](int lane) {
            const int out = (row + 16) / S::DOWN - 16 + lane / 4;
            SG3_UNROLL
            for (int half = 0; half < 2; ++half) {
                float* v = sums[half][lane].r;
                if (out >= 0 && out < rows) {
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
            fill(weights[i], [&](int row, int col) {
                return down_weight(i * 16 + row - col * S::DOWN - ax.shift);
            });
        }
        constexpr int COLS = S::TILE_W / 8;
        for (int i = warp; i < (rows + 15) / 16 * COLS; i += S::WARPS) {
            const int row = i / COLS * 16, col = i % COLS * 8;
            FragmentC sum;
            clear(sum);
            SG3_UNROLL
            for (int step = 0; step < S::OUT_STEPS; ++step) {
                FragmentA<T> low;
                each_lane([&](int lane) { load_low(low[lane], lane, row, col, step); });
                multiply_add(sum, low, weights[step]);
            }
            each_lane([&](int lane) { put_out(sum[lane].r, lane, row, col); });
        }
    }

    // Rows come in eights: the second half of the last 16 may not exist.
    SG3_DEVICE void load_low(LaneA<T>& low, int lane, int row, int col, int step) {
        const int second = row + 8 < rows ? 8 * S::LOW_PITCH : 0;
        const T* from = mem.low + (row + lane / 4) * S::LOW_PITCH + col * S::DOWN + step * 16 +
                        lane % 4 * 2;
        low = {{load_pair(from), load_pair(from + second), load_pair(from + 8),
                load_pair(from + second + 8)}};
    }

    SG3_DEVICE void put_out(const float* v, int lane, int row, int col) {
        T* to = mem.in + (row + lane / 4) * S::OUT_PITCH + col + lane % 4 * 2;
        store_pair(to, pack(v[0], v[1], T()));
        if (row + 8 < rows) store_pair(to + 8 * S::OUT_PITCH, pack(v[2], v[3], T()));
    }

    SG3_DEVICE void store_out(int thread) {
        constexpr int PAIRS = S::TILE_W / 2;
        for (int i = thread; i < rows * PAIRS; i += S::THREADS) {
            const int row = i / PAIRS, col = i % PAIRS * 2;
            const int64_t y = out_y + row, x = out_x + col;
            if (y >= op.out_h || x >= op.out_w) continue;
            const T* from = mem.in + row * S::OUT_PITCH + col;
            T* to = static_cast<T*>(op.y) + (plane * op.out_h + y) * op.out_w + x;
            if (op.out_w % 2 == 0) {  // then every row begins at a whole pair
                store_pair(to, load_pair(from));
            } else {
                to[0] = from[0];
                if (x + 1 < op.out_w) to[1] = from[1];
            }
        }
    }

    // Each tile stores the flags of its own samples; the last one of a row or column, the rest too.
    SG3_DEVICE void store_codes(int thread) {
        const int64_t own_x = out_x * S::DOWN, own_y = out_y * S::DOWN;
        const int64_t end_x =
            out_x + S::TILE_W < op.out_w ? own_x + S::TILE_W * S::DOWN : op.mid_w;
        const int64_t end_y = out_y + rows < op.out_h ? own_y + rows * S::DOWN : op.mid_h;
        for (int i = thread; i < turns() * S::TURN_MID * S::GROUPS; i += S::THREADS) {
            const int64_t x = own_x + i % S::GROUPS * 4, y = own_y + i / S::GROUPS;
            if (x >= end_x || y >= end_y) continue;
            const uint8_t* codes =
                mem.codes + (y - ay.mid_first) * S::CODE_PITCH + (x - ax.mid_first);
            op.flags[(plane * op.flags_h + y) * op.flags_stride + x / 4] =
                pack_codes(codes, end_x - x);
        }
    }
};

}  // namespace sg3
