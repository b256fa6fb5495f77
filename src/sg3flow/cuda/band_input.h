// The input of a tile on the tensor cores: from global memory, with the bias, into shared memory.
//
// Rows begin anywhere in memory, so what is read is the 16-byte words that a row's inputs lie in;
// each is stored as its four pairs, where the tile has them. A thread keeps to one column of words
// and every fourth row or so: the rows' offsets from whole words recur after four.
//
// Around the image are zeros, stored once for all planes: the bias belongs to the image.
#pragma once

#include "band_shape.h"
#include "pairs.h"

namespace sg3 {

// 8 neighbors of a row.
template <class T>
struct alignas(8 * sizeof(T)) Eight {
    Pair<T> r[4];
};

// One thread's share of a tile, plane after plane.
template <class S, class T>
struct BandInput {
    using Block = BandBlock<S, T>;
    using Memory = typename Block::Memory;
    const Block& block;
    const Sg3FilteredLrelu& op;
    int64_t plane;
    int channel;
    int row, word, step;  // the thread's first row, its column, rows to the next one
    int end;              // of the rows that both the tile and the image have
    int first;            // columns that both the tile and the image have:
    unsigned count;       // so many, from that one on
    const T* from;        // the tile's column 0 in the thread's first row
    bool has_pairs;

    SG3_DEVICE BandInput(const Block& block, int thread)
        : block(block),
          op(block.op),
          plane(block.at.plane),
          channel(plane_channel(op, plane)),
          has_pairs(block.has_pairs()) {
        const int words = S::in_cols(block.plan.blocks) / 8 + 1;
        row = thread / words;
        word = thread % words;
        step = block.plan.warps * 32 / words / 4 * 4;
        const bool is_left_over = row >= step;
        const int top = static_cast<int>(block.at.ay.in_first), rows = S::in_rows(block.plan.warps);
        end = is_left_over ? 0 : (op.in_h - top < rows ? op.in_h - top : rows);
        while (top + row < 0) row += step;
        const int left = static_cast<int>(block.at.ax.in_first) - block.lead;
        const int cols = S::in_cols(block.plan.blocks);
        first = left < 0 ? -left : 0;
        const int last = op.in_w - left < cols ? op.in_w - left : cols;
        count = static_cast<unsigned>(larger(last - first, 0));
        from = static_cast<const T*>(op.x) + (plane * op.in_h + top + row) * op.in_w + left;
    }

    // Loads the next plane. `Add`: with the bias; then the largest magnitude comes back.
    template <bool Add>
    SG3_DEVICE Pair<T> load() {
        const T bias = op.b ? static_cast<const T*>(op.b)[channel] : T(0.0f);
        Taken<Add> taken = {bias, same_pair<T>(widen(bias)), same_pair<T>(0.0f)};
        // Around the first and the last plane there may be no memory.
        const bool inner = plane > 0 && plane + 1 < op.planes && size() >= 8;
        if (inner && has_pairs) {
            load_words(taken);
        } else {
            load_samples(taken);
        }
        ++plane;
        if (++channel == op.channels) channel = 0;
        from += size();
        return taken.peak;
    }

    template <bool Add>
    struct Taken {
        T bias;
        Pair<T> biases, peak;

        SG3_DEVICE Pair<T> operator()(Pair<T> v) {
            if (!Add) return v;
            v = Pairs<T>::add(v, biases);
            peak = Pairs<T>::larger(peak, Pairs<T>::magnitude(v));
            return v;
        }
        SG3_DEVICE T operator()(T v) {
            if (!Add) return v;
            v = add(v, bias);
            peak = Pairs<T>::larger(peak, Pairs<T>::magnitude(same_pair<T>(widen(v))));
            return v;
        }
    };

    SG3_DEVICE int64_t size() const { return static_cast<int64_t>(op.in_h) * op.in_w; }
    SG3_DEVICE bool has_col(int x) const { return static_cast<unsigned>(x - first) < count; }

    template <class Taken>
    SG3_DEVICE void load_words(Taken& taken) const {
        const auto address = reinterpret_cast<uintptr_t>(from) / sizeof(T);
        const int col = word * 8 - static_cast<int>(address % 8);
        bool known[4];
        SG3_UNROLL
        for (int i = 0; i < 4; ++i) known[i] = has_col(col + 2 * i);
        if (!(known[0] || known[1] || known[2] || known[3])) return;
        const T* at = from + col;
        T* to = block.mem.in + row * Memory::IN_PITCH + col;
        const int64_t next = static_cast<int64_t>(step) * op.in_w;
        SG3_UNROLL_BY_2
        for (int y = row; y < end; y += step) {
            const auto eight = load_word<Eight<T>>(at);
            ask_for(at + size());  // the next plane's, while this one is computed
            SG3_UNROLL
            for (int i = 0; i < 4; ++i) {
                const Pair<T> v = taken(eight.r[i]);
                if (known[i]) store_pair(to + 2 * i, v);
            }
            at += next;
            to += step * Memory::IN_PITCH;
        }
    }

    template <class Taken>
    SG3_DEVICE void load_samples(Taken& taken) const {
        const T* at = from;
        T* to = block.mem.in + row * Memory::IN_PITCH;
        SG3_ROLLED
        for (int y = row; y < end; y += step) {
            SG3_ROLLED
            for (int x = word * 8; x < word * 8 + 8; ++x) {
                if (has_col(x)) to[x] = taken(at[x]);
            }
            at += static_cast<int64_t>(step) * op.in_w;
            to += step * Memory::IN_PITCH;
        }
    }
};

}  // namespace sg3
