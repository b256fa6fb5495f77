// The kernels' tile and sample functions, built for the host: one block after the other, one thread
// after the other.
#include <memory>

#include "generic.h"
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
                    std::memset(memory.get(), 0xff, sizeof(*memory));  // NaN where nothing is written
                    Tile<S, float> tile(*op, *memory, plane, tx, ty);
                    tile.template run<decltype(reads)::value>(SequentialThreads{S::THREADS});
                }
            }
        }
    });
}

extern "C" int host_bands(const Sg3FilteredLrelu* op) {
    return visit_band(*op, [&](auto kind, auto reads) {
        using S = typename decltype(kind)::Shape;
        using Memory = BandMemory<S, float>;
        auto memory = std::make_unique<Memory>();
        const int rows = band_rows<S>(op->out_h);
        for (int64_t plane = 0; plane < op->planes; ++plane) {
            for (int ty = 0; ty * rows < op->out_h; ++ty) {
                for (int tx = 0; tx * S::TILE_W < op->out_w; ++tx) {
                    std::memset(memory.get(), 0xff, sizeof(*memory));
                    BandTile<S, float> tile(*op, *memory, plane, rows, tx, ty);
                    tile.template run<decltype(reads)::value>(SequentialThreads{S::THREADS});
                }
            }
        }
    });
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
    for (int64_t i = 0; i < count; ++i) {
        if (op->type == SG3_FLOAT64) {
            upfirdn_sample<double, double>(*op, i);
        } else {
            upfirdn_sample<float, float>(*op, i);
        }
    }
}
