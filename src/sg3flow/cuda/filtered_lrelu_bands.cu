// The fused filtered_lrelu on the tensor cores: one block a tile of some planes. Compute capability
// 8.0 and up.
#include "band_tile.h"
#include "tile_grid.cuh"

namespace sg3 {

template <class S, class T, FlagMode Mode>
__global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    band_kernel(const __grid_constant__ Sg3FilteredLrelu op, Sg3TileGrid grid) {
    __shared__ BandMemory<S, T> memory;
    const int64_t first = first_plane(grid), left = grid.end_plane - first;
    BandTile<S, T> tile(op, memory, grid.plan, first, tile_x(grid), tile_y(grid));
    tile.template run<Mode>(BlockThreads(), left < grid.planes ? static_cast<int>(left)
                                                               : grid.planes);
}

}  // namespace sg3
