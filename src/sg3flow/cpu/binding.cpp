// The ops of ops/op_registration.py for CPU tensors: checks, memory, threads, calls of kernels.
// The only file with torch headers. It uses torch's threads through a C function, so that this
// library needs no OpenMP of its compiler.

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/library.h>

#ifdef SG3FLOW_X86
#include <immintrin.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "kernels.h"

namespace {

using at::Tensor;
using sg3flow::Convolution;
using sg3flow::Filter;
using sg3flow::Kernels;
using sg3flow::MatrixProduct;
using sg3flow::Middle;
using sg3flow::PlaneProducts;
using sg3flow::Pointwise;
using sg3flow::Resampling;
using sg3flow::WeightGradient;

const char* choose(const Kernels** kernels) {
  *kernels = &sg3flow::portable::kernels;
#ifdef SG3FLOW_X86
  // torch's own choice, so that ATEN_CPU_CAPABILITY holds for both
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return *kernels = &sg3flow::avx512::kernels, "avx512";
  if (capability == "AVX2") return *kernels = &sg3flow::avx2::kernels, "avx2";
#endif
  return "portable";
}

const Kernels& kernels() {
  static const Kernels* chosen = [] {
    const Kernels* k;
    choose(&k);
    return k;
  }();
  return *chosen;
}

std::string instruction_set() {
  const Kernels* k;
  return choose(&k);
}

// glibc returns freed large blocks to the system at once, and gets them again, page by
// page and zeroed, for the next tensor of the same size. The process keeps up to 1 GiB instead,
// unless its user has set these limits.
bool keep_freed_memory() {
#ifdef __GLIBC__
  for (const char* name : {"GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"})
    if (std::getenv(name)) return false;
  constexpr int kKept = 1 << 30, kOldLimit = 1 << 25;  // older versions reject the first
  const bool set = mallopt(M_MMAP_THRESHOLD, kKept) || mallopt(M_MMAP_THRESHOLD, kOldLimit);
  return set && mallopt(M_TRIM_THRESHOLD, kKept);
#else
  return false;
#endif
}

const bool keeps_freed_memory = keep_freed_memory();

// Whether numbers below 1e-38 count as 0 is a setting of each thread: the caller's holds.
class CallersDenormals {
 public:
#ifdef SG3FLOW_X86
  void apply() const { _mm_setcsr(mode_); }

 private:
  unsigned mode_ = _mm_getcsr();
#else
  void apply() const {}
#endif
};

template <class Work>
struct Task {
  const Work& work;
  CallersDenormals denormals;
  static void run(std::int64_t begin, std::int64_t end, void* self) {
    const Task& task = *static_cast<Task*>(self);
    const CallersDenormals before;
    task.denormals.apply();
    task.work(begin, end);
    before.apply();
  }
};

constexpr std::int64_t kWorthAThread = 1 << 16;

// work(begin, end) over all units, in torch's threads; `cost` is the arithmetic of one unit.
template <class Work>
void in_threads(std::int64_t units, std::int64_t cost, const Work& work) {
  Task<Work> task{work, {}};
  cost = std::max<std::int64_t>(cost, 1);
  const std::int64_t grain = std::max<std::int64_t>(kWorthAThread / cost, 1);
  const auto error = torch_parallel_for(0, units, grain, Task<Work>::run, &task);
  TORCH_CHECK(error == 0, "sg3flow: a thread failed");
}

std::int64_t num_threads() {
  std::uint32_t threads = 1;
  TORCH_CHECK(torch_get_num_threads(&threads) == 0, "sg3flow: torch does not tell its threads");
  return threads;
}

// Taps in the order in which they meet the signal, and the memory that a `Filter` points to.
class Taps {
 public:
  Taps(const std::optional<Tensor>& f, bool flip, double gain) {
    if (!f.has_value()) {
      column_ = row_ = {std::sqrt(gain)};
    } else {
      TORCH_CHECK(
          f->scalar_type() == at::kFloat && f->is_contiguous() && f->device().is_cpu() &&
              (f->dim() == 1 || f->dim() == 2) && f->numel() > 0,
          "sg3flow: a filter must be contiguous float32 on the CPU, [taps] or [height, width]");
      const float* p = f->const_data_ptr<float>();
      full_.assign(p, p + f->numel());
      if (!flip) std::reverse(full_.begin(), full_.end());
      if (f->dim() == 1) {
        column_ = full_;
        for (double& tap : column_) tap *= std::sqrt(gain);
        row_ = column_;
      } else {
        split(static_cast<int>(f->size(0)), static_cast<int>(f->size(1)), gain);
      }
    }
    narrow();
  }

  Filter filter() const {
    Filter f;
    f.height = height_;
    f.width = width_;
    if (floats_[2].empty()) {
      f.column = floats_[0].data();
      f.row = floats_[1].data();
    } else {
      f.full = floats_[2].data();
    }
    return f;
  }

  bool is_identity() const { return height_ == 1 && width_ == 1; }

 private:
  // An outer product (as setup_filter makes of a short filter) is separable again.
  void split(int height, int width, double gain) {
    height_ = height;
    width_ = width;
    for (double& tap : full_) tap *= gain;
    const auto largest = std::max_element(full_.begin(), full_.end(), [](double a, double b) {
      return std::abs(a) < std::abs(b);
    });
    const int at = static_cast<int>(largest - full_.begin()), top = at / width, left = at % width;
    const double pivot = *largest;
    for (int i = 0; i < height * width; ++i) {
      const double product = full_[i / width * width + left] * full_[top * width + i % width];
      if (!(std::abs(product / pivot - full_[i]) <= 1e-7 * std::abs(pivot))) return;
    }
    const double scale = std::sqrt(std::abs(pivot));
    const double signed_scale = pivot < 0 ? -scale : scale;
    for (int i = 0; i < height; ++i) column_.push_back(full_[i * width + left] / signed_scale);
    for (int i = 0; i < width; ++i) row_.push_back(full_[top * width + i] / scale);
  }

  void narrow() {
    if (!column_.empty()) {
      height_ = static_cast<int>(column_.size());
      width_ = static_cast<int>(row_.size());
      floats_[0].assign(column_.begin(), column_.end());
      floats_[1].assign(row_.begin(), row_.end());
    } else {
      floats_[2].assign(full_.begin(), full_.end());
    }
  }

  std::vector<double> column_, row_, full_;
  std::vector<float> floats_[3];
  int height_ = 1, width_ = 1;
};

void check_images(const Tensor& x) {
  TORCH_CHECK(
      x.dim() == 4 && x.scalar_type() == at::kFloat && x.is_contiguous(),
      "sg3flow: images must be contiguous float32 [N, C, H, W]");
}

// Everything of a `Resampling` but its filters' pointers, the nonlinearity and the result.
Resampling geometry(
    const Tensor& x, const Taps& up_taps, const Taps& down_taps, at::IntArrayRef up,
    at::IntArrayRef down, at::IntArrayRef padding) {
  check_images(x);
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, "sg3flow: wrong pairs");
  TORCH_CHECK(up[0] > 0 && up[1] > 0 && down[0] > 0 && down[1] > 0, "sg3flow: factors start at 1");
  Resampling a;
  a.x = x.const_data_ptr<float>();
  a.planes = x.size(0) * x.size(1);
  a.channels = x.size(1);
  a.in_h = x.size(2);
  a.in_w = x.size(3);
  a.up = up_taps.filter();
  a.down = down_taps.filter();
  a.up_x = static_cast<int>(up[0]);
  a.up_y = static_cast<int>(up[1]);
  a.down_x = static_cast<int>(down[0]);
  a.down_y = static_cast<int>(down[1]);
  a.pad_x = static_cast<int>(padding[0]);
  a.pad_y = static_cast<int>(padding[2]);
  a.mid_w = a.in_w * a.up_x + padding[0] + padding[1] - (a.up.width - 1);
  a.mid_h = a.in_h * a.up_y + padding[2] + padding[3] - (a.up.height - 1);
  a.out_w = (a.mid_w - a.down.width) / a.down_x + 1;
  a.out_h = (a.mid_h - a.down.height) / a.down_y + 1;
  TORCH_CHECK(
      a.mid_w >= a.down.width && a.mid_h >= a.down.height,
      "sg3flow: the padded image is smaller than the filter");
  return a;
}

Tensor resampled(Resampling& a, const Tensor& x) {
  Tensor y = at::empty({x.size(0), x.size(1), a.out_h, a.out_w}, x.options());
  if (y.numel() == 0) return y;
  a.y = y.mutable_data_ptr<float>();
  const std::int64_t units = kernels().resampling_units(a);
  const std::int64_t cost = a.planes * (a.mid_h * a.mid_w * 6 + a.out_h * a.out_w * 24) / units;
  in_threads(units, cost, [&](std::int64_t begin, std::int64_t end) {
    kernels().run_resampling(a, begin, end);
  });
  return y;
}

Tensor upfirdn2d(
    const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
    at::IntArrayRef padding, bool flip, double gain) {
  const Taps taps(f, flip, gain), identity(std::nullopt, flip, 1);
  const bool at_input_rate = up.size() == 2 && up[0] == 1 && up[1] == 1;
  const Taps &first = at_input_rate ? identity : taps, &second = at_input_rate ? taps : identity;
  Resampling a = geometry(x, first, second, up, down, padding);
  return resampled(a, x);
}

std::tuple<Tensor, Tensor> filtered_lrelu(
    const Tensor& x, const std::optional<Tensor>& fu, const std::optional<Tensor>& fd,
    const std::optional<Tensor>& b, at::IntArrayRef up, at::IntArrayRef down,
    at::IntArrayRef padding, bool flip, double gain, double slope, double clamp,
    bool write_flags) {
  const Taps first(fu, flip, static_cast<double>(up[0] * up[1])), second(fd, flip, 1);
  Resampling a = geometry(x, first, second, up, down, padding);
  if (b.has_value()) {
    TORCH_CHECK(
        b->dim() == 1 && b->size(0) == x.size(1) && b->scalar_type() == at::kFloat &&
            b->is_contiguous(),
        "sg3flow: the bias must be contiguous float32 [C]");
    a.bias = b->const_data_ptr<float>();
  }
  a.gain = static_cast<float>(gain);
  a.slope = static_cast<float>(slope);
  a.clamp = static_cast<float>(clamp);
  const bool linear = gain == 1 && slope == 1 && clamp < 0;
  a.middle = write_flags ? Middle::kRecord : linear ? Middle::kNothing : Middle::kActivate;
  Tensor flags = at::empty({0}, x.options().dtype(at::kByte));
  if (write_flags) {
    flags = at::empty({x.size(0), x.size(1), a.mid_h, (a.mid_w + 3) / 4}, flags.options());
    a.record = flags.mutable_data_ptr<std::uint8_t>();
    a.flags_h = a.mid_h;
    a.flags_w = a.mid_w;
    a.flags_stride = flags.size(3);
  }
  Tensor y = resampled(a, x);
  return {y, flags};
}

Tensor filtered_lrelu_flagged(
    const Tensor& g, const Tensor& flags, const std::optional<Tensor>& fu,
    const std::optional<Tensor>& fd, at::IntArrayRef up, at::IntArrayRef down,
    at::IntArrayRef padding, at::IntArrayRef offset, std::int64_t flags_width, bool flip,
    double gain, double slope) {
  const Taps first(fu, flip, static_cast<double>(up[0] * up[1])), second(fd, flip, 1);
  Resampling a = geometry(g, first, second, up, down, padding);
  TORCH_CHECK(
      flags.scalar_type() == at::kByte && flags.is_contiguous() && flags.dim() == 4 &&
          flags.size(0) == g.size(0) && flags.size(1) == g.size(1) &&
          flags.size(3) == (flags_width + 3) / 4 && offset.size() == 2,
      "sg3flow: the flags must be contiguous uint8 [N, C, height, ceil(width / 4)]");
  a.middle = Middle::kReplay;
  a.gain = static_cast<float>(gain);
  a.slope = static_cast<float>(slope);
  a.replay = flags.const_data_ptr<std::uint8_t>();
  a.flags_h = flags.size(2);
  a.flags_w = flags_width;
  a.flags_stride = flags.size(3);
  a.offset_x = offset[0];
  a.offset_y = offset[1];
  return resampled(a, g);
}

Tensor pointwise(Pointwise a, const Tensor& x) {
  TORCH_CHECK(
      x.dim() >= 2 && x.scalar_type() == at::kFloat && x.is_contiguous(),
      "sg3flow: bias_act takes contiguous float32 [N, C, ...]");
  Tensor y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) return y;
  a.y = y.mutable_data_ptr<float>();
  a.channels = x.size(1);
  a.outer = x.size(0);
  a.inner = x.numel() / (a.outer * a.channels);
  const bool by_rows = a.inner == 1 && a.bias && !a.grad;
  if (!a.bias) {  // no channels to tell apart: pieces of any length
    constexpr std::int64_t kPiece = 1 << 14;
    const std::int64_t total = x.numel();
    const std::int64_t pieces = (total + kPiece - 1) / kPiece;
    return in_threads(pieces, kPiece, [&](std::int64_t begin, std::int64_t end) {
      Pointwise piece = a;
      const std::int64_t from = begin * kPiece, to = std::min(end * kPiece, total);
      piece.x += from;
      piece.y += from;
      if (piece.grad) piece.grad += from;
      piece.inner = to - from;
      kernels().run_pointwise(piece, 0, 1);
    }), y;
  }
  const std::int64_t units = by_rows ? a.outer : a.outer * a.channels;
  in_threads(units, x.numel() / units, [&](std::int64_t begin, std::int64_t end) {
    kernels().run_pointwise(a, begin, end);
  });
  return y;
}

Tensor bias_act(
    const Tensor& x, const std::optional<Tensor>& b, double slope, double gain, double clamp) {
  Pointwise a;
  if (b.has_value()) {
    TORCH_CHECK(
        b->dim() == 1 && x.dim() >= 2 && b->size(0) == x.size(1) &&
            b->scalar_type() == at::kFloat && b->is_contiguous(),
        "sg3flow: the bias must be contiguous float32 [C]");
    a.bias = b->const_data_ptr<float>();
  }
  a.x = x.const_data_ptr<float>();
  a.slope = static_cast<float>(slope);
  a.gain = static_cast<float>(gain);
  a.clamp = static_cast<float>(clamp);
  return pointwise(a, x);
}

Tensor bias_act_grad(
    const Tensor& grad, const Tensor& y, double slope, double gain, double clamp) {
  TORCH_CHECK(
      grad.sizes() == y.sizes() && grad.is_contiguous() && grad.scalar_type() == at::kFloat,
      "sg3flow: the gradient must be contiguous float32 of the shape of the result");
  Pointwise a;
  a.x = y.const_data_ptr<float>();
  a.grad = grad.const_data_ptr<float>();
  a.slope = static_cast<float>(slope);
  a.gain = static_cast<float>(gain);
  a.clamp = static_cast<float>(clamp);
  return pointwise(a, y);
}

const float* factors(const std::optional<Tensor>& f, const Tensor& x, std::int64_t channels) {
  if (!f.has_value()) return nullptr;
  TORCH_CHECK(
      f->dim() == 2 && f->size(0) == x.size(0) && f->size(1) == channels && f->is_contiguous() &&
          f->scalar_type() == at::kFloat,
      "sg3flow: factors must be contiguous float32 [N, C]");
  return f->const_data_ptr<float>();
}

Tensor conv3x3(
    const Tensor& x, const Tensor& w, const std::optional<Tensor>& before,
    const std::optional<Tensor>& after, std::int64_t padding) {
  check_images(x);
  TORCH_CHECK(
      w.dim() == 4 && w.size(1) == x.size(1) && w.size(2) == 3 && w.size(3) == 3 &&
          w.is_contiguous() && w.scalar_type() == at::kFloat && padding >= 0 && padding <= 2 &&
          x.size(2) + 2 * padding >= 3 && x.size(3) + 2 * padding >= 3,
      "sg3flow: conv3x3 takes contiguous float32 w [C_out, C_in, 3, 3] and a padding of 0 to 2");
  Convolution a;
  a.x = x.const_data_ptr<float>();
  a.samples = x.size(0);
  a.in_c = x.size(1);
  a.out_c = w.size(0);
  a.in_h = x.size(2);
  a.in_w = x.size(3);
  a.pad = padding;
  a.out_h = a.in_h + 2 * padding - 2;
  a.out_w = a.in_w + 2 * padding - 2;
  a.before = factors(before, x, a.in_c);
  a.after = factors(after, x, a.out_c);
  Tensor y = at::empty({a.samples, a.out_c, a.out_h, a.out_w}, x.options());
  if (y.numel() == 0) return y;
  a.y = y.mutable_data_ptr<float>();
  Tensor taps = at::empty({kernels().convolution_taps(a)}, x.options());
  float* to = taps.mutable_data_ptr<float>();
  a.taps = to;
  const float* from = w.const_data_ptr<float>();
  in_threads(kernels().taps_units(a), a.in_c * 1000, [&](std::int64_t begin, std::int64_t end) {
    kernels().transform_taps(a, from, to, begin, end);
  });
  a.threads = num_threads();
  const std::int64_t units = kernels().convolution_units(a);
  in_threads(units, y.numel() / units * a.in_c, [&](std::int64_t begin, std::int64_t end) {
    kernels().run_convolution(a, begin, end);
  });
  return y;
}

// The gradient of conv3x3's weights, from its input and the gradient of its result.
Tensor conv3x3_weight(
    const Tensor& x, const Tensor& grad, const std::optional<Tensor>& before,
    const std::optional<Tensor>& after, std::int64_t padding) {
  check_images(x);
  check_images(grad);
  WeightGradient a;
  Convolution& of = a.of;
  of.x = x.const_data_ptr<float>();
  a.grad = grad.const_data_ptr<float>();
  of.samples = x.size(0);
  of.in_c = x.size(1);
  of.out_c = grad.size(1);
  of.in_h = x.size(2);
  of.in_w = x.size(3);
  of.out_h = grad.size(2);
  of.out_w = grad.size(3);
  of.pad = padding;
  TORCH_CHECK(
      padding >= 0 && padding <= 2 && grad.size(0) == x.size(0) &&
          of.out_h == of.in_h + 2 * padding - 2 && of.out_w == of.in_w + 2 * padding - 2,
      "sg3flow: conv3x3_weight takes a gradient of the convolution's size, a padding of 0 to 2");
  of.before = factors(before, x, of.in_c);
  of.after = factors(after, x, of.out_c);
  if (x.numel() == 0 || grad.numel() == 0)
    return at::zeros({of.out_c, of.in_c, 3, 3}, x.options());
  Tensor w = at::empty({of.out_c, of.in_c, 3, 3}, x.options());
  a.w = w.mutable_data_ptr<float>();
  of.threads = num_threads();
  const Tensor sums = at::empty({kernels().weight_gradient_sums(of)}, x.options());
  a.sums = sums.mutable_data_ptr<float>();
  const std::int64_t units = kernels().weight_gradient_units(of);
  in_threads(units, kWorthAThread, [&](std::int64_t begin, std::int64_t end) {
    kernels().run_weight_gradient(a, begin, end);
  });
  in_threads(of.out_c, of.in_c * 1000, [&](std::int64_t begin, std::int64_t end) {
    kernels().finish_weight_gradient(a, begin, end);
  });
  return w;
}

// [N, M, K] x [N, K, P]
Tensor matrix_product(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(
      a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(1) &&
          a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && b.is_contiguous(),
      "sg3flow: matrix_product takes float32 [N, M, K] and contiguous float32 [N, K, P]");
  MatrixProduct p;
  p.rows = a.size(1);
  p.inner = a.size(2);
  p.columns = b.size(2);
  p.row_step = a.stride(1);
  p.inner_step = a.stride(2);
  Tensor y = at::empty({a.size(0), p.rows, p.columns}, b.options());
  if (y.numel() == 0) return y;
  const Tensor sums = at::empty({kernels().block_sums(p)}, b.options());
  float* to = sums.mutable_data_ptr<float>();
  p.sums = to;
  for (std::int64_t i = 0; i < a.size(0); ++i) {
    p.a = a.const_data_ptr<float>() + i * a.stride(0);
    p.b = b.const_data_ptr<float>() + i * p.inner * p.columns;
    p.y = y.mutable_data_ptr<float>() + i * p.rows * p.columns;
    in_threads(kernels().block_sums_units(p), p.inner * 1000, [&](auto begin, auto end) {
      kernels().add_blocks(p, to, begin, end);
    });
    in_threads(kernels().matrix_product_units(p), p.inner * p.rows, [&](auto begin, auto end) {
      kernels().run_matrix_product(p, begin, end);
    });
  }
  return y;
}

Tensor plane_products(const Tensor& x, const Tensor& y) {
  check_images(x);
  check_images(y);
  TORCH_CHECK(x.sizes() == y.sizes(), "sg3flow: plane_products takes two images of one shape");
  Tensor sums = at::empty({x.size(0), x.size(1)}, x.options());
  if (sums.numel() == 0) return sums;
  PlaneProducts a;
  a.a = x.const_data_ptr<float>();
  a.b = y.const_data_ptr<float>();
  a.y = sums.mutable_data_ptr<float>();
  a.inner = x.size(2) * x.size(3);
  in_threads(sums.numel(), a.inner, [&](std::int64_t begin, std::int64_t end) {
    kernels().run_plane_products(a, begin, end);
  });
  return sums;
}

}  // namespace

TORCH_LIBRARY_IMPL(sg3flow, CPU, m) {
  m.impl("upfirdn2d", upfirdn2d);
  m.impl("filtered_lrelu", filtered_lrelu);
  m.impl("filtered_lrelu_flagged", filtered_lrelu_flagged);
  m.impl("bias_act", bias_act);
  m.impl("bias_act_grad", bias_act_grad);
  m.impl("conv3x3", conv3x3);
  m.impl("conv3x3_weight", conv3x3_weight);
  m.impl("matrix_product", matrix_product);
  m.impl("plane_products", plane_products);
}

TORCH_LIBRARY_FRAGMENT(sg3flow, m) { m.def("cpu_instruction_set() -> str", instruction_set); }
