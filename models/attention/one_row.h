// One row over its keys, as in decoding: memory is the limit. Dimensions lie along the lanes, and
// each key is read once, straight through, for all heads of its group.

#pragma once

#include "call.h"

#include <algorithm>
#include <type_traits>

namespace {

template <bool HALF>
inline Floats load_from(const char* row, i64 d) {
    return HALF ? load_half(row + 2 * d) : load((const float*)row + d);
}

// Scores of `count` keys, [H][BLOCK]; -inf beyond them.
template <bool HALF, int H>
void score_row(const float* query, const char* key, i64 stride, i64 count, i64 dim,
               float (&scores)[H][BLOCK]) {
    for (i64 i = 0; i < count; i++) {
        Floats part[H] = {};
        for (i64 d = 0; d < dim; d += LANES) {
            const Floats x = load_from<HALF>(key + i * stride, d);
#pragma GCC unroll 8
            for (int h = 0; h < H; h++) part[h] = mul_add(x, load(query + h * dim + d), part[h]);
        }
#pragma GCC unroll 8
        for (int h = 0; h < H; h++) scores[h][i] = total(part[h]);
    }
    for (int h = 0; h < H; h++) std::fill(scores[h] + count, scores[h] + BLOCK, -INFINITY);
}

// One head's scores become weights; what was before them fades by what is returned.
inline float weigh_row(float (&scores)[BLOCK], Floats scale, float& most, float& weight) {
    alignas(64) float lanes[LANES];
    Floats top = all(most), added = all(0);
    for (int i = 0; i < BLOCK; i += LANES) top = largest(load(scores + i), top);
    store(lanes, top);
    const float next = *std::max_element(lanes, lanes + LANES);
    for (int i = 0; i < BLOCK; i += LANES) {
        const Floats x = power<false>((load(scores + i) - all(next)) * scale);
        store(scores + i, x);
        added = added + x;
    }
    store(lanes, power<false>((all(most) - all(next)) * scale));
    weight = weight * lanes[0] + total(added);
    most = next;
    return lanes[0];
}

// averages [H][dim], from d on for W registers, fade and take in a block's values.
template <bool HALF, int H, int W>
void average_row(const float (&weights)[H][BLOCK], const float (&fade)[H], const char* value,
                 i64 stride, i64 count, i64 dim, i64 d, float* averages) {
    Floats part[W][H];
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
#pragma GCC unroll 4
        for (int w = 0; w < W; w++)
            part[w][h] = load(averages + h * dim + d + w * LANES) * all(fade[h]);
    for (i64 i = 0; i < count; i++) {
        Floats x[W];
#pragma GCC unroll 4
        for (int w = 0; w < W; w++) x[w] = load_from<HALF>(value + i * stride, d + w * LANES);
#pragma GCC unroll 8
        for (int h = 0; h < H; h++)
#pragma GCC unroll 4
            for (int w = 0; w < W; w++) part[w][h] = mul_add(x[w], all(weights[h][i]), part[w][h]);
    }
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
#pragma GCC unroll 4
        for (int w = 0; w < W; w++) store(averages + h * dim + d + w * LANES, part[w][h]);
}

// What attend_keys does, for the H heads of one row, into [dim + 2][LANES].
template <bool HALF, int H>
void row_keys(const Call& call, const float* query, const Operand& key, const Operand& value,
              i64 begin, i64 end, float* averages, float* sums) {
    constexpr int WIDE = H > 4 ? 2 : 4;
    const i64 dim = call.dim;
    std::fill(averages, averages + H * dim, 0.f);
    alignas(64) float scores[H][BLOCK];
    float most[H], weight[H], fade[H];
    std::fill(most, most + H, LOWEST);
    std::fill(weight, weight + H, 0.f);
    const Floats scale = all(call.scale * LOG2_E);
    for (i64 k = begin; k < end; k += BLOCK) {
        const i64 count = std::min<i64>(BLOCK, end - k);
        score_row<HALF, H>(query, key.data + k * key.row, key.row, count, dim, scores);
        for (int h = 0; h < H; h++) fade[h] = weigh_row(scores[h], scale, most[h], weight[h]);
        const char* block = value.data + k * value.row;
        i64 d = 0;
        for (; d + WIDE * LANES <= dim; d += WIDE * LANES)
            average_row<HALF, H, WIDE>(scores, fade, block, value.row, count, dim, d, averages);
        for (; d < dim; d += LANES)
            average_row<HALF, H, 1>(scores, fade, block, value.row, count, dim, d, averages);
    }
    for (int h = 0; h < H; h++) {
        for (i64 d = 0; d < dim; d++) sums[d * LANES + h] = averages[h * dim + d];
        sums[dim * LANES + h] = most[h];
        sums[(dim + 1) * LANES + h] = weight[h];
    }
}

// What attend_tile does, for the H heads of one row.
template <bool HALF, int H>
void attend_row(const Call& call, const Tile& tile, i64 kv_head, const Operand& key,
                const Operand& value, i64 begin, i64 end, Scratch& scratch, float* sums) {
    const i64 dim = call.dim;
    float *query = scratch.take(2 * H * dim), *averages = query + H * dim;
    for (i64 h = 0; h < H; h++)
        for (i64 d = 0; d < dim; d += LANES)
            store(query + h * dim + d, load_from<HALF>(tile.query(call, kv_head, h), d));
    in_parts(call, begin, end, LANES, sums, [&](i64 from, i64 to, float* part) {
        row_keys<HALF, H>(call, query, key, value, from, to, averages, part);
    });
}

}  // namespace
