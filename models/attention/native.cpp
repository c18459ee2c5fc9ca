// Attention of sorted query rows over the keys before them, on a CPU, in one pass over the keys.
//
// Softmax is kept running, block of keys by block (Milakov & Gimelshein, 2018, arXiv:1805.02867;
// Dao et al., 2022, arXiv:2205.14135). The query heads that share a K/V head are rows like any
// other, so that keys and values are never repeated. What is no number among what a row reads comes
// out as NaN.

#include "one_row.h"
#include "tile.h"

#include <atomic>

namespace {

constexpr i64 FEW_TILES = 16;  // fewer than these have their parts attended by several threads
constexpr i64 PIECE = 512;     // keys that are prepared at once

using Attend = void (*)(const Call&, const Tile&, i64, const Operand&, const Operand&, i64, i64,
                        Scratch&, float*);
template <class A>
constexpr Attend TILES[] = {attend_tile<A, 1>, attend_tile<A, 2>, attend_tile<A, 3>};
template <bool HALF>
constexpr Attend ROWS[FEW_HEADS] = {attend_row<HALF, 1>, attend_row<HALF, 2>, attend_row<HALF, 3>,
                                    attend_row<HALF, 4>, attend_row<HALF, 5>, attend_row<HALF, 6>,
                                    attend_row<HALF, 7>, attend_row<HALF, 8>};

std::vector<Tile> cut(const Call& call) {
    const i64 group = call.group(), end = call.rows * group;
    std::vector<Tile> tiles;
    for (i64 first = 0; first < end; first += TILE) {
        const i64 lanes = std::min<i64>(TILE, end - first);
        tiles.push_back({first, lanes, call.positions[first / group] + 1,
                         call.positions[(first + lanes - 1) / group] + 1});
    }
    return tiles;
}

Operand keys(const Call& call, i64 head) {
    return {call.key + head * call.key_head, call.key_row};
}

Operand values(const Call& call, i64 head) {
    return {call.value + head * call.value_head, call.value_row};
}

// bfloat16 that tiles cannot read as it lies: values as pairs of keys, or all of it widened.
template <class A>
struct Prepared {
    const Call& call;
    i64 seen = 0, words = 0, pieces = 0;  // keys that any row sees, as rows of words, in pieces
    char *key = nullptr, *value = nullptr;

    Prepared(const Call& call, bool wanted, Scratch& scratch) : call(call) {
        if (!wanted) return;
        seen = call.positions[call.rows - 1] + 1;
        words = (seen + A::DEPTH - 1) / A::DEPTH;
        pieces = (seen + PIECE - 1) / PIECE;
        const i64 size = call.kv_heads * words * call.dim;
        value = (char*)scratch.take(A::DEPTH == 1 ? 2 * size : size);
        key = value + size * 4;
    }

    Operand rows(const char* of, i64 head) const {
        return {of + head * words * call.dim * 4, call.dim * 4};
    }

    void prepare(i64 head, i64 piece) {
        const i64 begin = piece * PIECE, end = std::min(begin + PIECE, seen);
        if (A::DEPTH == 2) {
            pair(values(call, head), rows(value, head), begin, end);
        } else {
            widen_rows(values(call, head), rows(value, head), begin, end);
            widen_rows(keys(call, head), rows(key, head), begin, end);
        }
    }

    void widen_rows(const Operand& from, const Operand& to, i64 begin, i64 end) {
        for (i64 k = begin; k < end; k++)
            for (i64 d = 0; d < call.dim; d++)
                ((float*)(to.data + k * to.row))[d] =
                    widen(((const uint16_t*)(from.data + k * from.row))[d]);
    }

    void pair(const Operand& from, const Operand& to, i64 begin, i64 end) {
        for (i64 k = begin; k < end; k += 2) {
            const uint16_t* low = (const uint16_t*)(from.data + k * from.row);
            const uint16_t* high = (const uint16_t*)(from.data + (k + 1) * from.row);
            uint32_t* both = (uint32_t*)(to.data + k / 2 * to.row);
            for (i64 d = 0; d < call.dim; d++)
                both[d] = low[d] | (k + 1 < end ? uint32_t(high[d]) << 16 : 0);
        }
    }
};

// A task is a tile of one K/V head with all its keys or, where there are few, with a part of them.
// The parts are the same either way, so that a row's result depends neither on the other rows nor on
// the number of threads. Threads take what comes next.
template <class A>
void run(const Call& call, int threads) {
    static thread_local Scratch prepared_memory, part_memory;
    const std::vector<Tile> tiles = cut(call);
    const i64 pairs = i64(tiles.size()) * call.kv_heads, size = (call.dim + 2) * TILE;
    const bool cuts = pairs < FEW_TILES;
    std::vector<i64> first_part{0};  // of each tile
    for (const Tile& tile : tiles)
        first_part.push_back(first_part.back() + (cuts ? (tile.visible + PART - 1) / PART : 1));
    const i64 n_parts = first_part.back();
    float* parts = cuts ? part_memory.take(n_parts * call.kv_heads * size) : nullptr;
    const bool rows_only = std::all_of(tiles.begin(), tiles.end(),
                                       [&](const Tile& tile) { return tile.is_one_row(call); });
    Prepared<A> prepared(call, call.half && !rows_only, prepared_memory);
    std::atomic<i64> next_piece{0}, next_task{0}, next_merge{0};

#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch, own;
        for (i64 i; (i = next_piece++) < prepared.pieces * call.kv_heads;)
            prepared.prepare(i / prepared.pieces, i % prepared.pieces);
#pragma omp barrier
        // The last tiles see most keys: they come first, so that no thread ends long after others.
        for (i64 i; (i = next_task++) < n_parts * call.kv_heads;) {
            const i64 head = i % call.kv_heads, part = n_parts - 1 - i / call.kv_heads;
            const i64 t = std::upper_bound(first_part.begin(), first_part.end(), part) -
                          first_part.begin() - 1;
            const Tile& tile = tiles[t];
            float* sums = cuts ? parts + (head * n_parts + part) * size : own.take(2 * size);
            Operand key = keys(call, head), value = values(call, head);
            Attend attend = TILES<A>[tile.width() / LANES - 1];
            if (tile.is_one_row(call)) {
                attend = (call.half ? ROWS<true> : ROWS<false>)[tile.lanes - 1];
            } else if (call.half) {
                value = prepared.rows(prepared.value, head);
                if (A::DEPTH == 1) key = prepared.rows(prepared.key, head);
            }
            const i64 begin = cuts ? (part - first_part[t]) * PART : 0;
            const i64 end = cuts ? std::min(begin + PART, tile.visible) : tile.visible;
            attend(call, tile, head, key, value, begin, end, scratch, sums);
            if (!cuts) finish(call, tile, head, sums);
        }
        if (cuts) {
#pragma omp barrier
            for (i64 i; (i = next_merge++) < pairs;) {
                const i64 head = i % call.kv_heads, t = i / call.kv_heads;
                float* sums = parts + (head * n_parts + first_part[t]) * size;
                for (i64 p = 1; p < first_part[t + 1] - first_part[t]; p++)
                    merge(call, sums, sums + p * size, tiles[t].width());
                finish(call, tiles[t], head, sums);
            }
        }
    }
}

}  // namespace

extern "C" void kvfuse_attend(const Call* call, int threads) {
    if (call->half)
        run<Double>(*call, threads);
    else
        run<Single>(*call, threads);
}
