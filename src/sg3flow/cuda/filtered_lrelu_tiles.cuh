// The fused filtered_lrelu: one block a tile. Instantiated for one element type in each .cu file.
#pragma once

#include "grid.cuh"
#include "tile.h"
#include "tile_kinds.h"

namespace sg3 {

// Launch the fused kernel for the op's kind of tile; `*fits` tells whether there is one.
int tiles_float16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);
int tiles_bfloat16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);
int tiles_float32(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);

template <class S, class T, bool ReadFlags>
__global__ void __launch_bounds__(S::THREADS)
    tile_kernel(const __grid_constant__ Sg3FilteredLrelu op, int64_t first_plane, int tiles_x,
                int tiles_y) {
    __shared__ TileMemory<S> memory;
    const int tiles = tiles_x * tiles_y, tile = static_cast<int>(blockIdx.x % tiles);
    Tile<S, T> work(op, memory, first_plane + blockIdx.x / tiles, tile % tiles_x, tile / tiles_x);
    work.template run<ReadFlags>(BlockThreads());
}

template <class S, class T, bool ReadFlags>
int launch_tiles(const Sg3FilteredLrelu& op, cudaStream_t stream) {
    const int64_t tiles_x = (op.out_w + S::TILE_W - 1) / S::TILE_W;
    const int64_t tiles_y = (op.out_h + S::TILE_H - 1) / S::TILE_H;
    const int64_t tiles = tiles_x * tiles_y;
    if (tiles > MOST_BLOCKS) return cudaErrorInvalidConfiguration;
    const int64_t most = MOST_BLOCKS / tiles;
    for (int64_t first = 0; first < op.planes; first += most) {
        const int64_t planes = op.planes - first < most ? op.planes - first : most;
        tile_kernel<S, T, ReadFlags>
            <<<static_cast<unsigned>(tiles * planes), S::THREADS, 0, stream>>>(
                op, first, static_cast<int>(tiles_x), static_cast<int>(tiles_y));
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

template <class T>
int launch_fitting_tiles(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits) {
    int error = cudaSuccess;
    *fits = visit_kind(op, [&](auto kind, auto reads) {
        using S = typename decltype(kind)::Shape;
        error = launch_tiles<S, T, decltype(reads)::value>(op, stream);
    });
    return error;
}

}  // namespace sg3
