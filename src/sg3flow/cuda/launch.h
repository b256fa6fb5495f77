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
    float* sums;  // of the tiles, or null: of squares of y; with `read_flags` 1, of y
    int32_t sums_x, sums_plane;  // tiles in a row of a plane; sums of a plane
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

// y = filter(clamp(gain * lrelu(x + b))) + base, or from the flags of that the gradient of x, where
// `x` is that of y and `y` the result. `flags`: 2 bits of every sample of x, rows of whole bytes.
typedef struct {
    const void* x;     // [planes, in_h, in_w]; of a gradient [planes, out_h, out_w]
    const void* b;     // [channels] or null
    const void* base;  // like y, or null
    void* y;           // [planes, out_h, out_w]; of a gradient [planes, in_h, in_w]
    uint8_t* flags;    // [planes, in_h, ceil(in_w / 4)]; null: not written
    float* sums;       // of a gradient, of each tile: [planes, tiles_y, tiles_x], or null
    Sg3Filter filter;  // 4x4, a convolution; or none, with in_w = out_w and in_h = out_h
    int64_t planes;
    int32_t channels;
    int32_t type;
    int32_t in_w, in_h, out_w, out_h;
    int32_t pad_x, pad_y;      // before the first sample, 0 to 3
    int32_t tiles_x, tiles_y;  // of 32 x 32 that cover the samples and the results
    double slope, gain, clamp;  // clamp < 0: none
} Sg3ActFilter;

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
