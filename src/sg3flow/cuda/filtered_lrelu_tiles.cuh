// The fused filtered_lrelu: one block a tile. Instantiated for one element type in each .cu file.
#pragma once

#include <type_traits>

#include "grid.cuh"
#include "tile.h"
#include "tile_kinds.h"

namespace sg3 {

// Launch the fused kernel for the op's kind of tile; `*fits` says whether there is one.
int tiles_float16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);
int tiles_bfloat16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);
int tiles_float32(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits);

// The tiles of a launch: blocks go through the tiles of a plane, then through the planes.
struct TileGrid {
    int64_t first_plane, end_plane;
    int tiles_x, tiles_y, planes;  // planes: of one block
    BandPlan plan;                 // of tiles on the tensor cores

    __device__ __forceinline__ int64_t plane() const {
        return first_plane + static_cast<int64_t>(blockIdx.x / (tiles_x * tiles_y)) * planes;
    }
    __device__ __forceinline__ int x() const { return static_cast<int>(blockIdx.x % tiles_x); }
    __device__ __forceinline__ int y() const {
        return static_cast<int>(blockIdx.x / tiles_x % tiles_y);
    }
};

template <class S, class T, bool ReadFlags>
__global__ void __launch_bounds__(S::THREADS)
    tile_kernel(const __grid_constant__ Sg3FilteredLrelu op, TileGrid grid) {
    __shared__ TileMemory<S> memory;
    Tile<S, T> tile(op, memory, grid.plane(), grid.x(), grid.y());
    tile.template run<ReadFlags>(BlockThreads());
}

template <class S, class T, FlagMode Mode>
__global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    band_kernel(const __grid_constant__ Sg3FilteredLrelu op, TileGrid grid) {
#if __CUDA_ARCH__ >= 800
    __shared__ BandMemory<S, T> memory;
    BandTile<S, T> tile(op, memory, grid.plan, grid.plane(), grid.x(), grid.y());
    const int64_t left = grid.end_plane - grid.plane();
    const int planes = left < grid.planes ? static_cast<int>(left) : grid.planes;
    tile.template run<Mode>(BlockThreads(), planes);
#else
    __trap();  // never launched there: no silently wrong results if it were
#endif
}

using TileKernel = void (*)(Sg3FilteredLrelu, TileGrid);

// Launches tiles of `plan` over all planes, as many at a time as a grid holds; each block takes
// `planes` of them.
inline int launch_grid(TileKernel kernel, int threads, const Sg3FilteredLrelu& op,
                       const BandPlan& plan, int planes, cudaStream_t stream) {
    const int64_t tiles_x = (op.out_w + plan.cols - 1) / plan.cols;
    const int64_t tiles_y = (op.out_h + plan.rows - 1) / plan.rows;
    if (tiles_x * tiles_y > MOST_BLOCKS) return cudaErrorInvalidConfiguration;
    const int64_t most = MOST_BLOCKS / (tiles_x * tiles_y) * planes;
    for (int64_t first = 0; first < op.planes; first += most) {
        const int64_t end = op.planes - first < most ? op.planes : first + most;
        const int64_t blocks = tiles_x * tiles_y * ((end - first + planes - 1) / planes);
        const TileGrid grid = {
            first, end, static_cast<int>(tiles_x), static_cast<int>(tiles_y), planes, plan};
        kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(op, grid);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

// Planes that share a block's table of weights: some, while that leaves the device enough blocks.
inline int band_planes(const Sg3FilteredLrelu& op, const BandPlan& plan) {
    const int64_t tiles = static_cast<int64_t>((op.out_w + plan.cols - 1) / plan.cols) *
                          ((op.out_h + plan.rows - 1) / plan.rows);
    const int64_t planes = tiles * op.planes / 4096;  // some 30 blocks for each multiprocessor
    return planes < 1 ? 1 : (planes > 8 ? 8 : static_cast<int>(planes));
}

// Whether the op may, and this device can, run half-precision products on tensor cores.
inline int can_use_bands(const Sg3FilteredLrelu& op, bool* can) {
    int device = 0, major = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) {
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    }
    *can = op.tensor_cores && major >= 8;
    return error;
}

template <class T>
int launch_fitting_tiles(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits) {
    int error = cudaSuccess;
    if constexpr (!std::is_same_v<T, float>) {
        bool can = false;
        error = can_use_bands(op, &can);
        if (error != cudaSuccess) return error;
        *fits = can && visit_band(op, [&](auto kind, auto reads) {
            using S = typename decltype(kind)::Shape;
            TileKernel kernel = nullptr;
            if constexpr (decltype(reads)::value) {
                kernel = band_kernel<S, T, READ_FLAGS>;
            } else {
                kernel = op.flags ? band_kernel<S, T, WRITE_FLAGS> : band_kernel<S, T, NO_FLAGS>;
            }
            const BandPlan plan = band_plan<S>(op);
            error = launch_grid(kernel, plan.warps * 32, op, plan, band_planes(op, plan), stream);
        });
        if (*fits) return error;
    }
    *fits = visit_kind(op, [&](auto kind, auto reads) {
        using S = typename decltype(kind)::Shape;
        const BandPlan plan = {S::TILE_W, S::TILE_H, 0, 0};
        error = launch_grid(tile_kernel<S, T, decltype(reads)::value>, S::THREADS, op, plan, 1,
                            stream);
    });
    return error;
}

}  // namespace sg3
