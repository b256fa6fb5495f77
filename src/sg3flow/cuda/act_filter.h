// Bias, activation and a 4x4 filter or a sum in one pass, on a tile of 32 x 32 of one plane, with 2
// bits of every activated sample for the gradient, which also gives a sum for each tile.
//
// Values are rounded to the type where separate ops would store them. All sums are in float32.
#pragma once

#include "bias_act.h"
#include "block_sum.h"
#include "flags.h"
#include "small_filter.h"

namespace sg3 {

constexpr int ACT_THREADS = 256;
constexpr int ACT_TILE = 32;

template <class T>
struct alignas(4 * sizeof(T)) Quad {
    T v[4];
};

// The sample after bias, activation, gain and clamp, and its code.
template <class T>
SG3_DEVICE Bent<float> act_sample(const Sg3ActFilter& op, T x, float bias) {
    const float gain = static_cast<float>(op.gain), slope = static_cast<float>(op.slope);
    const float clamp = static_cast<float>(op.clamp);
    const float y = rounded<T>(activate<float>(widen(x) + bias, slope, gain, clamp));
    unsigned code = y > 0.0f ? 0 : SLOPED;
    if (clamp >= 0.0f) {
        const float limit = rounded<T>(clamp);
        if (y >= limit || y <= -limit) code |= CLIPPED;
    }
    return {y, code};
}

// The gradient of a sample before the activation.
template <class T>
SG3_DEVICE float act_gradient(const Sg3ActFilter& op, float grad, unsigned code) {
    if (code & CLIPPED) return 0.0f;  // of an infinite gradient, too
    if (code & SLOPED) grad *= static_cast<float>(op.slope);
    return rounded<T>(grad * static_cast<float>(op.gain));
}

// One plane's tile that begins with sample (x0, y0), of samples and of results alike.
template <class T, bool Filtered>
struct ActTile {
    static constexpr int HALO = Filtered ? SMALL_TAPS - 1 : 0, SIDE = ACT_TILE + HALO;
    static constexpr int ROWS = 4;  // results of a thread, one below the other

    struct Memory {
        float in[Filtered ? SIDE * SIDE : 1];
        float taps[SMALL_TAPS * SMALL_TAPS];
        float partials[ACT_THREADS];
        uint8_t codes[Filtered ? ACT_TILE * ACT_TILE : 4];
    };

    const Sg3ActFilter& op;
    Memory& mem;
    int64_t plane;
    int x0, y0;

    SG3_DEVICE ActTile(const Sg3ActFilter& op, Memory& mem, unsigned block) : op(op), mem(mem) {
        const unsigned across = static_cast<unsigned>(op.tiles_x);
        const unsigned tiles = across * static_cast<unsigned>(op.tiles_y);
        plane = block / tiles;
        x0 = static_cast<int>(block % across) * ACT_TILE;
        y0 = static_cast<int>(block / across % static_cast<unsigned>(op.tiles_y)) * ACT_TILE;
    }

    // Activates and filters; with `ReadFlags`, multiplies by what the flags say and filters.
    template <bool ReadFlags, class Threads>
    SG3_DEVICE void run(const Threads& threads) const {
        if constexpr (Filtered) {
            threads.each([&](int thread) {
                load_taps(thread);
                load_samples<ReadFlags>(thread);
            });
            threads.each_alone([&](int thread) {
                filter(thread);
                if (!ReadFlags && op.flags) store_codes(thread);
            });
        } else {
            static_assert(!ReadFlags, "that is the gradient");
            threads.each_alone([&](int thread) { act(thread); });
        }
    }

    // The gradient of the samples, and its sum.
    template <class Threads>
    SG3_DEVICE void run_gradient(const Threads& threads) const {
        if constexpr (Filtered) {
            threads.each([&](int thread) {
                load_taps(thread);
                load_gradient(thread);
            });
            threads.each([&](int thread) { mem.partials[thread] = filter_gradient(thread); });
        } else {
            threads.each([&](int thread) { mem.partials[thread] = gradient(thread); });
        }
        if (!op.sums) return;
        const int64_t tiles = static_cast<int64_t>(op.tiles_x) * op.tiles_y;
        const int tile = y0 / ACT_TILE * op.tiles_x + x0 / ACT_TILE;
        write_block_sum<ACT_THREADS>(threads, mem.partials, op.sums + plane * tiles + tile);
    }

  private:
    SG3_DEVICE int flags_stride() const { return (op.in_w + 3) / 4; }
    SG3_DEVICE int64_t flags_at(int x, int y) const {
        return (plane * op.in_h + y) * flags_stride() + x / 4;
    }
    SG3_DEVICE unsigned code_at(int x, int y) const {
        return op.flags[flags_at(x, y)] >> (x % 4 * 2) & 3;
    }
    SG3_DEVICE float bias() const {
        if (!op.b) return 0.0f;
        const auto channel = static_cast<uint32_t>(plane) % static_cast<uint32_t>(op.channels);
        return widen(static_cast<const T*>(op.b)[channel]);
    }

    SG3_DEVICE void load_taps(int thread) const {
        if (thread >= SMALL_TAPS * SMALL_TAPS) return;
        mem.taps[thread] =
            filter_value<float>(op.filter, 0, thread % SMALL_TAPS, thread / SMALL_TAPS);
    }

    // The samples that the results need: zeros around the image.
    template <bool ReadFlags>
    SG3_DEVICE void load_samples(int thread) const {
        const T* from = static_cast<const T*>(op.x) + plane * op.in_h * op.in_w;
        const float b = bias();
        for (int i = thread; i < SIDE * SIDE; i += ACT_THREADS) {
            const int row = i / SIDE - op.pad_y, col = i % SIDE - op.pad_x;
            const int y = y0 + row, x = x0 + col;
            mem.in[i] = 0.0f;
            if (y < 0 || y >= op.in_h || x < 0 || x >= op.in_w) continue;
            const T sample = from[static_cast<int64_t>(y) * op.in_w + x];
            if (ReadFlags) {
                mem.in[i] = act_gradient<T>(op, widen(sample), code_at(x, y));
                continue;
            }
            const Bent<float> bent = act_sample<T>(op, sample, b);
            mem.in[i] = bent.value;
            if (row < 0 || row >= ACT_TILE || col < 0 || col >= ACT_TILE) continue;
            mem.codes[row * ACT_TILE + col] = static_cast<uint8_t>(bent.code);
        }
    }

    SG3_DEVICE void filter(int thread) const {
        const int col = thread % ACT_TILE, x = x0 + col;
        if (x >= op.out_w) return;
        SG3_UNROLL
        for (int n = 0; n < ROWS; ++n) {
            const int row = thread / ACT_TILE * ROWS + n, y = y0 + row;
            if (y >= op.out_h) break;
            const float* from = mem.in + row * SIDE + col;
            float sum = 0.0f;
            SG3_UNROLL
            for (int i = 0; i < SMALL_TAPS * SMALL_TAPS; ++i) {
                sum += mem.taps[i] * from[i / SMALL_TAPS * SIDE + i % SMALL_TAPS];
            }
            put_result((plane * op.out_h + y) * op.out_w + x, rounded<T>(sum));
        }
    }

    SG3_DEVICE void put_result(int64_t at, float v) const {
        if (op.base) v += widen(static_cast<const T*>(op.base)[at]);
        narrow(v, static_cast<T*>(op.y) + at);
    }

    // A thread has one byte of the tile.
    SG3_DEVICE void store_codes(int thread) const {
        const int row = thread / (ACT_TILE / 4), col = thread % (ACT_TILE / 4) * 4;
        const int x = x0 + col, y = y0 + row;
        if (x >= op.in_w || y >= op.in_h) return;
        op.flags[flags_at(x, y)] = pack_codes(mem.codes + row * ACT_TILE + col, op.in_w - x);
    }

    // What the results of the forward pass give back: row r of them reached sample row
    // r + i - pad_y by filter row i.
    SG3_DEVICE void load_gradient(int thread) const {
        const T* from = static_cast<const T*>(op.x) + plane * op.out_h * op.out_w;
        for (int i = thread; i < SIDE * SIDE; i += ACT_THREADS) {
            const int y = y0 + i / SIDE + op.pad_y - HALO, x = x0 + i % SIDE + op.pad_x - HALO;
            const bool inside = y >= 0 && y < op.out_h && x >= 0 && x < op.out_w;
            mem.in[i] = inside ? widen(from[static_cast<int64_t>(y) * op.out_w + x]) : 0.0f;
        }
    }

    SG3_DEVICE float filter_gradient(int thread) const {
        const int col = thread % ACT_TILE, x = x0 + col;
        float total = 0.0f;
        if (x >= op.in_w) return total;
        SG3_UNROLL
        for (int n = 0; n < ROWS; ++n) {
            const int row = thread / ACT_TILE * ROWS + n, y = y0 + row;
            if (y >= op.in_h) break;
            const float* from = mem.in + row * SIDE + col;
            float sum = 0.0f;
            SG3_UNROLL
            for (int i = 0; i < SMALL_TAPS * SMALL_TAPS; ++i) {
                const float tap = mem.taps[SMALL_TAPS * SMALL_TAPS - 1 - i];
                sum += tap * from[i / SMALL_TAPS * SIDE + i % SMALL_TAPS];
            }
            const float dx = act_gradient<T>(op, rounded<T>(sum), code_at(x, y));
            narrow(dx, static_cast<T*>(op.y) + (plane * op.in_h + y) * op.in_w + x);
            total += dx;
        }
        return total;
    }

    // Without a filter a thread has four neighbors, a byte of flags.
    struct Place {
        int64_t at;
        int count;   // neighbors that there are
        bool whole;  // they are one word
    };
    SG3_DEVICE Place four_of(int thread) const {
        const int x = x0 + thread % (ACT_TILE / 4) * 4, y = y0 + thread / (ACT_TILE / 4);
        if (x >= op.in_w || y >= op.in_h) return {0, 0, false};
        const uintptr_t places = reinterpret_cast<uintptr_t>(op.x) |
                                 reinterpret_cast<uintptr_t>(op.y) |
                                 reinterpret_cast<uintptr_t>(op.base);
        const bool whole = op.in_w % 4 == 0 && places % sizeof(Quad<T>) == 0;
        return {(plane * op.in_h + y) * op.in_w + x, smaller_of(op.in_w - x, 4), whole};
    }
    static SG3_DEVICE int smaller_of(int a, int b) { return a < b ? a : b; }
    SG3_DEVICE uint8_t& byte_of(const Place& place) const {
        const int64_t row = place.at / op.in_w;
        return op.flags[row * flags_stride() + (place.at - row * op.in_w) / 4];
    }
    static SG3_DEVICE Quad<T> load_quad(const void* from, const Place& place) {
        const T* at = static_cast<const T*>(from) + place.at;
        if (place.whole) return load_word<Quad<T>>(at);
        Quad<T> four = {};
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) {
            if (n < place.count) four.v[n] = at[n];
        }
        return four;
    }
    SG3_DEVICE void store_quad(const Place& place, const Quad<T>& four) const {
        T* at = static_cast<T*>(op.y) + place.at;
        if (place.whole) {
            store_word(at, four);
            return;
        }
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) {
            if (n < place.count) at[n] = four.v[n];
        }
    }

    SG3_DEVICE void act(int thread) const {
        const Place place = four_of(thread);
        if (place.count == 0) return;
        const float b = bias();
        const Quad<T> in = load_quad(op.x, place);
        const Quad<T> base = op.base ? load_quad(op.base, place) : in;
        Quad<T> out;
        unsigned byte = 0;
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) {
            const Bent<float> bent = act_sample<T>(op, in.v[n], b);
            narrow(op.base ? bent.value + widen(base.v[n]) : bent.value, &out.v[n]);
            if (n < place.count) byte |= bent.code << (2 * n);
        }
        store_quad(place, out);
        if (op.flags) byte_of(place) = static_cast<uint8_t>(byte);
    }

    SG3_DEVICE float gradient(int thread) const {
        const Place place = four_of(thread);
        float total = 0.0f;
        if (place.count == 0) return total;
        const unsigned byte = byte_of(place);
        const Quad<T> in = load_quad(op.x, place);
        Quad<T> out;
        SG3_UNROLL
        for (int n = 0; n < 4; ++n) {
            const float dx = act_gradient<T>(op, widen(in.v[n]), byte >> (2 * n) & 3);
            narrow(dx, &out.v[n]);
            if (n < place.count) total += dx;
        }
        store_quad(place, out);
        return total;
    }
};

}  // namespace sg3
