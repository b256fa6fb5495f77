// The constants of one kind of tile: resampling rates, taps, how much of each signal a tile holds.
#pragma once

#include "geometry.h"

namespace sg3 {

// `Radial` filters are 2-D, the others separable. The tile gives TILE_W x TILE_H outputs.
template <int Up, int UpTaps, bool UpRadial, int Down, int DownTaps, bool DownRadial, int TileW,
          int TileH, int Threads>
struct TileShape {
    static constexpr int UP = Up, UP_TAPS = UpTaps, DOWN = Down, DOWN_TAPS = DownTaps;
    static constexpr bool UP_RADIAL = UpRadial, DOWN_RADIAL = DownRadial;
    static constexpr int TILE_W = TileW, TILE_H = TileH, THREADS = Threads;

    static constexpr int PHASE_TAPS = UP_TAPS / UP;
    // The last tile also owns the up to DOWN - 1 samples that no output needs; `shift` < UP.
    static constexpr int MID_W = round_up(TILE_W * DOWN + DOWN_TAPS - 1 + UP - 1, 4);
    static constexpr int MID_H = round_up(TILE_H * DOWN + DOWN_TAPS - 1 + UP - 1, UP);
    static constexpr int IN_W = round_up(MID_W / UP + PHASE_TAPS, 4);
    static constexpr int IN_H = MID_H / UP + PHASE_TAPS;
    static constexpr int GROUPS = MID_W / 4;  // columns are worked on 4 at a time
    // A row of the filter that takes `shift` into its taps, so that its reads stay aligned.
    static constexpr int SHIFTED_TAPS = DOWN_TAPS + UP - 1;
    static constexpr int OUTS = 4 / DOWN;  // neighbors that a thread computes
    static constexpr int OUT_READS = (SHIFTED_TAPS + (OUTS - 1) * DOWN + 3) / 4;
    static constexpr int MID_PITCH = round_up((TILE_W / OUTS - 1) * 4 + OUT_READS * 4, 4) > MID_W
                                         ? round_up((TILE_W / OUTS - 1) * 4 + OUT_READS * 4, 4)
                                         : MID_W;
    static_assert(UP_TAPS % UP == 0 && 4 % UP == 0 && 4 % DOWN == 0 && TILE_W % OUTS == 0,
                  "rates divide 4, taps are a multiple of the rate");
    static_assert(TILE_W * DOWN % 4 == 0, "no byte of flags belongs to two tiles");

    // Rows are split into runs, as many as keep all threads busy.
    static constexpr int run(int rows) {
        return (rows + THREADS / GROUPS - 1) / (THREADS / GROUPS);
    }
    static constexpr int UP_RUN = run(MID_H / UP);  // in input rows
    static constexpr int DOWN_RUN = run(TILE_H);    // in output rows
    static_assert(THREADS >= GROUPS, "a row of column groups fits the block");
};

SG3_BOTH constexpr int larger(int a, int b) { return a > b ? a : b; }
SG3_BOTH constexpr int smaller(int a, int b) { return a < b ? a : b; }

// What a tile keeps in shared memory. Signals whose lives do not overlap share their place: the
// input and the upsampled tile, the half-upsampled and the half-downsampled one.
template <class S>
struct TileMemory {
    static constexpr int IN = S::IN_H * S::IN_W;
    static constexpr int MID = S::MID_H * S::MID_PITCH;
    static constexpr int WIDE = S::UP_RADIAL ? 0 : S::IN_H * S::MID_PITCH;
    static constexpr int LOW = S::DOWN_RADIAL ? 0 : S::TILE_H * S::MID_PITCH;
    // A radial upsampling reads the input while it writes the upsampled tile.
    static constexpr int FIRST = S::UP_RADIAL ? larger(IN, LOW) : larger(WIDE, LOW);
    static constexpr int SECOND = S::UP_RADIAL ? MID : larger(MID, IN);
    static constexpr int UP_COUNT = S::UP_RADIAL ? S::UP_TAPS * S::UP_TAPS : S::UP_TAPS;
    static constexpr int SHIFTED = round_up(S::SHIFTED_TAPS, 4);
    static constexpr int DOWN_COUNT =
        S::DOWN_RADIAL ? S::DOWN_TAPS * SHIFTED : S::DOWN_TAPS + SHIFTED;

    alignas(16) float first[FIRST];
    alignas(16) float second[SECOND];
    alignas(16) float up_taps[round_up(UP_COUNT, 4)];
    alignas(16) float down_taps[round_up(DOWN_COUNT, 4)];
    alignas(16) uint8_t codes[S::MID_H * S::MID_W];

    SG3_DEVICE float* in() { return S::UP_RADIAL ? first : second; }
    SG3_DEVICE float* wide() { return first; }
    SG3_DEVICE float* mid() { return second; }
    SG3_DEVICE float* low() { return first; }
    // The sums of the threads, while the outputs are computed.
    SG3_DEVICE float* partials() { return S::DOWN_RADIAL ? first : second; }
    static_assert(FIRST >= S::THREADS && SECOND >= S::THREADS, "there is room for them");
};

}  // namespace sg3
