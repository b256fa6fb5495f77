// The flags of a tile: from global memory into shared memory, one byte per sample, and back.
#pragma once

#include "flags.h"
#include "geometry.h"

namespace sg3 {

// Where a tile is: its plane, its first output, its share of the outputs, its own samples.
struct TilePlace {
    int64_t plane, out_x, out_y;
    int cols, rows;  // outputs
    TileAxis ax, ay;
};

template <class S>
SG3_BOTH TilePlace tile_place(const Sg3FilteredLrelu& op, int64_t plane, int tile_x, int tile_y,
                              int cols, int rows) {
    const int64_t out_x = static_cast<int64_t>(tile_x) * cols;
    const int64_t out_y = static_cast<int64_t>(tile_y) * rows;
    return {plane, out_x, out_y, cols, rows, tile_axis(out_x, S::UP, S::DOWN, op.pad_x),
            tile_axis(out_y, S::UP, S::DOWN, op.pad_y)};
}

SG3_DEVICE int64_t flags_plane(const Sg3FilteredLrelu& op, const TilePlace& at) {
    return at.plane * op.flags_h * static_cast<int64_t>(op.flags_stride);
}

// The flags that the tile's samples read, `groups` times 4 per row.
template <int Groups, int Pitch, int Threads>
SG3_DEVICE void load_codes(const Sg3FilteredLrelu& op, const TilePlace& at, int mid_rows,
                           uint8_t* codes, int thread) {
    const uint8_t* flags = op.flags + flags_plane(op, at);
    for (int i = thread; i < mid_rows * Groups; i += Threads) {
        const int row = i / Groups, col = i % Groups * 4;
        const uint32_t four = read_codes(flags, op, at.ay.mid_first + row, at.ax.mid_first + col);
        store_word(codes + row * Pitch + col, four);
    }
}

// The upsampled samples whose flags a tile stores: those that its outputs begin with, and for the
// last tile of a row or column the rest too.
struct OwnSamples {
    int64_t x, y;
    int width, height;
};

SG3_BOTH OwnSamples own_samples(const Sg3FilteredLrelu& op, const TilePlace& at) {
    const int64_t x = at.out_x * op.down_x, y = at.out_y * op.down_y;
    const bool last_x = at.out_x + at.cols >= op.out_w, last_y = at.out_y + at.rows >= op.out_h;
    return {x, y, last_x ? static_cast<int>(op.mid_w - x) : at.cols * op.down_x,
            last_y ? static_cast<int>(op.mid_h - y) : at.rows * op.down_y};
}

template <int Groups, int Pitch, int Threads>
SG3_DEVICE void store_codes(const Sg3FilteredLrelu& op, const TilePlace& at, int mid_rows,
                            const uint8_t* codes, int thread) {
    const OwnSamples own = own_samples(op, at);
    uint8_t* flags = op.flags + flags_plane(op, at) + own.y * op.flags_stride + own.x / 4;
    for (int i = thread; i < mid_rows * Groups; i += Threads) {
        const int col = i % Groups * 4, row = i / Groups;
        if (col >= own.width || row >= own.height) continue;
        const uint8_t* from = codes + (row + at.ay.shift) * Pitch + col + at.ax.shift;
        flags[static_cast<int64_t>(row) * op.flags_stride + col / 4] =
            pack_codes(from, own.width - col);
    }
}

}  // namespace sg3
