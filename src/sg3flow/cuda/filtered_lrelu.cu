// filtered_lrelu: the fused kernels where a kind of tile fits, two generic steps otherwise.
#include "filtered_lrelu_tiles.cuh"
#include "generic.h"

namespace sg3 {
namespace {

template <class T, class Mid>
__global__ void __launch_bounds__(THREADS)
    bend_kernel(const __grid_constant__ Sg3FilteredLrelu op, int64_t first_plane, int64_t count,
                Mid* mid, double gain) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        bend_group<T>(op, first_plane, i, mid, gain);
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    second_kernel(const __grid_constant__ Sg3Upfirdn step, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        upfirdn_sample<Sum<T>, T>(step, i);
    }
}

// Without a second filter the first step writes the result.
bool one_step(const Sg3FilteredLrelu& op) { return is_identity(op.fd, op.down_x, op.down_y); }

template <class T, class Mid>
int bend_planes(const Sg3FilteredLrelu& op, int64_t first, int64_t planes, Mid* mid, double gain,
                cudaStream_t stream) {
    const int64_t count = planes * op.mid_h * ((static_cast<int64_t>(op.mid_w) + 3) / 4);
    bend_kernel<T><<<blocks_for(count), THREADS, 0, stream>>>(op, first, count, mid, gain);
    return cudaGetLastError();
}

template <class T>
int launch_generic(const Sg3FilteredLrelu& op, cudaStream_t stream) {
    if (one_step(op)) {
        return bend_planes<T>(op, 0, op.planes, static_cast<T*>(op.y), op.gain, stream);
    }
    const int64_t some = workspace_planes(op);
    auto* mid = static_cast<Sum<T>*>(op.workspace);
    for (int64_t first = 0; first < op.planes; first += some) {
        const int64_t planes = op.planes - first < some ? op.planes - first : some;
        int error = bend_planes<T>(op, first, planes, mid, 1.0, stream);
        if (error != cudaSuccess) return error;
        const Sg3Upfirdn step = second_step<T>(op, first, planes);
        const int64_t count = planes * op.out_h * op.out_w;
        second_kernel<T><<<blocks_for(count), THREADS, 0, stream>>>(step, count);
        error = cudaGetLastError();
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

bool fits_tiles(const Sg3FilteredLrelu& op) {
    return op.type != SG3_FLOAT64 && visit_kind(op, [](auto, auto) {});
}

}  // namespace
}  // namespace sg3

extern "C" size_t sg3_filtered_lrelu_workspace(const Sg3FilteredLrelu* op) {
    using namespace sg3;
    if (one_step(*op) || fits_tiles(*op)) return 0;
    const size_t sample = op->type == SG3_FLOAT64 ? sizeof(double) : sizeof(float);
    return sample * static_cast<size_t>(workspace_planes(*op)) * op->mid_w * op->mid_h;
}

extern "C" int sg3_filtered_lrelu(const Sg3FilteredLrelu* op, void* stream) {
    using namespace sg3;
    if (op->planes * op->out_h * op->out_w == 0) return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    bool fits = false;
    int error = cudaSuccess;
    if (op->type == SG3_FLOAT16) error = tiles_float16(*op, on, &fits);
    if (op->type == SG3_BFLOAT16) error = tiles_bfloat16(*op, on, &fits);
    if (op->type == SG3_FLOAT32) error = tiles_float32(*op, on, &fits);
    if (fits || error != cudaSuccess) return error;
    return visit_type(op->type, [&](auto element) -> int {
        return launch_generic<decltype(element)>(*op, on);
    });
}
