// One over the L2 norm of the modulated weights of each output and sample, and its gradients; sums in
// float32 and in a fixed order.
#pragma once

#include "launch.h"
#include "portable.h"

namespace sg3 {

constexpr int DEMODULATION_THREADS = 256;
constexpr int SOME_SAMPLES = 8;  // of a block
constexpr int WARP = 32;

SG3_DEVICE float inverse_root(float v) {
#if defined(__CUDACC__)
    return 1.0f / sqrtf(v);
#else
    return 1.0f / __builtin_sqrtf(v);
#endif
}

// The sum of squares of the weights of an output and an input.
template <int Taps>
SG3_DEVICE float weight_energy(const Sg3Demodulation& op, int64_t o, int i) {
    const float* w = op.w + (o * op.inputs + i) * Taps;
    float sum = 0.0f;
    SG3_UNROLL
    for (int k = 0; k < Taps; ++k) sum += w[k] * w[k];
    return sum;
}

// The gradient of the energy a^-2 of output o and sample n.
SG3_DEVICE float energy_gradient(const Sg3Demodulation& op, int64_t n, int64_t o) {
    const float a = op.a[n * op.outputs + o];
    return -0.5f * op.grad[n * op.outputs + o] * (a * a * a);
}

// One output and `SOME_SAMPLES` samples.
template <int Taps>
struct DemodulationTile {
    static constexpr int SUMS = SOME_SAMPLES + 2;  // energies; squares of weights and of styles
    static constexpr int PARTS = 16;

    struct Memory {
        float whole[SUMS][DEMODULATION_THREADS];
        float parts[SUMS][PARTS];
    };

    const Sg3Demodulation& op;
    Memory& memory;
    int o, first;

    template <class Threads>
    SG3_DEVICE void run(const Threads& threads) const {
        threads.each([&](int thread) { take_inputs(thread); });
        threads.each([&](int thread) { sum_parts(thread); });
        threads.each_alone([&](int thread) { write(thread); });
    }

  private:
    SG3_DEVICE void take_inputs(int thread) const {
        float sums[SUMS] = {};
        for (int i = thread; i < op.inputs; i += DEMODULATION_THREADS) {
            const float energy = weight_energy<Taps>(op, o, i);
            sums[SOME_SAMPLES] += energy;
            SG3_UNROLL
            for (int n = 0; n < SOME_SAMPLES; ++n) {
                if (first + n < op.samples) sums[n] += energy * square(first + n, i);
            }
            if (op.relative) {
                for (int n = 0; n < op.samples; ++n) sums[SOME_SAMPLES + 1] += square(n, i);
            }
        }
        SG3_UNROLL
        for (int sum = 0; sum < SUMS; ++sum) memory.whole[sum][thread] = sums[sum];
    }

    SG3_DEVICE float square(int n, int i) const {
        const float s = op.s[static_cast<int64_t>(n) * op.inputs + i];
        return s * s;
    }

    SG3_DEVICE void sum_parts(int thread) const {
        constexpr int each = DEMODULATION_THREADS / PARTS;
        if (thread >= SUMS * PARTS) return;
        const float* from = &memory.whole[thread / PARTS][thread % PARTS * each];
        float sum = 0.0f;
        for (int j = 0; j < each; ++j) sum += from[j];
        memory.parts[thread / PARTS][thread % PARTS] = sum;
    }

    SG3_DEVICE float total(int sum) const {
        float all = 0.0f;
        for (int j = 0; j < PARTS; ++j) all += memory.parts[sum][j];
        return all;
    }

    SG3_DEVICE void write(int thread) const {
        if (thread >= SOME_SAMPLES || first + thread >= op.samples) return;
        float eps = op.eps;
        if (op.relative) {
            const float inputs = static_cast<float>(op.inputs);
            const float weights = total(SOME_SAMPLES) / (inputs * Taps);
            eps *= weights * (total(SOME_SAMPLES + 1) / (inputs * static_cast<float>(op.samples)));
        }
        const int64_t at = static_cast<int64_t>(first + thread) * op.outputs + o;
        op.y[at] = inverse_root(total(thread) + eps);
    }
};

// The gradient of the weights of an output and an input, element [o * inputs + i].
template <int Taps>
SG3_DEVICE void demodulation_dw(const Sg3Demodulation& op, int64_t element) {
    const int64_t o = element / op.inputs, i = element % op.inputs;
    float sum = 0.0f;
    for (int n = 0; n < op.samples; ++n) {
        const float s = op.s[static_cast<int64_t>(n) * op.inputs + i];
        sum += energy_gradient(op, n, o) * (s * s);
    }
    SG3_UNROLL
    for (int k = 0; k < Taps; ++k) op.dw[element * Taps + k] = 2.0f * op.w[element * Taps + k] * sum;
}

// The gradient of 32 styles of `SOME_SAMPLES` samples: a warp takes every eighth output.
template <int Taps>
struct StyleTile {
    static constexpr int WARPS = DEMODULATION_THREADS / WARP;
    static_assert(WARPS == SOME_SAMPLES, "a warp writes a sample");

    struct Memory {
        float sums[WARPS][SOME_SAMPLES][WARP];
    };

    const Sg3Demodulation& op;
    Memory& memory;
    int input_tile, first;

    template <class Threads>
    SG3_DEVICE void run(const Threads& threads) const {
        threads.each([&](int thread) { take_outputs(thread); });
        threads.each_alone([&](int thread) { write(thread); });
    }

  private:
    SG3_DEVICE void take_outputs(int thread) const {
        const int i = input_tile * WARP + thread % WARP;
        float sums[SOME_SAMPLES] = {};
        for (int o = thread / WARP; i < op.inputs && o < op.outputs; o += WARPS) {
            const float energy = weight_energy<Taps>(op, o, i);
            SG3_UNROLL
            for (int n = 0; n < SOME_SAMPLES; ++n) {
                if (first + n < op.samples) sums[n] += energy * energy_gradient(op, first + n, o);
            }
        }
        SG3_UNROLL
        for (int n = 0; n < SOME_SAMPLES; ++n) memory.sums[thread / WARP][n][thread % WARP] = sums[n];
    }

    SG3_DEVICE void write(int thread) const {
        const int i = input_tile * WARP + thread % WARP, n = thread / WARP;
        if (i >= op.inputs || first + n >= op.samples) return;
        float sum = 0.0f;
        SG3_UNROLL
        for (int warp = 0; warp < WARPS; ++warp) sum += memory.sums[warp][n][thread % WARP];
        const int64_t at = static_cast<int64_t>(first + n) * op.inputs + i;
        op.ds[at] = 2.0f * op.s[at] * sum;
    }
};

}  // namespace sg3
