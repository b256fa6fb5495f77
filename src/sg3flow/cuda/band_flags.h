// The flags of a tile on the tensor cores: in shared memory 2 bits per sample, as in global memory,
// a row a run of 32-bit words of 16 samples.
#pragma once

#include "band_shape.h"
#include "pairs.h"

namespace sg3 {

// Collects codes by products: a sum of codes times powers of 4 is the word of their bits. 4 blocks
// of 16 columns give each lane the 16 codes of two rows of one block.
//   words [16 rows x 8 groups] += codes [16 rows x 16 cols] * powers [16 cols x 8 groups of 8 cols]
template <class T>
struct FlagWriter {
    // Sums begin with 2^23, so that a float's lower bits are the sum.
    static constexpr float BASE = 8388608.0f;
    FragmentB<T> powers[4];
    FragmentC words;

    SG3_DEVICE void start(const Pair<T>* table) {
        load_fragments<4>(powers, table);
        fill(words, BASE);
    }
    SG3_DEVICE void add(const FragmentA<T>& codes, int block) {
        multiply_add(words, codes, powers[block]);
    }
    SG3_DEVICE uint32_t word(int lane, int half) const {
        const float* v = words[lane].r + 2 * half;
        return pick_bytes(bits_of(v[0]), bits_of(v[1]), 0x5410);
    }
};

// Codes of a block in each of a lane's two rows.
struct TwoWords {
    uint32_t v[2];
};

// Calls work(n, mask) for each of the four pairs of an A that a lane has. `codes` begin with those
// of the lane's pair in the first 8 columns, and 16 bits on those of the next 8; `mask` is bit
// `bit` of the pair's two codes.
template <class Work>
SG3_DEVICE void each_mask(const TwoWords& codes, int bit, const Work& work) {
    SG3_UNROLL
    for (int n = 0; n < 2; ++n) {
        // the bits of the pair's first and of its second sample, to where a byte has its sign
        const uint32_t first = codes.v[n] << (7 - bit), second = codes.v[n] << (5 - bit);
        work(n, pick_bytes(first, second, 0xcc88));
        work(n + 2, pick_bytes(first, second, 0xeeaa));
    }
}

// Stores the flags of a tile's own samples, plane after plane; the last tile of a row or column, of
// the rest too. A thread keeps to one column of bytes.
template <class S, class T>
struct StoredFlags {
    using Memory = BandMemory<S, T>;
    static constexpr int ROW = Memory::FLAG_PITCH * 4;  // bytes
    const uint8_t* from;
    uint8_t* to;
    int rows, step;  // from the thread's first row on; to its next one
    uint32_t kept;   // bits of the thread's bytes
    int pitch, plane_rows;

    SG3_DEVICE StoredFlags(const BandBlock<S, T>& block, int thread)
        : pitch(block.op.flags_stride), plane_rows(block.op.flags_h) {
        const Sg3FilteredLrelu& op = block.op;
        const OwnSamples own = own_samples(op, block.at);
        const int bytes = (own.width + 3) / 4, byte = thread % bytes, row = thread / bytes;
        step = block.plan.warps * 32 / bytes;
        rows = row < step ? own.height - row : 0;  // some threads are left over
        from = reinterpret_cast<const uint8_t*>(block.mem.flags) + row * ROW + byte;
        to = op.flags + flags_plane(op, block.at) + (own.y + row) * pitch + own.x / 4 + byte;
        kept = kept_bits(own.width - byte * 4);
    }

    SG3_DEVICE void store() {
        const uint8_t* at = from;
        uint8_t* byte = to;
        SG3_UNROLL_BY_4
        for (int row = 0; row < rows; row += step) {
            *byte = static_cast<uint8_t>(*at & kept);
            at += step * ROW;
            byte += static_cast<int64_t>(step) * pitch;
        }
        to += static_cast<int64_t>(plane_rows) * pitch;
    }

    static SG3_DEVICE uint32_t kept_bits(int samples) {
        return samples >= 4 ? 0xffu : (1u << (2 * samples)) - 1;
    }
};

// Loads the flags that a tile reads, plane after plane: the words of global memory that a row's
// codes lie in, as they lie there. So row r is `row_offset(r)` bits ahead, the same for every
// fourth row. Outside the stored range nothing passes. A thread keeps to one column of words.
template <class S, class T>
struct ReadFlags {
    using Memory = BandMemory<S, T>;
    const BandBlock<S, T>& block;
    const Sg3FilteredLrelu& op;
    int64_t plane, size;  // bytes of a plane
    int row, word, step;  // the thread's first row, its column, rows to the next one
    int top, left;        // the stored code that row 0, column 0 of the tile reads
    const uint8_t* from;  // the byte of that column in the thread's first row; it may be before it

    SG3_DEVICE ReadFlags(const BandBlock<S, T>& block, int thread)
        : block(block),
          op(block.op),
          plane(block.at.plane),
          size(static_cast<int64_t>(op.flags_h) * op.flags_stride),
          top(static_cast<int>(block.at.out_y) * op.down_y + op.offset_y),
          left(static_cast<int>(block.at.out_x) * op.down_x + op.offset_x) {
        const int words = block.plan.blocks + 2;
        row = thread / words;
        word = thread % words;
        step = block.plan.warps * 32 / words / 4 * 4;
        from = op.flags + (plane * op.flags_h + top + row) * op.flags_stride + (left >> 2);
    }

    // The next plane.
    SG3_DEVICE void load() {
        const int begin = word * 4 - static_cast<int>(reinterpret_cast<uintptr_t>(from) % 4);
        const uint32_t known = known_bits(((left >> 2) + begin) * 4);
        // Around the first and the last plane there may be no memory.
        if (row >= step) {  // threads that are left over
        } else if (plane > 0 && plane + 1 < op.planes && size >= 4) {
            load_rows(from + begin, known, load_word<uint32_t, uint8_t>);
        } else {
            load_rows(from + begin, known,
                      [&](const uint8_t* at) { return known_bytes(at, known); });
        }
        ++plane;
        from += size;
    }

    template <class Load>
    SG3_DEVICE void load_rows(const uint8_t* at, uint32_t known, const Load& load) const {
        uint32_t* to = block.mem.flags + row * Memory::FLAG_PITCH + word;
        const int64_t next = static_cast<int64_t>(step) * op.flags_stride;
        const int rows = block.plan.warps * 16;
        constexpr int MANY = 4;  // rows that are on their way at once
        SG3_ROLLED
        for (int y = row; y < rows; y += MANY * step) {
            uint32_t codes[MANY];
            SG3_UNROLL
            for (int n = 0; n < MANY; ++n) {
                const auto there = static_cast<unsigned>(top + y + n * step);
                codes[n] = 0xaaaaaaaau;
                if (known && there < static_cast<unsigned>(op.flags_h)) {
                    codes[n] = (load(at + n * next) & known) | (codes[n] & ~known);
                }
            }
            SG3_UNROLL
            for (int n = 0; n < MANY; ++n) {
                if (y + n * step >= rows) break;
                *to = codes[n];
                to += step * Memory::FLAG_PITCH;
            }
            at += MANY * next;
        }
    }

    // The bits of 16 samples from sample `first` on that are stored.
    SG3_DEVICE uint32_t known_bits(int first) const {
        const int begin = first < 0 ? -first : 0, end = op.flags_w - first;
        if (begin >= 16 || end <= begin) return 0;
        const uint32_t before = (1u << (2 * begin)) - 1;
        return end >= 16 ? ~before : ((1u << (2 * end)) - 1) & ~before;
    }
    static SG3_DEVICE uint32_t known_bytes(const uint8_t* from, uint32_t known) {
        uint32_t found = 0;
        for (int i = 0; i < 4; ++i) {
            if (known >> (8 * i) & 0xff) found |= static_cast<uint32_t>(from[i]) << (8 * i);
        }
        return found;
    }

    // The bits before the tile's first code in row `row`: 0 to 30. Lower digits of the address are
    // enough.
    static SG3_DEVICE int row_offset(const BandBlock<S, T>& block, int64_t plane, int row) {
        const Sg3FilteredLrelu& op = block.op;
        const int top = static_cast<int>(block.at.out_y) * op.down_y + op.offset_y;
        const int left = static_cast<int>(block.at.out_x) * op.down_x + op.offset_x;
        const auto digits = [](auto v) { return static_cast<uint32_t>(v); };
        const uint32_t y = digits(plane) * digits(op.flags_h) + digits(top + row);
        const uint32_t address = digits(reinterpret_cast<uintptr_t>(op.flags)) +
                                 y * digits(op.flags_stride) + digits(left >> 2);
        return static_cast<int>(address % 4) * 8 + (left & 3) * 2;
    }
};

}  // namespace sg3
