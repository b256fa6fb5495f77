// The tile of a block: blocks go through the tiles of a plane, then through the planes.
#pragma once

#include "launch.h"
#include "portable.h"

namespace sg3 {

SG3_DEVICE int64_t first_plane(const Sg3TileGrid& grid) {
    const unsigned tiles = static_cast<unsigned>(grid.tiles_x * grid.tiles_y);
    return grid.first_plane + static_cast<int64_t>(blockIdx.x / tiles) * grid.planes;
}
SG3_DEVICE int tile_x(const Sg3TileGrid& grid) {
    return static_cast<int>(blockIdx.x % static_cast<unsigned>(grid.tiles_x));
}
SG3_DEVICE int tile_y(const Sg3TileGrid& grid) {
    return static_cast<int>(blockIdx.x / static_cast<unsigned>(grid.tiles_x) %
                            static_cast<unsigned>(grid.tiles_y));
}

}  // namespace sg3
