// The weights of each sample of a modulated convolution, and their gradients: one pass over the large
// tensors, sums in float32 and in a fixed order.
#pragma once

#include "launch.h"
#include "portable.h"
#include "types.h"

namespace sg3 {

constexpr int WEIGHT_THREADS = 256;
constexpr int LANES = 32;
constexpr int WEIGHT_WARPS = WEIGHT_THREADS / LANES;

template <class T, int Count>
struct alignas(sizeof(T) * Count) Run {
    T v[Count];
};

// The weights of one output of one sample, row [n * outputs + o]: `Count` elements at a time, from the
// thread's first on. The factors are in the order of the definition: w * b * a.
template <class T, int Taps, int Count>
SG3_DEVICE void scale_row(const Sg3Weights& op, int64_t row, int thread, int threads) {
    const int64_t n = row / op.outputs, o = row % op.outputs;
    const int length = op.inputs * Taps;
    const float* w = op.w + o * length;
    const float* b = op.b + n * op.inputs;
    T* y = static_cast<T*>(op.y) + row * length;
    const float a = op.a ? op.a[row] : 1.0f;
    for (int j = thread * Count; j < length; j += threads * Count) {
        const auto in = load_word<Run<float, Count>>(w + j);
        Run<T, Count> out;
        SG3_UNROLL
        for (int c = 0; c < Count; ++c) narrow(in.v[c] * b[(j + c) / Taps] * a, &out.v[c]);
        store_word(y + j, out);
    }
}

// The gradients of a tile of `OUTPUTS` outputs by 32 inputs, over all samples: a warp takes every
// eighth sample, a thread one input. `da` and `db` get one partial sum per tile.
template <int Taps>
struct WeightTile {
    static constexpr int OUTPUTS = Taps == 1 ? 32 : 4;

    struct Memory {
        float products[WEIGHT_WARPS * OUTPUTS][LANES + 1];  // + 1: no two threads of a bank
        float sums[OUTPUTS * Taps][LANES];
    };

    struct Own {
        float w[OUTPUTS][Taps];
        float dw[OUTPUTS][Taps];
    };

    const Sg3Weights& op;
    Memory& memory;
    int output_tile, input_tile;

    SG3_DEVICE int first_output() const { return output_tile * OUTPUTS; }
    SG3_DEVICE int input(int thread) const { return input_tile * LANES + thread % LANES; }

    template <class T, class Threads>
    SG3_DEVICE void run(const Threads& threads) const {
        auto own = threads.keep([&](int thread) { return loaded(thread); });
        for (int first = 0; first < op.samples; first += WEIGHT_WARPS) {
            threads.each([&](int thread) {
                take_sample<T>(own[thread], first + thread / LANES, thread);
            });
            if (op.a) threads.each([&](int thread) { sum_over_inputs(first, thread); });
        }
        for (int warp = 0; warp < WEIGHT_WARPS; ++warp) {
            threads.each([&](int thread) {
                if (thread / LANES == warp) add_to_sums(own[thread], warp == 0, thread);
            });
        }
        threads.each_alone([&](int thread) { write_sums(thread); });
    }

  private:
    SG3_DEVICE Own loaded(int thread) const {
        Own own;
        const int i = input(thread);
        SG3_UNROLL
        for (int o = 0; o < OUTPUTS; ++o) {
            const bool inside = i < op.inputs && first_output() + o < op.outputs;
            const float* w = op.w + (static_cast<int64_t>(first_output() + o) * op.inputs + i) * Taps;
            SG3_UNROLL
            for (int k = 0; k < Taps; ++k) {
                own.w[o][k] = inside ? w[k] : 0.0f;
                own.dw[o][k] = 0.0f;
            }
        }
        return own;
    }

    template <class T>
    SG3_DEVICE void take_sample(Own& own, int n, int thread) const {
        const int i = input(thread);
        const bool inside = n < op.samples && i < op.inputs;
        const float b = inside ? op.b[static_cast<int64_t>(n) * op.inputs + i] : 0.0f;
        float db = 0.0f;
        SG3_UNROLL
        for (int o = 0; o < OUTPUTS; ++o) {
            float product = 0.0f;
            if (inside && first_output() + o < op.outputs) {
                const int64_t row = static_cast<int64_t>(n) * op.outputs + first_output() + o;
                const T* grad = static_cast<const T*>(op.grad) + (row * op.inputs + i) * Taps;
                const float a = op.a ? op.a[row] : 1.0f;
                SG3_UNROLL
                for (int k = 0; k < Taps; ++k) {
                    const float g = widen(grad[k]);
                    product += g * own.w[o][k];
                    own.dw[o][k] += g * (a * b);
                }
                db += product * a;
            }
            memory.products[thread / LANES * OUTPUTS + o][thread % LANES] = product * b;
        }
        if (inside) {
            const int64_t at = static_cast<int64_t>(output_tile) * op.samples + n;
            op.db[at * op.inputs + i] = db;
        }
    }

    // Thread t: of sample first + t / OUTPUTS, output t % OUTPUTS.
    SG3_DEVICE void sum_over_inputs(int first, int thread) const {
        const int n = first + thread / OUTPUTS, o = first_output() + thread % OUTPUTS;
        if (thread >= WEIGHT_WARPS * OUTPUTS || n >= op.samples || o >= op.outputs) return;
        float sum = 0.0f;
        SG3_UNROLL
        for (int lane = 0; lane < LANES; ++lane) sum += memory.products[thread][lane];
        const int64_t at = static_cast<int64_t>(input_tile) * op.samples + n;
        op.da[at * op.outputs + o] = sum;
    }

    SG3_DEVICE void add_to_sums(const Own& own, bool is_first, int thread) const {
        SG3_UNROLL
        for (int o = 0; o < OUTPUTS; ++o) {
            SG3_UNROLL
            for (int k = 0; k < Taps; ++k) {
                float& sum = memory.sums[o * Taps + k][thread % LANES];
                sum = is_first ? own.dw[o][k] : sum + own.dw[o][k];
            }
        }
    }

    SG3_DEVICE void write_sums(int thread) const {
        const int from = input_tile * LANES, left = op.inputs - from;
        const int run = (left < LANES ? left : LANES) * Taps;
        for (int o = 0; o < OUTPUTS && first_output() + o < op.outputs; ++o) {
            const int64_t row = static_cast<int64_t>(first_output() + o) * op.inputs + from;
            for (int j = thread; j < run; j += WEIGHT_THREADS) {
                op.dw[row * Taps + j] = memory.sums[o * Taps + j % Taps][j / Taps];
            }
        }
    }
};

}  // namespace sg3
