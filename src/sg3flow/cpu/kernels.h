// What the kernels take and give: plain structs, no torch. Every kernel source is compiled once per
// instruction set, in a namespace of that name, and offers its entry points as one `Kernels` table.
#pragma once

#include <cstdint>

#ifndef SG3FLOW_ISA
#define SG3FLOW_ISA portable
#endif

namespace sg3flow {

// A FIR filter in the order in which it meets the signal (already flipped for a convolution), its
// gain multiplied in. Separable: `column` [height] and `row` [width]; else `full` [height * width].
struct Filter {
  int height = 1, width = 1;
  const float* column = nullptr;
  const float* row = nullptr;
  const float* full = nullptr;
};

enum class Middle {
  kNothing,   // upfirdn2d: no nonlinearity
  kActivate,  // leaky ReLU, gain, clamp
  kRecord,    // the same, and writes 2 bits per sample
  kReplay,    // multiplies by the slope that the 2 bits stand for
};

// Upsample, nonlinearity, downsample, for each of `planes` images [in_h, in_w] -> [out_h, out_w].
struct Resampling {
  const float* x = nullptr;
  const float* bias = nullptr;  // [channels] or null; plane p is of channel p % channels
  float* y = nullptr;
  std::int64_t planes = 0, channels = 1;
  std::int64_t in_h = 0, in_w = 0, mid_h = 0, mid_w = 0, out_h = 0, out_w = 0;
  int up_x = 1, up_y = 1, down_x = 1, down_y = 1;
  int pad_x = 0, pad_y = 0;  // zeros before the upsampled signal; negative crops
  Filter up, down;

  Middle middle = Middle::kNothing;
  float gain = 1, slope = 1, clamp = -1;  // clamp below 0: none
  // flags [planes, flags_h, flags_stride] bytes, four samples each; sample (i, j) of the middle
  // has the flag (i + offset_y, j + offset_x), slope 0 outside [flags_h, flags_w]
  std::uint8_t* record = nullptr;
  const std::uint8_t* replay = nullptr;
  std::int64_t flags_h = 0, flags_w = 0, flags_stride = 0, offset_x = 0, offset_y = 0;
};

// y = clamp(lrelu(x + bias) * gain) on [outer, channels, inner]; with `grad`, x is the result of
// such a call and y the gradient pulled back through it.
struct Pointwise {
  const float* x = nullptr;
  const float* grad = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  std::int64_t outer = 0, channels = 1, inner = 1;
  float gain = 1, slope = 1, clamp = -1;
};

// 3x3 convolution (as torch does it, no flipping) of [samples, in_c, in_h, in_w], zero-padded, with
// a factor for each channel of each sample before it and after it. The number of threads decides the
// size of its units, which no result depends on.
struct Convolution {
  const float* x = nullptr;
  const float* taps = nullptr;    // as transform_taps leaves them
  const float* before = nullptr;  // [samples, in_c] or null
  const float* after = nullptr;   // [samples, out_c] or null
  float* y = nullptr;
  std::int64_t samples = 0, in_c = 0, out_c = 0, in_h = 0, in_w = 0, out_h = 0, out_w = 0, pad = 0;
  std::int64_t threads = 1;
};

// The gradient of a convolution's weights [out_c, in_c, 3, 3], from its input and the gradient of
// its result. `sums` is as large as weight_gradient_sums says.
struct WeightGradient {
  Convolution of;  // without taps and y
  const float* grad = nullptr;
  float* w = nullptr;
  float* sums = nullptr;
};

// y [rows, columns] = a [rows, inner] x b [inner, columns]; a with any steps between its numbers.
struct MatrixProduct {
  const float* a = nullptr;
  const float* b = nullptr;
  const float* sums = nullptr;  // of a's blocks, as add_blocks leaves them
  float* y = nullptr;
  std::int64_t rows = 0, inner = 0, columns = 0, row_step = 0, inner_step = 1;
};

// Pairs of planes: y[i] is the sum of a times b over plane i.
struct PlaneProducts {
  const float *a = nullptr, *b = nullptr;
  float* y = nullptr;
  std::int64_t inner = 0;
};

// Work comes in units that can be done in any order; `run_*` does a range of them.
struct Kernels {
  std::int64_t (*resampling_units)(const Resampling&);
  void (*run_resampling)(const Resampling&, std::int64_t begin, std::int64_t end);
  void (*run_pointwise)(const Pointwise&, std::int64_t begin, std::int64_t end);
  std::int64_t (*convolution_taps)(const Convolution&);  // floats
  std::int64_t (*taps_units)(const Convolution&);
  void (*transform_taps)(
      const Convolution&, const float* w, float* taps, std::int64_t begin, std::int64_t end);
  std::int64_t (*convolution_units)(const Convolution&);
  void (*run_convolution)(const Convolution&, std::int64_t begin, std::int64_t end);
  std::int64_t (*weight_gradient_sums)(const Convolution&);  // floats
  std::int64_t (*weight_gradient_units)(const Convolution&);
  void (*run_weight_gradient)(const WeightGradient&, std::int64_t begin, std::int64_t end);
  // after all those; its units are output channels
  void (*finish_weight_gradient)(const WeightGradient&, std::int64_t begin, std::int64_t end);
  void (*run_plane_products)(const PlaneProducts&, std::int64_t begin, std::int64_t end);
  std::int64_t (*block_sums)(const MatrixProduct&);  // floats
  std::int64_t (*block_sums_units)(const MatrixProduct&);
  void (*add_blocks)(const MatrixProduct&, float* sums, std::int64_t begin, std::int64_t end);
  std::int64_t (*matrix_product_units)(const MatrixProduct&);
  void (*run_matrix_product)(const MatrixProduct&, std::int64_t begin, std::int64_t end);
};

namespace portable {
extern const Kernels kernels;
}
#ifdef SG3FLOW_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

}  // namespace sg3flow
