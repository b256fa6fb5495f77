// The sizes of the tiles that run without tensor cores.
#pragma once

#include "tile_shape.h"

namespace sg3 {

template <int Up, int UpTaps, bool UpRadial, int Down, int DownTaps, bool DownRadial>
using PlainTile = TileShape<Up, UpTaps, UpRadial, Down, DownTaps, DownRadial, Down == 4 ? 16 : 32,
                            Down == 4 ? 12 : 32, 128>;

}  // namespace sg3
