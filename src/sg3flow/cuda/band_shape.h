// The constants of one kind of tile on the tensor cores, how a layer is split into tiles, and
// what a tile keeps in shared memory.
//
// A warp owns 16 rows of the upsampled signal and runs along them in blocks of 16 columns.
#pragma once

#include "codes.h"
#include "matrix.h"
#include "tile_shape.h"

namespace sg3 {

template <int Up, int UpTaps, bool UpRadial, int Down, int DownTaps, bool DownRadial>
struct BandShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = UpRadial, DOWN_RADIAL = DownRadial;
    static constexpr int PHASE_TAPS = UP_TAPS / UP;

    // At most; what a layer needs of them is its plan.
    static constexpr int WARPS = DOWN_RADIAL ? 7 : 8, THREADS = WARPS * 32;
    static constexpr int BLOCKS = DOWN_RADIAL ? 7 : (UP_RADIAL ? 8 : (DOWN == 4 ? 12 : 10));
    static constexpr int EVEN = BLOCKS % 2 == 0 ? 2 : 1;  // blocks come in so many
    static constexpr int MID_H = WARPS * 16, MID_W = BLOCKS * 16;
    // The last tile also owns the up to DOWN - 1 samples that no output needs.
    static constexpr int TILE_H = (MID_H - DOWN_TAPS + 1) / DOWN;
    static constexpr int TILE_W = (MID_W - DOWN_TAPS + 1) / DOWN / 2 * 2;

    // Blocks that share the registers of a multiprocessor.
    static constexpr int RESIDENT = UP_RADIAL && DOWN == 4 ? 2 : 3;

    // With a radial upsampling filter a warp's rows are those of one phase, UP apart.
    static constexpr int ROW_STEP = UP_RADIAL ? UP : 1;
    static constexpr int WINDOWS = DOWN / 2;  // blocks that a step of 8 output columns takes
    static constexpr int PER_STRIP = UP / 2;  // blocks that a strip of 8 input columns gives
    static constexpr int OUT_STEPS = round_up(7 * DOWN + DOWN_TAPS, 16) / 16;
    static constexpr int ROW_STEPS = round_up(15 * DOWN + DOWN_TAPS, 16) / 16;

    static SG3_BOTH constexpr int in_rows(int warps) {
        return UP_RADIAL ? warps / UP * 16 + 8 : (warps - 1) * (16 / UP) + 16;
    }
    static SG3_BOTH constexpr int in_cols(int blocks) {
        return (blocks + PER_STRIP - 1) / PER_STRIP * 8 + 8;
    }

    static_assert((16 * PER_STRIP + 2 * UP - 3) / UP + PHASE_TAPS < 16,
                  "a strip's samples see at most 15 inputs, and one more that the tile leads by");
    static_assert((DOWN_TAPS - 1) / DOWN < 8, "16 samples reach at most 16 outputs");
};

using BandPlan = Sg3BandPlan;

// `size` outputs split evenly into tiles of at most `most`.
SG3_BOTH int even_share(int size, int most) {
    const int tiles = (size + most - 1) / most;
    return (size + tiles - 1) / tiles;
}

template <class S>
SG3_BOTH BandPlan band_plan(const Sg3FilteredLrelu& op) {
    const int rows = even_share(op.out_h, S::TILE_H);
    // an even number, so that no byte of flags belongs to two tiles; by fours stores are wider
    const int fours = round_up(even_share(op.out_w, S::TILE_W), 4);
    const int cols = fours < S::TILE_W ? fours : S::TILE_W;
    const int mid_w = cols * S::DOWN + S::DOWN_TAPS - 1, mid_h = rows * S::DOWN + S::DOWN_TAPS - 1;
    const int warps = round_up((mid_h + 15) / 16, S::ROW_STEP);
    const int blocks = round_up((mid_w + 15) / 16, S::EVEN);
    return {cols, rows, blocks, warps < 2 ? 2 : warps};
}

// Rows of an odd number of 16 bytes: the 8 rows of a matrix fall into different banks.
SG3_BOTH constexpr int banked(int width) { return round_up(width - 8, 16) + 8; }

template <class S, class T>
struct BandMemory {
    static constexpr int IN_PITCH = banked(S::in_cols(S::BLOCKS));
    static constexpr int IN = S::in_rows(S::WARPS) * IN_PITCH;

    // Downsampled across, with 16 more rows of zeros; or for a radial filter, with 8 columns.
    static constexpr int LOW_W = S::DOWN_RADIAL ? S::MID_W + 8 : S::BLOCKS / S::WINDOWS * 8;
    static_assert(S::DOWN_RADIAL ||
                      (LOW_W % 16 == 0 && round_up(S::TILE_W, 16) <= LOW_W &&
                       (S::TILE_H - 16) * S::DOWN + S::ROW_STEPS * 16 <= S::MID_H + 16),
                  "units of 16 x 16 outputs find what they read");
    static constexpr int LOW_PITCH = banked(LOW_W);
    static constexpr int LOW = (S::MID_H + (S::DOWN_RADIAL ? 0 : 16)) * LOW_PITCH +
                               (S::DOWN_RADIAL ? 8 : 0);

    // Rows of activated samples 8 apart are neighbors in memory: a radial filter reads them at
    // once. The later four of 8 are moved by some banks more, so that those differ between all 8.
    static SG3_BOTH constexpr int radial_place(int row) {
        return (row % 8 * (S::MID_H / 8) + row / 8) * LOW_PITCH + row % 8 / 4 * 8;
    }

    static constexpr int FLAG_PITCH = S::BLOCKS + 2;  // words of 16 samples
    static_assert(round_up(S::BLOCKS, 4) <= FLAG_PITCH, "words are written by fours");

    // The table of fragments: upsampling, downsampling across, and along (or radial), and what
    // collects flags.
    static constexpr int UP_X = S::UP_RADIAL ? 0 : 4;
    static constexpr int ACROSS = S::UP_RADIAL ? 4 * S::UP_TAPS : UP_X + 8;
    static constexpr int ALONG = ACROSS + (S::DOWN_RADIAL ? 0 : 4 * S::WINDOWS);
    static constexpr int POWERS =
        ALONG + (S::DOWN_RADIAL ? 2 * S::OUT_STEPS * S::DOWN_TAPS : 4 * S::ROW_STEPS);
    static constexpr int TABLE = POWERS + (S::UP_RADIAL || S::DOWN == 4 ? 0 : 8);

    alignas(8 * sizeof(T)) T in[IN];
    alignas(8 * sizeof(T)) T low[LOW];
    alignas(16) Pair<T> table[TABLE * 32];
    alignas(16) uint32_t flags[S::MID_H * FLAG_PITCH];
    int tile;  // of the plane
};

// A tile of some planes: its parameters, position and memory.
template <class S, class T>
struct BandBlock {
    using Memory = BandMemory<S, T>;

    const Sg3FilteredLrelu& op;
    Memory& mem;
    BandPlan plan;
    TilePlace at;
    int lead;  // columns that the tile begins before its first input: pairs are aligned
    float slope, limit;

    SG3_DEVICE BandBlock(const Sg3FilteredLrelu& op, Memory& mem, const BandPlan& plan,
                         int64_t plane, int tile_x, int tile_y)
        : op(op),
          mem(mem),
          plan(plan),
          at(tile_place<S>(op, plane, tile_x, tile_y, plan.cols, plan.rows)),
          lead(has_pairs() ? static_cast<int>(at.ax.in_first & 1) : 0),
          slope(static_cast<float>(op.slope)),
          limit(static_cast<float>(op.limit)) {}

    // Whether pairs of neighbors from an even column on are aligned words.
    SG3_DEVICE bool has_pairs() const {
        return op.in_w % 2 == 0 && reinterpret_cast<uintptr_t>(op.x) % (2 * sizeof(T)) == 0;
    }

    // The row of the upsampled tile that is row `row` of the 16 of a warp.
    SG3_DEVICE int mid_row(int warp, int row) const {
        if (!S::UP_RADIAL) return warp * 16 + row;
        return (warp / S::UP * 16 + row) * S::UP + warp % S::UP;
    }
};

}  // namespace sg3
