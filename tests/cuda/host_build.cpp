// The kernels' tile and sample functions, built for the host: one block after the other, one thread
// after the other.
#include <algorithm>
#include <memory>

#include "bias_act.h"
#include "demodulation.h"
#include "sample_weights.h"
#include "small_filter.h"
#include "tile.h"
#include "tile_kinds.h"

using namespace sg3;

extern "C" int host_tiles(const Sg3FilteredLrelu* op) {
    return visit_kind(*op, [&](auto kind, auto reads) {
        using S = typename decltype(kind)::Shape;
        auto memory = std::make_unique<TileMemory<S>>();
        for (int64_t plane = 0; plane < op->planes; ++plane) {
            for (int ty = 0; ty * S::TILE_H < op->out_h; ++ty) {
                for (int tx = 0; tx * S::TILE_W < op->out_w; ++tx) {
                    std::memset(memory.get(), 0xff, sizeof(*memory));  // NaN unless written
                    Tile<S, float> tile(*op, *memory, plane, tx, ty);
                    tile.template run<decltype(reads)::value>(SequentialThreads{S::THREADS});
                }
            }
        }
    });
}

template <class T>
static int bands(const Sg3FilteredLrelu* op) {
    return visit_band(*op, [&](auto kind, auto reads) {
        using S = typename decltype(kind)::Shape;
        auto memory = std::make_unique<BandMemory<S, T>>();
        const BandPlan plan = band_plan<S>(*op);
        constexpr int64_t some = 4;  // planes of a block
        for (int64_t plane = 0; plane < op->planes; plane += some) {
            const int planes = static_cast<int>(std::min(op->planes - plane, some));
            for (int ty = 0; ty * plan.rows < op->out_h; ++ty) {
                for (int tx = 0; tx * plan.cols < op->out_w; ++tx) {
                    std::memset(memory.get(), 0xff, sizeof(*memory));
                    BandTile<S, T> tile(*op, *memory, plan, plane, tx, ty);
                    const SequentialThreads threads{plan.warps * 32};
                    if constexpr (decltype(reads)::value) {
                        tile.template run<READ_FLAGS>(threads, planes);
                    } else if (op->flags) {
                        tile.template run<WRITE_FLAGS>(threads, planes);
                    } else {
                        tile.template run<NO_FLAGS>(threads, planes);
                    }
                }
            }
        }
    });
}

extern "C" int host_bands(const Sg3FilteredLrelu* op) {
#if defined(__FLT16_MAX__)
    if (op->type == SG3_FLOAT16) return bands<_Float16>(op);
#endif
    return op->type == SG3_FLOAT32 ? bands<float>(op) : -1;
}

template <class T>
static void generic(const Sg3FilteredLrelu& op, T* mid) {
    const int64_t groups = (op.mid_w + 3) / 4 * op.mid_h, some = workspace_planes(op);
    for (int64_t first = 0; first < op.planes; first += some) {
        const int64_t planes = first + some < op.planes ? some : op.planes - first;
        for (int64_t i = 0; i < planes * groups; ++i) bend_group<T>(op, first, i, mid, 1.0);
        const Sg3Upfirdn step = second_step<T>(op, first, planes);
        const int64_t count = step.planes * step.out_h * step.out_w;
        for (int64_t i = 0; i < count; ++i) upfirdn_sample<T, T>(step, i);
    }
}

extern "C" int host_generic(const Sg3FilteredLrelu* op) {
    if (op->type == SG3_FLOAT64) {
        generic(*op, static_cast<double*>(op->workspace));
    } else {
        generic(*op, static_cast<float*>(op->workspace));
    }
    return 1;
}

extern "C" void host_upfirdn2d(const Sg3Upfirdn* op) {
    const int64_t count = op->planes * op->out_h * op->out_w;
    float taps[SMALL_TAPS * SMALL_TAPS];
    const int small = small_kind(*op);
    if (small) {
        for (int i = 0; i < SMALL_TAPS * SMALL_TAPS; ++i) taps[i] = small_tap(*op, i);
    }
    for (int64_t i = 0; i < count; ++i) {
        if (small == 1) {
            small_sample<float, 1, 1>(*op, taps, i);
        } else if (small == 2) {
            small_sample<float, 2, 1>(*op, taps, i);
        } else if (small == 3) {
            small_sample<float, 1, 2>(*op, taps, i);
        } else if (op->type == SG3_FLOAT64) {
            upfirdn_sample<double, double>(*op, i);
        } else {
            upfirdn_sample<float, float>(*op, i);
        }
    }
}

template <class T>
static void bias_act(const Sg3BiasAct& op) {
    for (int64_t i = 0; i < op.count; ++i) {
        const T x = static_cast<const T*>(op.x)[i];
        const T grad = op.grad ? static_cast<const T*>(op.grad)[i] : T(0);
        const T bias = op.b ? static_cast<const T*>(op.b)[i / op.inner % op.channels] : T(0);
        static_cast<T*>(op.y)[i] = bias_act_element<T>(op, x, grad, bias);
    }
}

extern "C" void host_bias_act(const Sg3BiasAct* op) {
    op->type == SG3_FLOAT64 ? bias_act<double>(*op) : bias_act<float>(*op);
}

template <class T, int Taps>
static void weights(const Sg3Weights& op, int run) {
    constexpr int threads = 7;  // any number goes through a row
    for (int64_t row = 0; row < int64_t(op.samples) * op.outputs; ++row) {
        for (int thread = 0; thread < threads; ++thread) {
            if (run == 4) {
                scale_row<T, Taps, 4>(op, row, thread, threads);
            } else if (run == 2) {
                scale_row<T, Taps, 2>(op, row, thread, threads);
            } else {
                scale_row<T, Taps, 1>(op, row, thread, threads);
            }
        }
    }
}

template <class T, int Taps>
static void weights_grad(const Sg3Weights& op) {
    using Tile = WeightTile<Taps>;
    auto memory = std::make_unique<typename Tile::Memory>();
    for (int o = 0; o * Tile::OUTPUTS < op.outputs; ++o) {
        for (int i = 0; i * LANES < op.inputs; ++i) {
            std::memset(memory.get(), 0xff, sizeof(*memory));
            Tile{op, *memory, o, i}.template run<T>(SequentialThreads{WEIGHT_THREADS});
        }
    }
}

// Returns -1 without 16-bit floats; `run` 0 computes the gradients.
template <class T>
static int weights_of(const Sg3Weights& op, int taps, int run) {
    if (run) {
        taps == 1 ? weights<T, 1>(op, run) : weights<T, 9>(op, run);
    } else {
        taps == 1 ? weights_grad<T, 1>(op) : weights_grad<T, 9>(op);
    }
    return 1;
}

extern "C" int host_weights(const Sg3Weights* op, int type, int taps, int run) {
#if defined(__FLT16_MAX__)
    if (type == SG3_FLOAT16) return weights_of<_Float16>(*op, taps, run);
#endif
    return type == SG3_FLOAT32 ? weights_of<float>(*op, taps, run) : -1;
}

template <int Taps>
static void demodulation(const Sg3Demodulation& op) {
    const SequentialThreads threads{DEMODULATION_THREADS};
    auto memory = std::make_unique<typename DemodulationTile<Taps>::Memory>();
    auto sums = std::make_unique<typename StyleTile<Taps>::Memory>();
    for (int first = 0; first < op.samples; first += SOME_SAMPLES) {
        for (int o = 0; !op.grad && o < op.outputs; ++o) {
            std::memset(memory.get(), 0xff, sizeof(*memory));
            DemodulationTile<Taps>{op, *memory, o, first}.run(threads);
        }
        for (int i = 0; op.grad && i * WARP < op.inputs; ++i) {
            std::memset(sums.get(), 0xff, sizeof(*sums));
            StyleTile<Taps>{op, *sums, i, first}.run(threads);
        }
    }
    for (int i = 0; op.grad && i < op.outputs * op.inputs; ++i) demodulation_dw<Taps>(op, i);
}

extern "C" void host_demodulation(const Sg3Demodulation* op, int taps) {
    taps == 1 ? demodulation<1>(*op) : demodulation<9>(*op);
}
