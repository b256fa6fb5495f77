// The fused filtered_lrelu without tensor cores: one block a tile of one plane.
#include "plain_tile.h"
#include "tile.h"
#include "tile_grid.cuh"

namespace sg3 {

template <class S, class T, bool ReadFlags>
__global__ void __launch_bounds__(S::THREADS)
    tile_kernel(const __grid_constant__ Sg3FilteredLrelu op, Sg3TileGrid grid) {
    __shared__ TileMemory<S> memory;
    Tile<S, T> tile(op, memory, first_plane(grid), tile_x(grid), tile_y(grid));
    tile.template run<ReadFlags>(BlockThreads());
}

}  // namespace sg3
