// What is asked of the kernel, and the pieces that its work is cut into.

#pragma once

#include "lanes.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

namespace {

constexpr int BLOCK = 128;  // keys whose scores are held at once
constexpr int TILE = VECTORS * LANES;
constexpr i64 PART = 512;   // keys that are attended in one go; the parts are then merged
constexpr int FEW_HEADS = 8;  // up to so many, one row is faster with dimensions along the lanes
constexpr float LOWEST = -FLT_MAX, LOG2_E = 1.44269504f;

struct Call {  // models/attention/native.py fills it: `_Call`
    const char *query, *key, *value;
    char* out;  // [rows][heads][dim]
    i64 query_head, query_row, key_head, key_row, value_head, value_row;  // bytes
    i64 heads, kv_heads, dim, rows;
    const i64* positions;  // [rows]
    float scale;
    bool half;  // bfloat16, else float32

    i64 group() const { return heads / kv_heads; }
};

struct Tile {  // rows times heads of a group, counted from the call's first row
    i64 first, lanes;
    i64 unmasked, visible;  // keys that all its rows see, and that any does

    i64 row(const Call& call, i64 lane) const { return (first + lane) / call.group(); }
    i64 head(const Call& call, i64 kv_head, i64 lane) const {
        return kv_head * call.group() + (first + lane) % call.group();
    }
    const char* query(const Call& call, i64 kv_head, i64 lane) const {
        return call.query + head(call, kv_head, lane) * call.query_head +
               row(call, lane) * call.query_row;
    }
    i64 width() const { return (lanes + LANES - 1) / LANES * LANES; }
    bool is_one_row(const Call& call) const {
        return lanes <= FEW_HEADS && lanes == call.group() && call.dim % LANES == 0;
    }
};

struct Operand {  // keys or values of one K/V head
    const char* data;
    i64 row;  // bytes from a key to the next, or from a pair of keys to the next
};

struct Scratch {  // memory that a thread keeps, as fresh pages cost more than what is done in them
    std::vector<float> memory;
    float* take(i64 n) {
        constexpr i64 align = 64, spare = align / sizeof(float);
        if (i64(memory.size()) < n + spare) memory.resize(n + spare);
        return (float*)((uintptr_t(memory.data()) + align - 1) / align * align);
    }
};

// What a tile leaves, [dim + 2][width]: weighted sums of values, largest scores, sums of weights.

// The next part of a tile's keys, attended apart, joins those before it.
void merge(const Call& call, float* sums, const float* next, i64 width) {
    const i64 most = call.dim * width, weight = most + width;
    const Floats scale = all(call.scale * LOG2_E);
    for (i64 lane = 0; lane < width; lane += LANES) {
        float* to = sums + lane;
        const float* from = next + lane;
        const Floats mine = load(to + most), its = load(from + most), top = largest(mine, its);
        const Floats keep = power<false>((mine - top) * scale);
        const Floats take = power<false>((its - top) * scale);
        for (i64 d = 0; d < most; d += width)
            store(to + d, mul_add(load(from + d), take, load(to + d) * keep));
        store(to + weight, mul_add(load(from + weight), take, load(to + weight) * keep));
        store(to + most, top);
    }
}

// attend(from, to, into) for one part of keys [begin, end) after the other, merged into `sums`, which
// has room for two.
template <class F>
inline void in_parts(const Call& call, i64 begin, i64 end, i64 width, float* sums, F attend) {
    float* next = sums + (call.dim + 2) * width;
    attend(begin, std::min(begin + PART, end), sums);
    for (i64 k = begin + PART; k < end; k += PART) {
        attend(k, std::min(k + PART, end), next);
        merge(call, sums, next, width);
    }
}

// Averages into the result. Where no score was a number above LOWEST there is no softmax: NaN.
void finish(const Call& call, const Tile& tile, i64 kv_head, const float* sums) {
    const i64 width = tile.width();
    const float *most = sums + call.dim * width, *weight = most + width;
    for (i64 lane = 0; lane < tile.lanes; lane++) {
        const i64 to = tile.row(call, lane) * call.heads + tile.head(call, kv_head, lane);
        const float share = most[lane] > LOWEST ? 1 / weight[lane] : NAN;
        for (i64 d = 0; d < call.dim; d++) {
            const float x = sums[d * width + lane] * share;
            if (call.half)
                ((uint16_t*)call.out)[to * call.dim + d] = narrow(x);
            else
                ((float*)call.out)[to * call.dim + d] = x;
        }
    }
}

}  // namespace
