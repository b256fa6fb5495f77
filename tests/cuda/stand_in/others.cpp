// The kernels without tensor cores on the host. Radial fused tiles exist in float32 only: in half
// precision they differ in nothing but loads and stores.
#define __shared__ static
#include "run.h"

#include "bias_act.cu"
#include "filtered_lrelu.cu"
#include "upfirdn2d.cu"
#include "upfirdn2d_add.cu"
#undef __shared__
#define __shared__
#include "act_filter.cu"
#include "band_shape.h"
#include "demodulation.cu"
#include "filtered_lrelu_tiles.cu"
#include "sample_weights.cu"
#include "tiles.h"  // generated: the sizes of tiles of Python are those of the sources

using namespace sg3;

template <class T, bool Reads, class S>
HostKernel tile(const char* expression) {
    constexpr auto kernel = tile_kernel<S, T, Reads>;
    return make_kernel<kernel>(expression, S::THREADS, sizeof(TileMemory<S>), run_blocks<kernel>);
}

template <int Rounds, auto Kernel>
HostKernel loop(const char* expression) {
    return make_kernel<Kernel>(expression, THREADS, 0, run_threads<Kernel, Rounds>);
}

template <auto Kernel, class Memory>
HostKernel block(const char* expression) {
    return make_kernel<Kernel>(expression, THREADS, sizeof(Memory), run_blocks<Kernel>);
}

#define TILE(type, reads, ...)               \
    tile<type, reads, PlainTile<__VA_ARGS__>>( \
        "tile_kernel<PlainTile<" #__VA_ARGS__ ">, " #type ", " #reads ">")
#define LAYER(type, ...) TILE(type, false, __VA_ARGS__), TILE(type, true, __VA_ARGS__)
#define LOOP(...) loop<1, __VA_ARGS__>(#__VA_ARGS__)
#define LOOP_WITH_BARRIER(...) loop<2, __VA_ARGS__>(#__VA_ARGS__)
#define SMALL(type)                                                                     \
    LOOP_WITH_BARRIER(small_kernel<type, 1, 1>), LOOP_WITH_BARRIER(small_kernel<type, 2, 1>), \
        LOOP_WITH_BARRIER(small_kernel<type, 1, 2>)
#define SMALL_ADD(type)                                  \
    LOOP_WITH_BARRIER(small_add_kernel<type, 1, 1>),     \
        LOOP_WITH_BARRIER(small_add_kernel<type, 2, 1>), \
        LOOP_WITH_BARRIER(small_add_kernel<type, 1, 2>)
#define WEIGHTS(type, taps)                                                              \
    LOOP(scale_kernel<type, taps, 4>), LOOP(scale_kernel<type, taps, 2>),                \
        LOOP(scale_kernel<type, taps, 1>),                                               \
        block<scale_grad_kernel<type, taps>, WeightTile<taps>::Memory>(                  \
            "scale_grad_kernel<" #type ", " #taps ">")
#define DEMODULATION(taps)                                                               \
    block<demodulation_kernel<taps>, DemodulationTile<taps>::Memory>(                    \
        "demodulation_kernel<" #taps ">"),                                               \
        LOOP(demodulation_dw_kernel<taps>),                                              \
        block<demodulation_ds_kernel<taps>, StyleTile<taps>::Memory>(                    \
            "demodulation_ds_kernel<" #taps ">")
#define ACT_FORM(kernel, type, filtered)                                                 \
    block<kernel<type, filtered>, ActTile<type, filtered>::Memory>(                      \
        #kernel "<" #type ", " #filtered ">")
#define ACT_FILTER(type)                                                                 \
    ACT_FORM(act_filter_kernel, type, true), ACT_FORM(act_filter_kernel, type, false),   \
        ACT_FORM(act_filter_grad_kernel, type, true),                                    \
        ACT_FORM(act_filter_grad_kernel, type, false),                                   \
        block<act_filter_flagged_kernel<type>, ActTile<type, true>::Memory>(             \
            "act_filter_flagged_kernel<" #type ">")
#define BIAS_ACT(type, widest)                                                         \
    LOOP(bias_act_kernel<type, widest, uint32_t>), LOOP(bias_act_kernel<type, 1, uint32_t>)
#define ANY(type) \
    LOOP(upfirdn_kernel<type>), LOOP(bend_kernel<type, type>), LOOP(second_kernel<type>)

template <class T>
std::vector<HostKernel> band_kernels();
template <>
std::vector<HostKernel> band_kernels<__half>();
template <>
std::vector<HostKernel> band_kernels<float>();

extern "C" const std::vector<HostKernel>& host_kernels() {
    static const std::vector<HostKernel> all = [] {
        std::vector<HostKernel> kernels = {
            LAYER(float, 2, 12, false, 2, 12, false),
            LAYER(float, 4, 24, false, 2, 12, false),
            LAYER(float, 2, 12, false, 2, 12, true),
            LAYER(float, 4, 24, false, 2, 12, true),
            TILE(float, true, 2, 12, false, 4, 24, false),
            TILE(float, true, 2, 12, true, 2, 12, false),
            TILE(float, true, 2, 12, true, 4, 24, false),
            LAYER(__half, 2, 12, false, 2, 12, false),
            LAYER(__half, 4, 24, false, 2, 12, false),
            TILE(__half, true, 2, 12, false, 4, 24, false),
            ANY(__half), ANY(__nv_bfloat16), ANY(float), ANY(double),
            LOOP(bend_kernel<__half, float>), LOOP(bend_kernel<__nv_bfloat16, float>),
            SMALL(__half), SMALL(__nv_bfloat16), SMALL(float),
            SMALL_ADD(__half), SMALL_ADD(__nv_bfloat16), SMALL_ADD(float),
            ACT_FILTER(__half), ACT_FILTER(__nv_bfloat16), ACT_FILTER(float),
            WEIGHTS(__half, 1), WEIGHTS(__nv_bfloat16, 1), WEIGHTS(float, 1),
            WEIGHTS(__half, 9), WEIGHTS(__nv_bfloat16, 9), WEIGHTS(float, 9),
            DEMODULATION(1), DEMODULATION(9),
            BIAS_ACT(__half, 8), BIAS_ACT(__nv_bfloat16, 8), BIAS_ACT(float, 4),
            BIAS_ACT(double, 2),
        };
        for (const auto& bands : {band_kernels<__half>(), band_kernels<float>()}) {
            kernels.insert(kernels.end(), bands.begin(), bands.end());
        }
        return kernels;
    }();
    return all;
}

// Runs a kernel without a driver and its checks; false: there is none.
extern "C" bool stand_in_run(const char* expression, unsigned blocks, unsigned threads,
                             void** parameters) {
    for (const HostKernel& each : host_kernels()) {
        if (std::strcmp(each.expression, expression) != 0) continue;
        each.run(parameters, {blocks, 1, 1}, {threads, 1, 1});
        return true;
    }
    return false;
}
