// The sum of what the threads of a block have, in a fixed order.
#pragma once

#include "portable.h"

namespace sg3 {

// Writes the sum of `partials`, one of each of `Threads` threads, which are overwritten. All of them
// were written before a barrier.
template <int Threads, class Group>
SG3_DEVICE void write_block_sum(const Group& threads, float* partials, float* to) {
    static_assert(Threads % 32 == 0, "whole warps");
    threads.each([&](int thread) {
        if (thread >= 32) return;
        float sum = 0.0f;
        SG3_UNROLL
        for (int i = 0; i < Threads / 32; ++i) sum += partials[i * 32 + thread];
        partials[thread] = sum;
    });
    threads.each_alone([&](int thread) {
        if (thread != 0) return;
        float sum = 0.0f;
        SG3_UNROLL
        for (int i = 0; i < 32; ++i) sum += partials[i];
        *to = sum;
    });
}

}  // namespace sg3
