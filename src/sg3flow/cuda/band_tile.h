// filtered_lrelu on one tile, as products with small banded matrices: for half-precision types on
// the tensor cores. Sums run in float32, what is between the steps is rounded to the type, as in
// plain PyTorch.
#pragma once

#include "band_down.h"
#include "band_input.h"

namespace sg3 {

template <class S, class T>
struct BandTile {
    using Memory = BandMemory<S, T>;
    BandBlock<S, T> block;
    int tile;

    SG3_DEVICE BandTile(const Sg3FilteredLrelu& op, Memory& mem, const BandPlan& plan,
                        int64_t plane, int tile_x, int tile_y)
        : block(op, mem, plan, plane, tile_x, tile_y), tile(tile_y * op.sums_x + tile_x) {}

    template <FlagMode Mode>
    using Flags = std::conditional_t<Mode == READ_FLAGS, ReadFlags<S, T>, StoredFlags<S, T>>;

    // The tile on this plane and the next ones: they share the table.
    template <FlagMode Mode, class Threads>
    SG3_DEVICE void run(const Threads& threads, int planes) {
        threads.each([&](int thread) {
            clear(thread);
            BandTable<S, T>(block).load(thread);
        });
        const float reach = Mode == READ_FLAGS ? -1.0f : safe_input();
        auto inputs = threads.keep([&](int thread) { return BandInput<S, T>(block, thread); });
        using Down = BandDown<S, T, Mode == READ_FLAGS>;
        auto downs = threads.keep_by_warp([&](int warp) { return Down(block, warp); });
        auto flags = threads.keep([&](int thread) { return Flags<Mode>(block, thread); });
        const int64_t end = block.at.plane + planes;
        for (int64_t plane = block.at.plane; plane < end; ++plane) {
            // A plane whose samples cannot reach the limit is spared looking at it.
            const bool clips = threads.any([&](int thread) {
                if constexpr (Mode == READ_FLAGS) flags[thread].load();
                const Pair<T> peak = inputs[thread].template load<Mode != READ_FLAGS>();
                return reach >= 0 && Pairs<T>::largest(peak) >= reach;
            });
            threads.each_warp([&](int warp) {
                BandStream<S, T, Mode>(block, warp).run(plane, clips);
            });
            // No barrier: what is loaded for the next plane lies elsewhere.
            threads.each_warp_alone([&](int warp) { downs[warp].run(plane); });
            if constexpr (Mode == WRITE_FLAGS) {
                threads.each_alone([&](int thread) { flags[thread].store(); });
            }
        }
    }

    // Zeros around the image, and where products meet what no plane writes.
    SG3_DEVICE void clear(int thread) {
        const Eight<T> none = {{same_pair<T>(0.0f), same_pair<T>(0.0f), same_pair<T>(0.0f),
                                same_pair<T>(0.0f)}};
        const int step = block.plan.warps * 32;
        if (thread == 0) block.mem.tile = tile;  // no register keeps it
        for (int i = thread; i < Memory::IN / 8; i += step) store_word(block.mem.in + 8 * i, none);
        for (int i = thread; i < Memory::LOW / 8; i += step) {
            store_word(block.mem.low + 8 * i, none);
        }
    }

    // No input below this lets a sample reach the limit; negative, as the limit, for none.
    SG3_DEVICE float safe_input() const {
        return block.limit / BandTable<S, T>(block).up_bound();
    }
};

}  // namespace sg3
