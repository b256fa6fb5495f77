// bias_act and its gradient: one pass over memory, 16 bytes per thread where the layout allows.
#include "bias_act.h"
#include "grid.cuh"

namespace sg3 {
namespace {

template <class T, int Count>
struct alignas(sizeof(T) * Count) Pack {
    T v[Count];
};

// `Index` is 32 bits wide where the tensor allows: a division per pack, cheap then.
template <class T, int Count, class Index>
__global__ void __launch_bounds__(THREADS)
    bias_act_kernel(const __grid_constant__ Sg3BiasAct op) {
    using Piece = Pack<T, Count>;
    const Index packs = static_cast<Index>(op.count / Count);
    const Index inner = static_cast<Index>(op.inner / Count);
    const T* b = static_cast<const T*>(op.b);
    const Index step = static_cast<Index>(element_step());
    for (Index i = static_cast<Index>(first_element()); i < packs; i += step) {
        const Piece x = static_cast<const Piece*>(op.x)[i];
        const Piece grad = op.grad ? static_cast<const Piece*>(op.grad)[i] : x;
        const Sum<T> bias = b ? widen(b[i / inner % static_cast<Index>(op.channels)]) : Sum<T>(0);
        Piece y;
        SG3_UNROLL
        for (int n = 0; n < Count; ++n) y.v[n] = bias_act_element<T>(op, x.v[n], grad.v[n], bias);
        static_cast<Piece*>(op.y)[i] = y;
    }
}

template <class T, int Count>
int launch(const Sg3BiasAct& op, cudaStream_t stream) {
    const unsigned blocks = blocks_for(op.count / Count);
    // unsigned 32-bit indices step over the end of the tensor without wrapping round
    if (op.count < (int64_t(1) << 31)) {
        bias_act_kernel<T, Count, uint32_t><<<blocks, THREADS, 0, stream>>>(op);
    } else {
        bias_act_kernel<T, Count, int64_t><<<blocks, THREADS, 0, stream>>>(op);
    }
    return cudaGetLastError();
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace
}  // namespace sg3

extern "C" int sg3_bias_act(const Sg3BiasAct* op, void* stream) {
    using namespace sg3;
    if (op->count == 0) return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return visit_type(op->type, [&](auto element) -> int {
        using T = decltype(element);
        constexpr int wide = 16 / sizeof(T);
        const bool whole = op->inner % wide == 0 && op->count % wide == 0 && aligned(op->x) &&
                           aligned(op->y) && aligned(op->grad);
        return whole ? launch<T, wide>(*op, on) : launch<T, 1>(*op, on);
    });
}

extern "C" const char* sg3_error_words(int error) {
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}
