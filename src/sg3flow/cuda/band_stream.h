// A warp's 16 rows of the upsampled signal in blocks of 16 columns: upsampled, activated and for a
// separable filter downsampled across. All of it follows in registers: a product's result, rounded,
// is an operand of the next.
//   strip [16 mid rows x 8 in cols]    = up along [16 x 16 in rows] * x
//   mid   [16 mid rows x 8 mid cols]   = strips [16 x 16 in cols] * up across^T
//   low   [16 mid rows x 8 out cols]  += act mid [16 x 16 mid cols] * down across^T
// 16 upsampled columns reach at most 16 outputs: 8 that are then complete, and 8 that are begun.
// With a radial filter mid is a sum over the filter's rows j of x [16 rows from j on] * up_j^T.
#pragma once

#include "band_flags.h"
#include "band_table.h"

namespace sg3 {

// The place of row lane % 16 in a matrix of 16 rows, the right 8 columns for the later lanes.
template <class T>
SG3_DEVICE const T* eight_of(const T* from, int pitch, int lane) {
    return from + lane % 16 * pitch + lane / 16 * 8;
}

template <class S, class T, FlagMode Mode>
struct BandStream {
    using Block = BandBlock<S, T>;
    using Memory = typename Block::Memory;
    static constexpr int GROUP = 4;  // blocks that are unrolled
    static constexpr int P = S::PER_STRIP, W = S::WINDOWS, EVEN = S::EVEN;

    const Block& block;
    Memory& mem;
    PairBend<T> bender;
    int warp;

    FragmentA<T> up_along;
    FragmentB<T> up_across[S::UP_RADIAL ? 2 * S::PHASE_TAPS : 4], across[2 * W];
    FragmentA<T> raw;      // two strips, not yet upsampled
    FragmentA<T> strips;   // the last two; where every block has its own, the even one first
    FragmentC sums[2];     // of the outputs begun before, of those begun now; they take turns
    FlagWriter<T> writer;

    // Where a lane is: its input, its two rows of outputs or activated samples, and of flags.
    struct Places {
        const T* in;
        T* low[2];
        uint32_t* flags[2];
        uint32_t codes[2];  // the words that the lane's flags of the next block begin in,
        int offset;         // so many bits in
    };
    PerLane<Places> places;

    SG3_DEVICE BandStream(const Block& block, int warp)
        : block(block), mem(block.mem), bender(block.slope, block.limit), warp(warp) {}

    // `clips`: samples may reach the limit.
    SG3_DEVICE void run(int64_t plane, bool clips) {
        load_weights();
        find_places(plane);
        if constexpr (!S::UP_RADIAL) {
            load_strips(0);
            make_strip(0, 0);
        }
        if (Mode != READ_FLAGS && clips) {
            run_blocks<true>();
        } else {
            run_blocks<false>();
        }
        if constexpr (!S::DOWN_RADIAL) put_last();
    }

    template <bool Clip>
    SG3_DEVICE void run_blocks() {
        SG3_ROLLED
        for (int left = block.plan.blocks; left > 0; left -= GROUP) {
            if (Mode == WRITE_FLAGS) writer.start(mem.table + Memory::POWERS * 32);
            SG3_UNROLL
            for (int i = 0; i < GROUP; ++i) {
                if (i % EVEN == 0 && i >= left) break;
                FragmentC mid[2];
                upsample(i, mid);
                FragmentA<T> bent;
                bend<Clip>(i, mid, bent);
                put(i, left < block.plan.blocks, bent);
            }
            if (Mode == WRITE_FLAGS) put_flags();
            go_on();
        }
    }

    SG3_DEVICE void load_weights() {
        const Pair<T>* table = mem.table;
        if constexpr (S::UP_RADIAL) {
            table += warp % S::UP * 4 * S::PHASE_TAPS * 32;
            load_fragments<2 * S::PHASE_TAPS>(up_across, table);
        } else {
            load_fragment(up_along, table);
            load_fragments<4>(up_across, table + Memory::UP_X * 32);
        }
        if constexpr (!S::DOWN_RADIAL) {
            load_fragments<2 * W>(across, mem.table + Memory::ACROSS * 32);
            fill(sums[0], 0);
        }
    }

    SG3_DEVICE void find_places(int64_t plane) {
        const int phase = warp % S::UP + block.at.ay.shift;
        const int in_row = S::UP_RADIAL ? warp / S::UP * 16 + (phase + S::UP - 1) / S::UP
                                        : warp * (16 / S::UP);
        each_lane([&](int lane) {
            Places& at = places[lane];
            at.in = eight_of(mem.in + in_row * Memory::IN_PITCH, Memory::IN_PITCH, lane);
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) {
                const int row = block.mid_row(warp, lane / 4 + 8 * n);
                const int t = lane % 4;
                at.low[n] = mem.low + (S::DOWN_RADIAL ? Memory::radial_place(row) + t * 2
                                                      : row * Memory::LOW_PITCH + low_place(t));
                at.flags[n] = mem.flags + row * Memory::FLAG_PITCH;
                if (Mode == WRITE_FLAGS) at.flags[n] += t;
            }
            if (Mode == READ_FLAGS) {
                const int row = block.mid_row(warp, lane / 4);
                const int bits = ReadFlags<S, T>::row_offset(block, plane, row) + lane % 4 * 4;
                at.offset = bits % 32;
                SG3_UNROLL
                for (int n = 0; n < 2; ++n) at.codes[n] = *(at.flags[n] += bits / 32);
            }
        });
    }

    // Outputs that wait to be downsampled along lie, in 16 columns, so that a lane's two results of
    // those products are 4 neighbors: of the first 8 columns its pair comes here, ...
    static SG3_DEVICE int low_place(int t) { return t % 2 * 8 + t / 2 * 2; }
    // ... and 8 columns `count` times later so much further.
    static SG3_BOTH constexpr int later_eight(int count) {
        return (count + 4) / 2 * 16 - 32 + (count + 4) % 2 * 4;
    }

    // After four blocks everything lies so much further.
    SG3_DEVICE void go_on() {
        each_lane([&](int lane) {
            Places& at = places[lane];
            at.in += GROUP * 16 / S::UP;
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) {
                at.low[n] += S::DOWN_RADIAL ? GROUP * 16 : later_eight(GROUP / W);
                at.flags[n] += GROUP;
            }
        });
    }

    // Strips 1 and 2 of a group, or 3 and 4; strip 0 is that of the group before.
    SG3_DEVICE void load_strips(int strip) {
        load_matrices<true>(raw, [&](int lane) { return places[lane].in + strip * 8; });
    }

    // One of the two that are loaded, upsampled along.
    SG3_DEVICE void make_strip(int which, int strip) {
        FragmentB<T> x;
        each_lane([&](int lane) {
            x[lane] = {{raw[lane].r[2 * which], raw[lane].r[2 * which + 1]}};
        });
        FragmentC c;
        fill(c, 0);
        multiply_add(c, up_along, x);
        each_lane([&](int lane) {
            const float* v = c[lane].r;
            LaneA<T>& two = strips[lane];
            if (P == 2) two = {{two.r[2], two.r[3], two.r[0], two.r[1]}};
            const int to = P == 2 ? 2 : strip % 2 * 2;
            two.r[to] = pack(v[0], v[1], T());
            two.r[to + 1] = pack(v[2], v[3], T());
        });
    }

    SG3_DEVICE void upsample(int i, FragmentC* mid) {
        fill(mid[0], 0);
        fill(mid[1], 0);
        if constexpr (S::UP_RADIAL) {
            upsample_radial(i, mid);
            return;
        }
        const int strip = i / P;  // and the next one
        if (i % P == 0) {
            if (strip % 2 == 0) load_strips(strip + 1);
            make_strip(strip % 2, strip + 1);
        }
        // where an even strip follows an odd one, the weights are turned about
        const FragmentB<T>* weights = up_across + i % 2 * 2;
        multiply_add(mid[0], strips, weights[0]);
        multiply_add(mid[1], strips, weights[1]);
    }

    SG3_DEVICE void upsample_radial(int i, FragmentC* mid) {
        SG3_UNROLL
        for (int j = 0; j < S::PHASE_TAPS; ++j) {
            FragmentA<T> x;
            load_matrices<false>(x, [&](int lane) {
                return places[lane].in + j * Memory::IN_PITCH + i * (16 / S::UP);
            });
            multiply_add(mid[0], x, up_across[2 * j]);
            multiply_add(mid[1], x, up_across[2 * j + 1]);
        }
    }

    // mid, rounded and activated, or multiplied by what the flags say.
    template <bool Clip>
    SG3_DEVICE void bend(int i, const FragmentC* mid, FragmentA<T>& bent) {
        each_lane([&](int lane) {
            SG3_UNROLL
            for (int n = 0; n < 4; ++n) {
                const float* v = mid[n / 2][lane].r + n % 2 * 2;
                bent[lane].r[n] = pack(v[0], v[1], T());
            }
        });
        if constexpr (Mode == READ_FLAGS) {
            scale(i, bent);
            return;
        }
        FragmentA<T> codes;
        each_lane([&](int lane) {
            SG3_UNROLL
            for (int n = 0; n < 4; ++n) {
                bent[lane].r[n] = bender.lean(bent[lane].r[n]);
            }
            SG3_UNROLL
            for (int n = 0; n < 4; ++n) {
                Pair<T>& v = bent[lane].r[n];
                if (Mode == WRITE_FLAGS) codes[lane].r[n] = bender.template code<Clip>(v);
                if (Clip) v = Pairs<T>::clip(v, bender.limit);
            }
        });
        if (Mode == WRITE_FLAGS) writer.add(codes, i);
    }

    SG3_DEVICE void scale(int i, FragmentA<T>& bent) {
        PerLane<TwoWords> codes;
        const bool some_clipped = any_lane([&](int lane) {
            Places& at = places[lane];
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) {
                const uint32_t next = at.flags[n][i + 1];
                codes[lane].v[n] = shift_right(at.codes[n], next, at.offset);
                at.codes[n] = next;
            }
            return ((codes[lane].v[0] | codes[lane].v[1]) & 0x000a000au) != 0;
        });
        each_lane([&](int lane) {
            const Pair<T> one = same_pair<T>(1.0f);
            each_mask(codes[lane], 0, [&](int n, uint32_t mask) {
                Pair<T>& v = bent[lane].r[n];
                v = Pairs<T>::times(v, Pairs<T>::choose(one, bender.slope, mask));
            });
        });
        if (!some_clipped) return;
        each_lane([&](int lane) {
            const Pair<T> none = same_pair<T>(0.0f);
            each_mask(codes[lane], 1, [&](int n, uint32_t mask) {
                bent[lane].r[n] = Pairs<T>::choose(bent[lane].r[n], none, mask);
            });
        });
    }

    SG3_DEVICE void put_flags() {
        each_lane([&](int lane) {
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) places[lane].flags[n][0] = writer.word(lane, n);
        });
    }

    // `later`: this is not the first group.
    SG3_DEVICE void put(int i, bool later, const FragmentA<T>& bent) {
        if constexpr (S::DOWN_RADIAL) {
            put_mid(i, bent);
            return;
        }
        FragmentC &now = sums[i / W % 2], &next = sums[1 - i / W % 2];
        multiply_add(now, bent, across[i % W * 2]);
        if (i % W == 0) fill(next, 0);
        multiply_add(next, bent, across[i % W * 2 + 1]);
        if (i % W != W - 1) return;
        if (i >= W || later) put_low(now, i / W - 1);
    }

    // 8 columns that are complete, `later` times 8 after the group's first.
    SG3_DEVICE void put_low(const FragmentC& sum, int later) {
        each_lane([&](int lane) {
            const float* v = sum[lane].r;
            SG3_UNROLL
            for (int n = 0; n < 2; ++n) {
                store_pair(places[lane].low[n] + later_eight(later),
                           pack(v[2 * n], v[2 * n + 1], T()));
            }
        });
    }

    // The 8 columns that were begun last, complete as far as there are any.
    SG3_DEVICE void put_last() {
        if (block.plan.blocks % GROUP == 0) {
            put_low(sums[0], -1);
        } else {
            put_low(sums[W - 1], W == 1 ? -3 : -2);
        }
    }

    SG3_DEVICE void put_mid(int i, const FragmentA<T>& bent) {
        each_lane([&](int lane) {
            SG3_UNROLL
            for (int n = 0; n < 4; ++n) {
                store_pair(places[lane].low[n % 2] + i * 16 + n / 2 * 8, bent[lane].r[n]);
            }
        });
    }
};

}  // namespace sg3
