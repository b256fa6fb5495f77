// The ops of ops/op_registration.py for CUDA tensors: checks, memory, device, stream, launches.
// The only file here with torch headers.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdlib>
#include <optional>
#include <string_view>
#include <tuple>

#include "launch.h"

namespace {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

int type_of(const char* op, const Tensor& x) {
    switch (x.scalar_type()) {
        case at::kHalf: return SG3_FLOAT16;
        case at::kBFloat16: return SG3_BFLOAT16;
        case at::kFloat: return SG3_FLOAT32;
        case at::kDouble: return SG3_FLOAT64;
        default:
            TORCH_CHECK(false, op, ": float16, bfloat16, float32 or float64 is needed, not ",
                        x.scalar_type());
    }
}

void check_launch(const char* op, int error) {
    TORCH_CHECK(error == 0, op, ": the CUDA kernel could not run: ", sg3_error_words(error),
                " (SG3FLOW_OPS=torch runs without compiled kernels)");
}

void check_images(const char* op, const Tensor& x) {
    TORCH_CHECK(x.dim() == 4, op, ": images must be [N, C, H, W], not ", x.sizes());
    TORCH_CHECK(x.is_contiguous(), op, ": images must be contiguous; call .contiguous()");
}

void check_like(const char* op, const char* name, const Tensor& t, const Tensor& x) {
    TORCH_CHECK(t.device() == x.device(), op, ": ", name, " is on ", t.device(), ", the images on ",
                x.device());
    TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous; call .contiguous()");
}

int32_t narrow(const char* op, const char* name, int64_t value) {
    TORCH_CHECK(value >= -(int64_t(1) << 30) && value <= (int64_t(1) << 30), op, ": ", name, " is ",
                value, ", beyond what the kernels count with (2^30)");
    return static_cast<int32_t>(value);
}

// An output size, where it is one that an image can have.
int32_t size(const char* op, int64_t value) {
    TORCH_CHECK(value >= 1, op, ": the padded image is smaller than the filter; pad more");
    return narrow(op, "a size", value);
}

Sg3Filter filter_of(const char* op, const OptionalTensor& f, const Tensor& x) {
    if (!f) return {nullptr, 1, 1, 0};
    check_like(op, "the filter", *f, x);
    TORCH_CHECK(f->scalar_type() == at::kFloat, op, ": filters must be float32, not ",
                f->scalar_type());
    TORCH_CHECK((f->dim() == 1 || f->dim() == 2) && f->numel() > 0, op,
                ": filters must be [taps] or [height, width], not ", f->sizes());
    const int32_t width = narrow(op, "a filter's width", f->size(-1));
    return {f->const_data_ptr<float>(), width, narrow(op, "a filter's height", f->size(0)),
            f->dim() == 1};
}

int32_t rate(const char* op, int64_t value) {
    TORCH_CHECK(value >= 1 && value <= 4096, op, ": rates go from 1 to 4096, not ", value);
    return static_cast<int32_t>(value);
}

const void* bias_of(const char* op, const OptionalTensor& b, const Tensor& x) {
    if (!b) return nullptr;
    check_like(op, "the bias", *b, x);
    TORCH_CHECK(b->scalar_type() == x.scalar_type(), op, ": the bias must be ", x.scalar_type(),
                " like x, not ", b->scalar_type());
    TORCH_CHECK(b->dim() == 1 && x.dim() >= 2 && b->size(0) == x.size(1), op,
                ": the bias must have one value for each channel of x, not the shape ", b->sizes());
    return b->const_data_ptr();
}

// For comparisons: SG3FLOW_TENSOR_CORES=0 keeps half precision on the ordinary arithmetic units.
bool use_tensor_cores() {
    static const bool use = [] {
        const char* set = std::getenv("SG3FLOW_TENSOR_CORES");
        return !set || std::string_view(set) != "0";
    }();
    return use;
}

void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

Tensor one_upfirdn(const Tensor& x, const Sg3Filter& filter, IntArrayRef up, IntArrayRef down,
                   IntArrayRef padding, bool flip, double gain) {
    constexpr const char* name = "upfirdn2d";
    Sg3Upfirdn op = {};
    op.type = type_of(name, x);
    op.filter = filter;
    op.planes = x.size(0) * x.size(1);
    op.in_w = narrow(name, "the width", x.size(3));
    op.in_h = narrow(name, "the height", x.size(2));
    op.up_x = rate(name, up[0]), op.up_y = rate(name, up[1]);
    op.down_x = rate(name, down[0]), op.down_y = rate(name, down[1]);
    op.pad_x = narrow(name, "padding", padding[0]), op.pad_y = narrow(name, "padding", padding[2]);
    const int64_t mid_w = x.size(3) * up[0] + padding[0] + padding[1] - filter.width;
    const int64_t mid_h = x.size(2) * up[1] + padding[2] + padding[3] - filter.height;
    op.out_w = mid_w < 0 ? size(name, 0) : size(name, mid_w / down[0] + 1);
    op.out_h = mid_h < 0 ? size(name, 0) : size(name, mid_h / down[1] + 1);
    op.flip = flip;
    op.gain = gain;
    Tensor y = at::empty({x.size(0), x.size(1), op.out_h, op.out_w}, x.options());
    op.x = x.const_data_ptr();
    op.y = y.mutable_data_ptr();
    check_launch(name, sg3_upfirdn2d(&op, current_stream()));
    return y;
}

Tensor upfirdn2d(const Tensor& x, const Tensor& f, IntArrayRef up, IntArrayRef down,
                 IntArrayRef padding, bool flip, double gain) {
    constexpr const char* name = "upfirdn2d";
    const c10::cuda::CUDAGuard guard(x.device());
    check_images(name, x);
    const Sg3Filter filter = filter_of(name, f, x);
    // Above this many taps two passes, one per axis, are fewer multiplications than their product.
    if (!filter.separable || filter.width <= 4) {
        return one_upfirdn(x, filter, up, down, padding, flip, gain);
    }
    const Sg3Filter across = {filter.taps, filter.width, 1, 0};
    const Sg3Filter along = {filter.taps, 1, filter.width, 0};
    const Tensor half = one_upfirdn(x, across, {up[0], 1}, {down[0], 1},
                                    {padding[0], padding[1], 0, 0}, flip, 1.0);
    return one_upfirdn(half, along, {1, up[1]}, {1, down[1]}, {0, 0, padding[2], padding[3]}, flip,
                       gain);
}

Tensor run_bias_act(const char* name, const Tensor& x, const OptionalTensor& b, const Tensor* grad,
                    double slope, double gain, double clamp) {
    const c10::cuda::CUDAGuard guard(x.device());
    TORCH_CHECK(x.is_contiguous(), name, ": tensors must be contiguous; call .contiguous()");
    Sg3BiasAct op = {};
    op.type = type_of(name, x);
    op.count = x.numel();
    op.channels = x.dim() >= 2 ? narrow(name, "the channels", x.size(1)) : 1;
    op.inner = 1;
    for (int64_t axis = 2; axis < x.dim(); ++axis) op.inner *= x.size(axis);
    op.slope = slope, op.gain = gain, op.clamp = clamp;
    Tensor y = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous));
    op.b = bias_of(name, b, x);
    op.x = x.const_data_ptr();
    op.grad = grad ? grad->const_data_ptr() : nullptr;
    op.y = y.mutable_data_ptr();
    check_launch(name, sg3_bias_act(&op, current_stream()));
    return y;
}

Tensor bias_act(const Tensor& x, const OptionalTensor& b, double slope, double gain, double clamp) {
    return run_bias_act("bias_act", x, b, nullptr, slope, gain, clamp);
}

Tensor bias_act_grad(const Tensor& grad, const Tensor& y, double slope, double gain,
                     double clamp) {
    constexpr const char* name = "bias_act_grad";
    check_like(name, "the gradient", grad, y);
    TORCH_CHECK(grad.sizes() == y.sizes() && grad.scalar_type() == y.scalar_type(), name,
                ": the gradient must be like y, ", y.scalar_type(), " ", y.sizes(), ", not ",
                grad.scalar_type(), " ", grad.sizes());
    return run_bias_act(name, y, std::nullopt, &grad, slope, gain, clamp);
}

// What both forms of filtered_lrelu share: geometry and filters, checked.
Sg3FilteredLrelu geometry(const char* name, const Tensor& x, const OptionalTensor& fu,
                          const OptionalTensor& fd, IntArrayRef up, IntArrayRef down,
                          IntArrayRef padding, bool flip) {
    check_images(name, x);
    Sg3FilteredLrelu op = {};
    op.type = type_of(name, x);
    op.fu = filter_of(name, fu, x);
    op.fd = filter_of(name, fd, x);
    op.planes = x.size(0) * x.size(1);
    TORCH_CHECK(op.planes < (int64_t(1) << 31), name, ": ", op.planes,
                " planes (samples times channels) are beyond what the kernels count with");
    op.channels = narrow(name, "the channels", x.size(1));
    op.in_w = narrow(name, "the width", x.size(3));
    op.in_h = narrow(name, "the height", x.size(2));
    op.up_x = rate(name, up[0]), op.up_y = rate(name, up[1]);
    op.down_x = rate(name, down[0]), op.down_y = rate(name, down[1]);
    op.pad_x = narrow(name, "padding", padding[0]), op.pad_y = narrow(name, "padding", padding[2]);
    op.mid_w = size(name, x.size(3) * up[0] + padding[0] + padding[1] - op.fu.width + 1);
    op.mid_h = size(name, x.size(2) * up[1] + padding[2] + padding[3] - op.fu.height + 1);
    op.out_w = op.mid_w < op.fd.width ? size(name, 0) : (op.mid_w - op.fd.width) / op.down_x + 1;
    op.out_h = op.mid_h < op.fd.height ? size(name, 0) : (op.mid_h - op.fd.height) / op.down_y + 1;
    op.flip = flip;
    op.tensor_cores = use_tensor_cores();
    return op;
}

Tensor run_filtered_lrelu(const char* name, Sg3FilteredLrelu& op, const Tensor& x) {
    Tensor y = at::empty({x.size(0), x.size(1), op.out_h, op.out_w}, x.options());
    const auto bytes = static_cast<int64_t>(sg3_filtered_lrelu_workspace(&op));
    // returned to torch's cache at the end, which hands it on in stream order
    const Tensor workspace = at::empty({bytes}, x.options().dtype(at::kByte));
    op.x = x.const_data_ptr();
    op.y = y.mutable_data_ptr();
    op.workspace = workspace.mutable_data_ptr();
    check_launch(name, sg3_filtered_lrelu(&op, current_stream()));
    return y;
}

std::tuple<Tensor, Tensor> filtered_lrelu(const Tensor& x, const OptionalTensor& fu,
                                          const OptionalTensor& fd, const OptionalTensor& b,
                                          IntArrayRef up, IntArrayRef down, IntArrayRef padding,
                                          bool flip, double gain, double slope, double clamp,
                                          bool write_flags) {
    constexpr const char* name = "filtered_lrelu";
    const c10::cuda::CUDAGuard guard(x.device());
    Sg3FilteredLrelu op = geometry(name, x, fu, fd, up, down, padding, flip);
    op.b = bias_of(name, b, x);
    op.gain = gain, op.slope = slope, op.limit = clamp < 0 ? -1 : clamp / gain;
    const auto bytes = x.options().dtype(at::kByte);
    const int64_t stride = (static_cast<int64_t>(op.mid_w) + 3) / 4;
    Tensor flags = write_flags ? at::empty({x.size(0), x.size(1), op.mid_h, stride}, bytes)
                               : at::empty({0}, bytes);
    op.flags = write_flags ? flags.mutable_data_ptr<uint8_t>() : nullptr;
    op.flags_w = op.mid_w, op.flags_h = op.mid_h;
    op.flags_stride = static_cast<int32_t>(stride);
    return {run_filtered_lrelu(name, op, x), flags};
}

Tensor filtered_lrelu_flagged(const Tensor& g, const Tensor& flags, const OptionalTensor& fu,
                              const OptionalTensor& fd, IntArrayRef up, IntArrayRef down,
                              IntArrayRef padding, IntArrayRef offset, int64_t flags_width,
                              bool flip, double gain, double slope) {
    constexpr const char* name = "filtered_lrelu_flagged";
    const c10::cuda::CUDAGuard guard(g.device());
    Sg3FilteredLrelu op = geometry(name, g, fu, fd, up, down, padding, flip);
    check_like(name, "the flags", flags, g);
    TORCH_CHECK(flags.scalar_type() == at::kByte && flags.dim() == 4 &&
                    flags.size(0) == g.size(0) && flags.size(1) == g.size(1),
                name, ": flags must be uint8 [N, C, height, bytes] for the images ", g.sizes(),
                ", not ", flags.scalar_type(), " ", flags.sizes());
    TORCH_CHECK(flags_width >= 0 && (flags_width + 3) / 4 == flags.size(3), name, ": ",
                flags.size(3), " bytes a row do not hold ", flags_width, " samples");
    op.gain = gain, op.slope = slope, op.limit = -1;
    op.read_flags = 1;
    op.flags = const_cast<uint8_t*>(flags.const_data_ptr<uint8_t>());  // read only
    op.flags_w = narrow(name, "flags_width", flags_width);
    op.flags_h = narrow(name, "the flags' height", flags.size(2));
    op.flags_stride = narrow(name, "the flags' width", flags.size(3));
    op.offset_x = narrow(name, "offset", offset[0]);
    op.offset_y = narrow(name, "offset", offset[1]);
    return run_filtered_lrelu(name, op, g);
}

}  // namespace

TORCH_LIBRARY_IMPL(sg3flow, CUDA, m) {
    m.impl("upfirdn2d", &upfirdn2d);
    m.impl("bias_act", &bias_act);
    m.impl("bias_act_grad", &bias_act_grad);
    m.impl("filtered_lrelu", &filtered_lrelu);
    m.impl("filtered_lrelu_flagged", &filtered_lrelu_flagged);
}
