// Loops of a grid over any count of elements.
#pragma once

#include "portable.h"

namespace sg3 {

constexpr int THREADS = 256;

// The first element of this thread, and the step to its next one.
SG3_DEVICE int64_t first_element() {
    return static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
}
SG3_DEVICE int64_t element_step() { return static_cast<int64_t>(gridDim.x) * THREADS; }

}  // namespace sg3
