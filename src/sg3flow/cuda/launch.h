// The parameters of the kernels. `ops/cuda_structs.py` has the same structs; each compilation
// checks that both agree.
//
// Pairs are (x, y). Tensors are contiguous NCHW on the device that is current; filters are float32.
#pragma once

#include "portable.h"

enum Sg3Type { SG3_FLOAT16 = 0, SG3_BFLOAT16 = 1, SG3_FLOAT32 = 2, SG3_FLOAT64 = 3 };

// A FIR filter: separable (`taps` of `width`, the same on both axes) or [height, width]; `taps` is
// null for the identity, with width = height = 1.
typedef struct {
    const float* taps;
    int32_t width, height;
    int32_t separable;
} Sg3Filter;

// One upfirdn2d: up, pad, filter, down.
typedef struct {
    const void* x;  // [planes, in_h, in_w]
    void* y;        // [planes, out_h, out_w]
    Sg3Filter filter;
    int64_t planes;
    int32_t type;  // Sg3Type of x and y
    int32_t in_w, in_h, out_w, out_h;
    int32_t up_x, up_y, down_x, down_y;
    int32_t pad_x, pad_y;  // before the first sample, in upsampled samples; negative crops
    int32_t flip;          // 1 correlates, 0 convolves
    double gain;
} Sg3Upfirdn;

// One filtered_lrelu. `read_flags` 0: x + b is upsampled, activated by the leaky ReLU, clipped and
// downsampled, and `flags`, where it is not null, receives 2 bits of every upsampled sample.
// `read_flags` 1: `flags` say what each upsampled sample is multiplied by; b is null.
typedef struct {
    const void* x;   // [planes, in_h, in_w]
    const void* b;   // [channels] of the type of x, or null
    void* y;         // [planes, out_h, out_w]
    uint8_t* flags;  // [planes, flags_h, flags_stride] or null
    void* workspace; // of the two generic steps, else null
    Sg3Filter fu, fd;
    int64_t planes;
    int32_t channels;
    int32_t type;
    int32_t in_w, in_h, mid_w, mid_h, out_w, out_h;
    int32_t up_x, up_y, down_x, down_y;
    int32_t pad_x, pad_y;
    int32_t flip;
    double gain, slope, limit;  // limit: largest magnitude before the gain, below 0 for none
    int32_t read_flags;
    int32_t flags_w, flags_h, flags_stride;  // samples, rows, bytes per row
    int32_t offset_x, offset_y;              // of the flags read
} Sg3FilteredLrelu;

// y = clamp(gain * lrelu(x + b)) element by element; `grad` non-null: y = grad times the slope
// at the result x (then the op's own y).
typedef struct {
    const void* x;
    const void* b;
    const void* grad;
    void* y;
    int64_t count;     // elements
    int64_t inner;     // elements of one channel of one sample
    int32_t channels;
    int32_t type;
    double slope, gain, clamp;  // clamp < 0: none
} Sg3BiasAct;

// The weights w[o, i, k] * a[n, o] * b[n, i] of each sample, or their gradients from `grad`. Those of
// `a` and `b` are partial sums: of the tiles of inputs, and of outputs.
typedef struct {
    const float* w;    // [outputs, inputs, taps]
    const float* a;    // [samples, outputs], or null for 1
    const float* b;    // [samples, inputs]
    void* y;           // [samples, outputs, inputs, taps]
    const void* grad;  // the same
    float* dw;         // [outputs, inputs, taps]
    float* da;         // [tiles of inputs, samples, outputs]; not written without `a`
    float* db;         // [tiles of outputs, samples, inputs]
    int32_t samples, outputs, inputs;
} Sg3Weights;

// y[n, o] = (sum of (w[o, i, k] * s[n, i])^2 + eps)^-0.5, or from `grad` the gradients of w and s,
// where `a` is that result. `relative`: eps counts times the mean squares of w[o] and of s.
typedef struct {
    const float* w;     // [outputs, inputs, taps]
    const float* s;     // [samples, inputs]
    float* y;           // [samples, outputs]
    const float* a;     // the same
    const float* grad;  // the same
    float* dw;          // [outputs, inputs, taps]
    float* ds;          // [samples, inputs]
    int32_t samples, outputs, inputs;
    int32_t relative;
    float eps;
} Sg3Demodulation;

// Tiles of `cols` x `rows` outputs; on the tensor cores computed in `blocks` columns of 16 by `warps`
// rows of 16 upsampled samples.
typedef struct {
    int32_t cols, rows, blocks, warps;
} Sg3BandPlan;

// The tiles of a launch: `tiles_x` x `tiles_y` in each plane; a block takes its tile of `planes`
// planes.
typedef struct {
    int64_t first_plane, end_plane;
    int32_t tiles_x, tiles_y, planes;
    Sg3BandPlan plan;
} Sg3TileGrid;
