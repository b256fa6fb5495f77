// bias_act and its gradient: one pass over memory, 16 bytes per thread where the layout allows.
#include "bias_act.h"
#include "grid.cuh"

namespace sg3 {

template <class T, int Count>
struct alignas(sizeof(T) * Count) Pack {
    T v[Count];
};

// `Index` is 32 bits wide and unsigned where the tensor allows: a division per pack, cheap then. It
// steps over the end of a tensor of fewer than 2^31 elements without wrapping round.
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

}  // namespace sg3
