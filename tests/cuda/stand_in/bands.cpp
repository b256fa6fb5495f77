// The kernels for the tensor cores on the host: in half precision as the product has them, and in
// float32, where their index arithmetic is compared more exactly.
#define __shared__
#include "run.h"

#include "filtered_lrelu_bands.cu"

using namespace sg3;

template <class T, FlagMode Mode, class S>
HostKernel band(const char* expression) {
    constexpr auto kernel = band_kernel<S, T, Mode>;
    const int shared = sizeof(BandMemory<S, T>);
    return make_kernel<kernel>(expression, S::THREADS, shared, run_blocks<kernel>);
}

// The rest are the arguments of a BandShape.
#define TEXT(...) #__VA_ARGS__
#define BAND(type, mode, ...)               \
    band<type, mode, BandShape<__VA_ARGS__>>( \
        "band_kernel<BandShape<" #__VA_ARGS__ ">, " TEXT(type) ", " #mode ">")
#define LAYER(type, ...)                                              \
    BAND(type, NO_FLAGS, __VA_ARGS__), BAND(type, WRITE_FLAGS, __VA_ARGS__), \
        BAND(type, READ_FLAGS, __VA_ARGS__)
#define ALL(type)                                                                     \
    LAYER(type, 2, 12, false, 2, 12, false), LAYER(type, 4, 24, false, 2, 12, false), \
        LAYER(type, 2, 12, false, 2, 12, true), LAYER(type, 4, 24, false, 2, 12, true), \
        BAND(type, READ_FLAGS, 2, 12, false, 4, 24, false),                            \
        BAND(type, READ_FLAGS, 2, 12, true, 2, 12, false),                             \
        BAND(type, READ_FLAGS, 2, 12, true, 4, 24, false)

// Compiled once for each type: side by side.
template <class T>
std::vector<HostKernel> band_kernels();
template <>
std::vector<HostKernel> band_kernels<TYPE>() {
    return {ALL(TYPE)};
}
