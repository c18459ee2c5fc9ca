// Many rows over their keys. Rows lie along the lanes: the largest score and the sum of weights are
// taken without looking across lanes, and keys and values are read as they lie, word by word.

#pragma once

#include "call.h"

#include <algorithm>

namespace {

// sums[i][v] += Σ_j rows[j][v] · word(at[i] + j · along), `along` in bytes.
template <class A, int V>
inline void multiply(Floats (&sums)[WORDS][V], const float* rows, const char* const (&at)[WORDS],
                     i64 along, i64 depth) {
    for (i64 j = 0; j < depth; j++) {
        Floats row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) row[v] = load(rows + (j * V + v) * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; i++) {
            Floats word = A::word(at[i] + j * along);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums[i][v] = A::dot(sums[i][v], row[v], word);
        }
    }
}

// A tile's queries with rows along the lanes, [dim / DEPTH][V · LANES] words; no row gives zeros.
template <class A, int V>
void gather_queries(const Call& call, const Tile& tile, i64 kv_head, float* words) {
    constexpr i64 width = V * LANES;
    const i64 depth = call.dim / A::DEPTH;
    for (i64 lane = 0; lane < width; lane++) {
        float* to = words + lane;
        const char* from = lane < tile.lanes ? tile.query(call, kv_head, lane) : nullptr;
        if (!from)
            for (i64 j = 0; j < depth; j++) to[j * width] = 0;
        else if (A::DEPTH == 1 && call.half)
            for (i64 j = 0; j < depth; j++) to[j * width] = widen(((const uint16_t*)from)[j]);
        else
            for (i64 j = 0; j < depth; j++) std::memcpy(to + j * width, from + 4 * j, 4);
    }
}

// Ask for the values of keys [begin, begin + WORDS) while their scores are computed: `average` goes
// through them in narrow columns, which the processor does not foresee.
template <class A>
inline void fetch(const Operand& value, i64 begin, i64 bytes) {
    for (i64 k = begin / A::DEPTH; k < (begin + WORDS) / A::DEPTH; k++)
        for (i64 b = 0; b < bytes; b += 64) __builtin_prefetch(value.data + k * value.row + b);
}

// Scores of keys [first, last) of the block that begins at `begin`, into [key][V · LANES], and the
// largest of each row.
template <class A, int V, bool MASKED>
void score(const float* query, const Operand& key, const Operand& value, i64 begin, i64 first,
           i64 last, i64 dim, const Floats (&position)[V], float* scores, Floats (&most)[V]) {
    for (i64 k = first; k < last; k += WORDS) {
        fetch<A>(value, begin + k, dim * 4);
        const char* at[WORDS];  // a key beyond the last is read as the last, and dropped
        for (int i = 0; i < WORDS; i++)
            at[i] = key.data + (begin + std::min(k + i, last - 1)) * key.row;
        Floats sums[WORDS][V] = {};
        multiply<A, V>(sums, query, at, 4, dim / A::DEPTH);
        const int n = int(std::min<i64>(WORDS, last - k));
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; i++) {
            if (i >= n) break;
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                Floats x = sums[i][v];
                store(scores + ((k + i) * V + v) * LANES, x);
                if (MASKED) x = where(at_least(position[v], all(float(begin + k + i))), x, most[v]);
                most[v] = largest(x, most[v]);
            }
        }
    }
}

// Scores become weights 2^((score - most) · scale), in place; as pairs of keys where DEPTH is 2.
// The difference comes first: among huge scores the largest still has the weight 1.
template <class A, int V, bool MASKED>
void weigh(float* scores, i64 begin, i64 first, i64 last, Floats scale,
           const Floats (&position)[V], const Floats (&most)[V], Floats (&weight)[V]) {
    auto one = [&](i64 k, int v) {
        Floats x = (load(scores + (k * V + v) * LANES) - most[v]) * scale;
        x = power<A::DEPTH == 2>(x);
        if (MASKED) x = where(at_least(position[v], all(float(begin + k))), x, all(0));
        weight[v] = weight[v] + x;
        return x;
    };
    for (i64 k = first; k < last; k += A::DEPTH) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            Floats x = one(k, v);
            if (A::DEPTH == 2) x = paired(x, k + 1 < last ? one(k + 1, v) : all(0));
            store(scores + (k / A::DEPTH * V + v) * LANES, x);
        }
    }
}

// sums [dim][V · LANES] fade and take in the values of a block's keys by their weights.
template <class A, int V>
void average(const float* weights, const char* block, i64 row, i64 count, i64 dim,
             const Floats (&fade)[V], float* sums) {
    for (i64 d = 0; d < dim; d += WORDS) {
        const char* at[WORDS];
        Floats part[WORDS][V];
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; i++) {
            at[i] = block + (d + i) * 4;
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                part[i][v] = load(sums + ((d + i) * V + v) * LANES) * fade[v];
        }
        multiply<A, V>(part, weights, at, row, (count + A::DEPTH - 1) / A::DEPTH);
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; i++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) store(sums + ((d + i) * V + v) * LANES, part[i][v]);
    }
}

// One tile over keys [begin, end), into [dim + 2][V · LANES]. A row takes its keys in the same
// order and blocks whatever rows share its tile: what it comes to is the same to the bit.
template <class A, int V>
void attend_keys(const Call& call, const Tile& tile, const float* query,
                 const Floats (&position)[V], const Operand& key, const Operand& value, i64 begin,
                 i64 end, float* scores, float* sums) {
    constexpr int width = V * LANES;
    const i64 dim = call.dim;
    Floats most[V], weight[V];
    for (int v = 0; v < V; v++) {
        most[v] = all(LOWEST);
        weight[v] = all(0);
    }
    std::fill(sums, sums + dim * width, 0.f);
    const Floats scale = all(call.scale * LOG2_E);  // powers of two instead of e
    for (i64 k = begin; k < end; k += BLOCK) {
        const i64 count = std::min<i64>(BLOCK, end - k);
        // Only keys that some row must not see are compared with the rows' positions.
        const i64 clear = tile.unmasked - k >= count ? count
                                                     : std::max<i64>(tile.unmasked - k, 0) / WORDS * WORDS;
        Floats next[V], fade[V];
        for (int v = 0; v < V; v++) next[v] = most[v];
        score<A, V, false>(query, key, value, k, 0, clear, dim, position, scores, next);
        score<A, V, true>(query, key, value, k, clear, count, dim, position, scores, next);
        for (int v = 0; v < V; v++) {
            fade[v] = power<false>((most[v] - next[v]) * scale);
            weight[v] = weight[v] * fade[v];
            most[v] = next[v];
        }
        weigh<A, V, false>(scores, k, 0, clear, scale, position, most, weight);
        weigh<A, V, true>(scores, k, clear, count, scale, position, most, weight);
        average<A, V>(scores, value.data + k / A::DEPTH * value.row, value.row, count, dim, fade,
                      sums);
    }
    for (int v = 0; v < V; v++) {
        store(sums + dim * width + v * LANES, most[v]);
        store(sums + (dim + 1) * width + v * LANES, weight[v]);
    }
}

// All parts of keys [begin, end), one after the other and merged.
template <class A, int V>
void attend_tile(const Call& call, const Tile& tile, i64 kv_head, const Operand& key,
                 const Operand& value, i64 begin, i64 end, Scratch& scratch, float* sums) {
    constexpr int width = V * LANES;
    const i64 depth = call.dim / A::DEPTH;
    float* query = scratch.take((depth + BLOCK) * width);
    float* scores = query + depth * width;
    gather_queries<A, V>(call, tile, kv_head, query);
    Floats position[V];
    alignas(64) float numbers[width];
    for (i64 lane = 0; lane < width; lane++)
        numbers[lane] = float(call.positions[tile.row(call, std::min(lane, tile.lanes - 1))]);
    for (int v = 0; v < V; v++) position[v] = load(numbers + v * LANES);
    in_parts(call, begin, end, width, sums, [&](i64 from, i64 to, float* part) {
        attend_keys<A, V>(call, tile, query, position, key, value, from, to, scores, part);
    });
}

}  // namespace
