// filtered_lrelu on one tile of one plane, in shared memory: the input comes in once, the outputs
// and 2 bits of every upsampled sample go out once. Sums run in float32.
//
// The phases, each one thread's share of the work, with a barrier between them:
//   load | upsample across, upsample along and activate (or both at once) | downsample along,
//   downsample across (or both at once) | pack the flags
#pragma once

#include "block_sum.h"
#include "codes.h"
#include "tile_shape.h"
#include "types.h"

namespace sg3 {

template <class S, class T>
struct Tile {
    using Memory = TileMemory<S>;

    const Sg3FilteredLrelu& op;
    Memory& mem;
    TilePlace at;
    int tile;  // of the plane
    float gain, slope;
    float limit;  // of the activated samples before the gain, or -1

    SG3_DEVICE Tile(const Sg3FilteredLrelu& op, Memory& mem, int64_t plane, int tile_x, int tile_y)
        : op(op),
          mem(mem),
          at(tile_place<S>(op, plane, tile_x, tile_y, S::TILE_W, S::TILE_H)),
          tile(tile_y * op.sums_x + tile_x),
          gain(static_cast<float>(op.gain)),
          slope(static_cast<float>(op.slope)),
          limit(static_cast<float>(op.limit)) {}

    template <bool ReadFlags, class Threads>
    SG3_DEVICE void run(const Threads& threads) {
        threads.each([&](int thread) {
            load_taps(thread);
            load_input(thread);
            if (ReadFlags) {
                load_codes<S::GROUPS, S::MID_W, S::THREADS>(op, at, S::MID_H, mem.codes, thread);
            }
        });
        if constexpr (S::UP_RADIAL) {
            threads.each([&](int thread) { upsample<ReadFlags>(thread); });
        } else {
            threads.each([&](int thread) { upsample_across(thread); });
            threads.each([&](int thread) { upsample_along<ReadFlags>(thread); });
        }
        if constexpr (S::DOWN_RADIAL) {
            threads.each([&](int thread) { downsample<ReadFlags>(thread); });
        } else {
            threads.each([&](int thread) { downsample_along(thread); });
            threads.each([&](int thread) { downsample_across<ReadFlags>(thread); });
        }
        if (op.sums) {
            float* to = op.sums + at.plane * op.sums_plane + tile;
            write_block_sum<S::THREADS>(threads, mem.partials(), to);
        }
        if (!ReadFlags && op.flags) {
            threads.each([&](int thread) {
                store_codes<S::GROUPS, S::MID_W, S::THREADS>(op, at, S::MID_H, mem.codes, thread);
            });
        }
    }

    // Upsampling taps in polyphase order, [phase y, tap y, phase x, tap x], with the gain up * up;
    // downsampling taps as a correlation, the ones across moved by the tile's shift.
    SG3_DEVICE void load_taps(int thread) {
        constexpr int T_ = S::PHASE_TAPS;
        for (int i = thread; i < Memory::UP_COUNT; i += S::THREADS) {
            const int across = i % S::UP_TAPS, along = i / S::UP_TAPS;
            const int px = phase_tap(across / T_, across % T_, S::UP);
            const int py = phase_tap(along / T_, along % T_, S::UP);
            const int kx = tap_index(px, S::UP_TAPS, op.flip);
            const int ky = tap_index(py, S::UP_TAPS, op.flip);
            mem.up_taps[i] = S::UP_RADIAL ? op.fu.taps[ky * S::UP_TAPS + kx] * (S::UP * S::UP)
                                          : op.fu.taps[kx] * S::UP;
        }
        for (int i = thread; i < Memory::DOWN_COUNT; i += S::THREADS) {
            if (!S::DOWN_RADIAL && i < S::DOWN_TAPS) {
                mem.down_taps[i] = op.fd.taps[tap_index(i, S::DOWN_TAPS, op.flip)] * gain;
                continue;
            }
            const int j = S::DOWN_RADIAL ? i : i - S::DOWN_TAPS;
            const int k = j % Memory::SHIFTED - at.ax.shift;
            float tap = 0;
            if (k >= 0 && k < S::DOWN_TAPS) {
                const int kx = tap_index(k, S::DOWN_TAPS, op.flip);
                const int ky = tap_index(j / Memory::SHIFTED, S::DOWN_TAPS, op.flip);
                tap = S::DOWN_RADIAL ? op.fd.taps[ky * S::DOWN_TAPS + kx] * gain
                                     : op.fd.taps[kx];
            }
            mem.down_taps[i] = tap;
        }
    }

    SG3_DEVICE const float* across_taps() const { return mem.down_taps + S::DOWN_TAPS; }

    // The bias belongs to the image, not to the zeros around it.
    SG3_DEVICE void load_input(int thread) {
        const T* x = static_cast<const T*>(op.x) + at.plane * op.in_h * op.in_w;
        const T* b = static_cast<const T*>(op.b);
        const float bias = b ? widen(b[plane_channel(op, at.plane)]) : 0.0f;
        for (int i = thread; i < Memory::IN; i += S::THREADS) {
            const int64_t row = at.ay.in_first + i / S::IN_W, col = at.ax.in_first + i % S::IN_W;
            const bool inside = row >= 0 && row < op.in_h && col >= 0 && col < op.in_w;
            mem.in()[i] = inside ? widen(x[row * op.in_w + col]) + bias : 0.0f;
        }
    }

    SG3_DEVICE void upsample_across(int thread) {
        constexpr int T_ = S::PHASE_TAPS, STEP = 4 / S::UP;
        float taps[S::UP_TAPS];
        SG3_UNROLL
        for (int k = 0; k < S::UP_TAPS; ++k) taps[k] = mem.up_taps[k];
        for (int i = thread; i < S::IN_H * S::GROUPS; i += S::THREADS) {
            const int row = i / S::GROUPS, group = i % S::GROUPS;
            const float* from = mem.in() + row * S::IN_W + group * STEP;
            float in[STEP + T_];
            SG3_UNROLL
            for (int j = 0; j < STEP + T_; ++j) in[j] = from[j];
            Vec4 sum;
            SG3_UNROLL
            for (int n = 0; n < 4; ++n) {
                const int p = n % S::UP, begin = n / S::UP + (p > 0);
                sum.v[n] = 0;
                SG3_UNROLL
                for (int j = 0; j < T_; ++j) sum.v[n] += taps[p * T_ + j] * in[begin + j];
            }
            store4(mem.wide() + row * S::MID_PITCH + group * 4, sum);
        }
    }

    // 4 columns at a time, down a run of rows, the input rows in a sliding window of registers.
    template <bool ReadFlags>
    SG3_DEVICE void upsample_along(int thread) {
        constexpr int T_ = S::PHASE_TAPS, RUN = S::UP_RUN, ROWS = S::MID_H / S::UP;
        const int group = thread % S::GROUPS, begin = thread / S::GROUPS * RUN;
        if (begin >= ROWS || thread >= S::THREADS / S::GROUPS * S::GROUPS) return;
        float taps[S::UP_TAPS];
        SG3_UNROLL
        for (int k = 0; k < S::UP_TAPS; ++k) taps[k] = mem.up_taps[k];
        const float* from = mem.wide() + group * 4;
        Vec4 window[T_ + 1];
        SG3_UNROLL
        for (int j = 0; j < T_; ++j) window[j] = load4(from + (begin + j) * S::MID_PITCH);
        SG3_UNROLL
        for (int n = 0; n < RUN; ++n) {
            if (begin + n >= ROWS) break;
            window[T_] = load4(from + (begin + n + T_) * S::MID_PITCH);
            SG3_UNROLL
            for (int p = 0; p < S::UP; ++p) {
                Vec4 sum = {{0, 0, 0, 0}};
                SG3_UNROLL
                for (int j = 0; j < T_; ++j) {
                    SG3_UNROLL
                    for (int c = 0; c < 4; ++c) {
                        sum.v[c] += taps[p * T_ + j] * window[j + (p > 0)].v[c];
                    }
                }
                put_mid<ReadFlags>((begin + n) * S::UP + p, group, sum);
            }
            SG3_UNROLL
            for (int j = 0; j < T_; ++j) window[j] = window[j + 1];
        }
    }

    // Activates 4 upsampled samples, or multiplies them by what their flags say, and keeps them.
    template <bool ReadFlags>
    SG3_DEVICE void put_mid(int row, int group, Vec4 sum) {
        uint8_t* codes_at = mem.codes + row * S::MID_W + group * 4;
        uint32_t codes = 0;
        if (ReadFlags) codes = load_word<uint32_t>(codes_at);
        SG3_UNROLL
        for (int c = 0; c < 4; ++c) {
            if (ReadFlags) {
                sum.v[c] *= flag_factor(codes >> (8 * c) & 3, slope);
            } else {
                const Bent<float> bent = bend(sum.v[c], slope, limit);
                sum.v[c] = bent.value;
                codes |= bent.code << (8 * c);
            }
        }
        if (!ReadFlags) store_word(codes_at, codes);
        store4(mem.mid() + row * S::MID_PITCH + group * 4, sum);
    }

    // Both axes at once: the UP rows of one input row, 4 columns.
    template <bool ReadFlags>
    SG3_DEVICE void upsample(int thread) {
        constexpr int T_ = S::PHASE_TAPS, STEP = 4 / S::UP;
        for (int i = thread; i < S::MID_H / S::UP * S::GROUPS; i += S::THREADS) {
            const int n = i / S::GROUPS, group = i % S::GROUPS;
            Vec4 sum[S::UP] = {};
            SG3_ROLLED
            for (int y = 0; y <= T_; ++y) {
                const float* from = mem.in() + (n + y) * S::IN_W + group * STEP;
                float in[STEP + T_];
                SG3_UNROLL
                for (int j = 0; j < STEP + T_; ++j) in[j] = from[j];
                SG3_UNROLL
                for (int py = 0; py < S::UP; ++py) {
                    const int j = y - (py > 0);
                    if (j < 0 || j >= T_) continue;
                    add_row(mem.up_taps + (py * T_ + j) * S::UP_TAPS, in, sum[py]);
                }
            }
            SG3_UNROLL
            for (int py = 0; py < S::UP; ++py) put_mid<ReadFlags>(n * S::UP + py, group, sum[py]);
        }
    }

    SG3_DEVICE void add_row(const float* taps, const float* in, Vec4& sum) {
        constexpr int T_ = S::PHASE_TAPS;
        SG3_UNROLL
        for (int p = 0; p < S::UP; ++p) {
            SG3_UNROLL
            for (int j = 0; j < T_; ++j) {
                const float tap = taps[p * T_ + j];
                SG3_UNROLL
                for (int c = p; c < 4; c += S::UP) sum.v[c] += tap * in[c / S::UP + (p > 0) + j];
            }
        }
    }

    // 4 columns at a time, down a run of outputs; every upsampled row is read once.
    SG3_DEVICE void downsample_along(int thread) {
        constexpr int RUN = S::DOWN_RUN, D = S::DOWN, K = S::DOWN_TAPS;
        const int group = thread % S::GROUPS, begin = thread / S::GROUPS * RUN;
        if (begin >= S::TILE_H || thread >= S::THREADS / S::GROUPS * S::GROUPS) return;
        float taps[K];
        SG3_UNROLL
        for (int k = 0; k < K; ++k) taps[k] = mem.down_taps[k];
        Vec4 sum[RUN] = {};
        SG3_UNROLL
        for (int row = 0; row < (RUN - 1) * D + K; ++row) {
            const int mid_row = begin * D + row + at.ay.shift;
            if (mid_row >= S::MID_H) break;
            const Vec4 v = load4(mem.mid() + mid_row * S::MID_PITCH + group * 4);
            SG3_UNROLL
            for (int o = 0; o < RUN; ++o) {
                const int k = row - o * D;
                if (k < 0 || k >= K) continue;
                SG3_UNROLL
                for (int c = 0; c < 4; ++c) sum[o].v[c] += taps[k] * v.v[c];
            }
        }
        SG3_UNROLL
        for (int o = 0; o < RUN; ++o) {
            if (begin + o >= S::TILE_H) break;
            store4(mem.low() + (begin + o) * S::MID_PITCH + group * 4, sum[o]);
        }
    }

    template <bool ReadFlags>
    SG3_DEVICE void downsample_across(int thread) {
        constexpr int COLS = S::TILE_W / S::OUTS;
        float taps[S::SHIFTED_TAPS];
        SG3_UNROLL
        for (int k = 0; k < S::SHIFTED_TAPS; ++k) taps[k] = across_taps()[k];
        float total = 0.0f;
        for (int i = thread; i < S::TILE_H * COLS; i += S::THREADS) {
            const int row = i / COLS, col = i % COLS;
            float sum[S::OUTS] = {};
            add_across(mem.low() + row * S::MID_PITCH + col * 4, taps, sum);
            total += put_out<ReadFlags>(row, col, sum);
        }
        if (op.sums) mem.partials()[thread] = total;
    }

    // Adds a row's share to neighboring outputs, the first of which begins at `from`.
    SG3_DEVICE void add_across(const float* from, const float* taps, float* sum) {
        float v[S::OUT_READS * 4];
        SG3_UNROLL
        for (int j = 0; j < S::OUT_READS; ++j) {
            const Vec4 four = load4(from + j * 4);
            SG3_UNROLL
            for (int c = 0; c < 4; ++c) v[j * 4 + c] = four.v[c];
        }
        SG3_UNROLL
        for (int k = 0; k < S::SHIFTED_TAPS; ++k) {
            SG3_UNROLL
            for (int o = 0; o < S::OUTS; ++o) sum[o] += taps[k] * v[o * S::DOWN + k];
        }
    }

    // Both axes at once: OUTS neighbors, the filter row by row.
    template <bool ReadFlags>
    SG3_DEVICE void downsample(int thread) {
        constexpr int COLS = S::TILE_W / S::OUTS;
        float total = 0.0f;
        for (int i = thread; i < S::TILE_H * COLS; i += S::THREADS) {
            const int row = i / COLS, col = i % COLS;
            float sum[S::OUTS] = {};
            SG3_ROLLED
            for (int ky = 0; ky < S::DOWN_TAPS; ++ky) {
                const int mid_row = row * S::DOWN + ky + at.ay.shift;
                add_across(mem.mid() + mid_row * S::MID_PITCH + col * 4,
                           mem.down_taps + ky * Memory::SHIFTED, sum);
            }
            total += put_out<ReadFlags>(row, col, sum);
        }
        if (op.sums) mem.partials()[thread] = total;
    }

    // The share of these outputs in the tile's sum: their squares, or of a gradient themselves.
    template <bool ReadFlags>
    SG3_DEVICE float put_out(int row, int col, const float* sum) {
        const int64_t y = at.out_y + row, x = at.out_x + col * S::OUTS;
        if (y >= op.out_h) return 0.0f;
        T* to = static_cast<T*>(op.y) + (at.plane * op.out_h + y) * op.out_w + x;
        float share = 0.0f;
        SG3_UNROLL
        for (int o = 0; o < S::OUTS; ++o) {
            if (x + o >= op.out_w) break;
            narrow(sum[o], to + o);
            share += ReadFlags ? sum[o] : sum[o] * sum[o];
        }
        return share;
    }
};

}  // namespace sg3
