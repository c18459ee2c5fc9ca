// Attention of sorted query rows over the keys before them, on a CPU, in one pass over the keys.
//
// Softmax is kept running, block of keys by block (Milakov & Gimelshein, 2018, arXiv:1805.02867;
// Dao et al., 2022, arXiv:2205.14135). Rows lie along the vector lanes: the query heads that share
// a K/V head are rows like any other, the largest score and the sum of weights are taken without
// looking across lanes, and keys and values are read as they lie, one word at a time for all rows.
// Each key takes part in a row in the same order whatever other rows share its tile.
//
// NaN in what a row reads comes out as NaN in that row.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>
#include <vector>

namespace {

using i64 = int64_t;

// What the two instruction sets have in common. `largest(a, b)` gives b where either is NaN.
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)

constexpr int LANES = 16, VECTORS = 3, WORDS = 8;
using Floats = __m512;
using Mask = __mmask16;
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats mul_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Mask at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline Floats where(Mask m, Floats a, Floats b) { return _mm512_mask_blend_ps(m, b, a); }
inline Floats nearest(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
inline float total(Floats x) { return _mm512_reduce_add_ps(x); }
inline Floats widened(const void* p) {  // bfloat16
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int LANES = 8, VECTORS = 3, WORDS = 4;
using Floats = __m256;
using Mask = __m256;
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats mul_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Mask at_least(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
inline Floats where(Mask m, Floats a, Floats b) { return _mm256_blendv_ps(b, a, m); }
inline Floats nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power(Floats x, Floats n) {  // n in [-126, 0], or NaN, as x is then
    __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), bits));
}
inline float total(Floats x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline Floats widened(const void* p) {  // bfloat16
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

#else
#error "AVX-512 or AVX2 with FMA is needed"
#endif

#if defined(__AVX512BF16__) && defined(__AVX512F__)
constexpr bool DOTS = true;
#else
constexpr bool DOTS = false;
#endif

constexpr int BLOCK = 64;  // keys whose scores are held at once
constexpr int TILE = VECTORS * LANES;
constexpr float LOWEST = -FLT_MAX, LOG2_E = 1.44269504f;
constexpr float SMALLEST = -126;  // a power of two that no sum of weights notices
constexpr int FEW_TASKS = 16, PART = 512;
constexpr int FEW_HEADS = 8;  // up to so many, one row is faster with dimensions along the lanes

// 2^x for x <= 0, NaN for NaN. The polynomials are minimax on [-1/2, 1/2], the fine one among
// those with 2^0 = 1: relative errors 1.7e-7 and, where the result is rounded to bfloat16, 7.5e-5.
template <bool COARSE>
inline Floats power(Floats x) {
    x = largest(all(SMALLEST), x);
    Floats n = nearest(x), f = x - n, y;
    if (COARSE) {
        y = mul_add(all(0.0551716691f), f, all(0.242611122f));
        y = mul_add(y, f, all(0.693260985f));
        y = mul_add(y, f, all(0.999928074f));
    } else {
        y = mul_add(all(0.00132647272f), f, all(0.00967151269f));
        y = mul_add(y, f, all(0.0555073374f));
        y = mul_add(y, f, all(0.240222421f));
        y = mul_add(y, f, all(0.693146978f));
        y = mul_add(y, f, all(1));
    }
    return times_power(y, n);
}

inline float widen(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline uint16_t narrow(float x) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Arithmetic on words of 32 bits: one float32, or two bfloat16 that follow each other.
struct Single {
    static constexpr int DEPTH = 1;
    static inline Floats word(const char* p) { return all(*(const float*)p); }
    static inline Floats dot(Floats sum, Floats a, Floats b) { return mul_add(a, b, sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
struct Double {
    static constexpr int DEPTH = 2;
    static inline Floats word(const char* p) {
        int x;
        std::memcpy(&x, p, 4);
        return _mm512_castsi512_ps(_mm512_set1_epi32(x));
    }
    static inline Floats dot(Floats sum, Floats a, Floats b) {
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    }
};
#else
using Double = Single;
#endif

// sums[i][v] += Σ_j rows[j][v] · word(i, j), words lying `across` bytes apart in i, `along` in j.
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

struct Call {
    const char *query, *key, *value;
    char* out;
    i64 query_head, query_row, key_head, key_row, value_head, value_row;  // bytes
    i64 heads, kv_heads, dim, rows;
    const i64* positions;  // within the row's segment
    i64 segments;
    const i64* segment_rows;  // [segments + 1]
    const i64* segment_keys;  // first key of each segment
    float scale;
    bool half;
};

struct Tile {
    i64 segment, first, lanes;   // rows times heads of a group, counted from the call's first row
    i64 unmasked, visible;       // keys that all its rows see, and that any does
};

struct Operand {  // keys or values of one K/V head and segment
    const char* data;
    i64 row;  // bytes from a key to the next, or from a pair of keys to the next
};

bool is_single(const Call& call, const Tile& tile) {
    return tile.lanes <= FEW_HEADS && tile.lanes == call.heads / call.kv_heads &&
           call.dim % LANES == 0;
}

struct Scratch {
    std::vector<float> memory;
    float* take(i64 n) {
        if (i64(memory.size()) < n + 16) memory.resize(n + 16);
        return (float*)((uintptr_t(memory.data()) + 63) & ~uintptr_t(63));
    }
};

// A tile's queries with rows along the lanes, [dim / DEPTH][V · LANES] words; no row gives zeros.
template <class A, int V>
void gather_queries(const Call& call, const Tile& tile, i64 head, float* words) {
    const i64 group = call.heads / call.kv_heads, width = V * LANES, depth = call.dim / A::DEPTH;
    for (i64 lane = 0; lane < width; lane++) {
        if (lane >= tile.lanes) {
            for (i64 j = 0; j < depth; j++) words[j * width + lane] = 0;
            continue;
        }
        const i64 row = (tile.first + lane) / group, h = head * group + (tile.first + lane) % group;
        const char* from = call.query + h * call.query_head + row * call.query_row;
        if (A::DEPTH == 1 && call.half)
            for (i64 j = 0; j < depth; j++)
                words[j * width + lane] = widen(((const uint16_t*)from)[j]);
        else
            for (i64 j = 0; j < depth; j++)
                std::memcpy(words + j * width + lane, from + 4 * j, 4);
    }
}

// Write sums, divided by their weights, as rows of the result: [dim + 2][width], the last two rows
// largest score and weight. Where no score was a number above LOWEST there is no softmax: NaN.
void scatter(const Call& call, const Tile& tile, i64 head, const float* sums, i64 width) {
    const i64 group = call.heads / call.kv_heads;
    const float *most = sums + call.dim * width, *weight = most + width;
    for (i64 lane = 0; lane < tile.lanes; lane++) {
        const i64 row = (tile.first + lane) / group, h = head * group + (tile.first + lane) % group;
        const i64 at = (row * call.heads + h) * call.dim;
        const float share = most[lane] > LOWEST ? 1 / weight[lane] : __builtin_nanf("");
        for (i64 d = 0; d < call.dim; d++) {
            const float x = sums[d * width + lane] * share;
            if (call.half)
                ((uint16_t*)call.out)[at + d] = narrow(x);
            else
                ((float*)call.out)[at + d] = x;
        }
    }
}

// Scores of `count` keys from `begin` on, [count][V · LANES], and the largest of each row.
template <class A, int V, bool MASKED>
void score(const float* query, const Operand& key, i64 begin, i64 count, i64 depth,
           const Floats (&position)[V], float* scores, Floats (&most)[V]) {
    for (i64 k = 0; k < count; k += WORDS) {
        const char* at[WORDS];  // a key beyond the last is read as the last, and dropped
        for (int i = 0; i < WORDS; i++)
            at[i] = key.data + (begin + std::min(k + i, count - 1)) * key.row;
        Floats sums[WORDS][V] = {};
        multiply<A, V>(sums, query, at, 4, depth);
        const int n = int(std::min<i64>(WORDS, count - k));
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
void weigh(float* scores, i64 begin, i64 count, Floats scale, const Floats (&position)[V],
           const Floats (&most)[V], Floats (&weight)[V]) {
    constexpr bool COARSE = A::DEPTH == 2;
    auto one = [&](i64 k, int v) {
        Floats x = power<COARSE>((load(scores + (k * V + v) * LANES) - most[v]) * scale);
        if (MASKED) x = where(at_least(position[v], all(float(begin + k))), x, all(0));
        weight[v] = weight[v] + x;
        return x;
    };
    for (i64 k = 0; k < count; k += A::DEPTH) {
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            Floats x = one(k, v);
#if defined(__AVX512BF16__) && defined(__AVX512F__)
            if (A::DEPTH == 2) {
                const Floats y = k + 1 < count ? one(k + 1, v) : all(0);
                const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
                const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y));
                x = _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
#endif
            store(scores + (k / A::DEPTH * V + v) * LANES, x);
        }
    }
}

// One tile over keys [begin, end): sums [dim][V · LANES], largest scores and weights [V · LANES].
template <class A, int V>
void attend_tile(const Call& call, const Tile& tile, i64 head, const Operand& key,
                 const Operand& value, i64 begin, i64 end, Scratch& scratch, float* sums,
                 float* mosts, float* weights) {
    constexpr int width = V * LANES;
    const i64 dim = call.dim, depth = dim / A::DEPTH, group = call.heads / call.kv_heads;
    float* query = scratch.take((depth + BLOCK) * width);
    float* scores = query + depth * width;
    gather_queries<A, V>(call, tile, head, query);
    Floats position[V], most[V], weight[V];
    alignas(64) float numbers[width];
    for (i64 lane = 0; lane < width; lane++)
        numbers[lane] =
            float(call.positions[(tile.first + std::min(lane, tile.lanes - 1)) / group]);
    for (int v = 0; v < V; v++) {
        position[v] = load(numbers + v * LANES);
        most[v] = all(LOWEST);
        weight[v] = all(0);
    }
    std::fill(sums, sums + dim * width, 0.f);
    const Floats scale = all(call.scale * LOG2_E);  // powers of two instead of e
    for (i64 k = begin; k < end; k += BLOCK) {
        const i64 count = std::min<i64>(BLOCK, end - k);
        const bool masked = k + count > tile.unmasked;
        Floats next[V], fade[V];
        for (int v = 0; v < V; v++) next[v] = all(-__builtin_inff());
        if (masked)
            score<A, V, true>(query, key, k, count, depth, position, scores, next);
        else
            score<A, V, false>(query, key, k, count, depth, position, scores, next);
        for (int v = 0; v < V; v++) {
            next[v] = largest(next[v], most[v]);
            fade[v] = power<false>((most[v] - next[v]) * scale);
            weight[v] = weight[v] * fade[v];
            most[v] = next[v];
        }
        if (masked)
            weigh<A, V, true>(scores, k, count, scale, position, most, weight);
        else
            weigh<A, V, false>(scores, k, count, scale, position, most, weight);
        const char* block = value.data + k / A::DEPTH * value.row;
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
            multiply<A, V>(part, scores, at, value.row, (count + A::DEPTH - 1) / A::DEPTH);
#pragma GCC unroll 8
            for (int i = 0; i < WORDS; i++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) store(sums + ((d + i) * V + v) * LANES, part[i][v]);
        }
    }
    for (int v = 0; v < V; v++) {
        store(mosts + v * LANES, most[v]);
        store(weights + v * LANES, weight[v]);
    }
}

template <bool HALF>
inline Floats load_from(const char* row, i64 d) {
    return HALF ? widened(row + 2 * d) : load((const float*)row + d);
}

// What attend_tile does, for the H heads of one row: each key is read once, as fast as it comes.
template <bool HALF, int H>
void attend_single(const Call& call, const Tile& tile, i64 head, const Operand& key,
                   const Operand& value, i64 begin, i64 end, Scratch& scratch, float* sums) {
    const i64 dim = call.dim, row = tile.first / H;
    float *query = scratch.take(2 * H * dim), *averages = query + H * dim;
    for (i64 h = 0; h < H; h++) {
        const char* from = call.query + (head * H + h) * call.query_head + row * call.query_row;
        for (i64 d = 0; d < dim; d += LANES)
            store(query + h * dim + d, load_from<HALF>(from, d));
    }
    std::fill(averages, averages + H * dim, 0.f);
    alignas(64) float scores[H][BLOCK];
    float most[H], weight[H], fade[H];
    for (int h = 0; h < H; h++) most[h] = LOWEST, weight[h] = 0;
    const Floats scale = all(call.scale * LOG2_E);
    for (i64 k = begin; k < end; k += BLOCK) {
        const i64 count = std::min<i64>(BLOCK, end - k);
        for (i64 i = 0; i < BLOCK; i++) {
            if (i >= count) {
                for (int h = 0; h < H; h++) scores[h][i] = -__builtin_inff();
                continue;
            }
            const char* from = key.data + (k + i) * key.row;
            Floats part[H] = {};
            for (i64 d = 0; d < dim; d += LANES) {
                const Floats x = load_from<HALF>(from, d);
#pragma GCC unroll 8
                for (int h = 0; h < H; h++)
                    part[h] = mul_add(x, load(query + h * dim + d), part[h]);
            }
#pragma GCC unroll 8
            for (int h = 0; h < H; h++) scores[h][i] = total(part[h]);
        }
        for (int h = 0; h < H; h++) {
            alignas(64) float lanes[LANES];
            Floats top = all(most[h]), added = all(0);
            for (int i = 0; i < BLOCK; i += LANES) top = largest(load(scores[h] + i), top);
            store(lanes, top);
            const float next = *std::max_element(lanes, lanes + LANES);
            for (int i = 0; i < BLOCK; i += LANES) {
                const Floats x = power<false>((load(scores[h] + i) - all(next)) * scale);
                store(scores[h] + i, x);
                added = added + x;
            }
            store(lanes, power<false>((all(most[h]) - all(next)) * scale));
            fade[h] = lanes[0];
            weight[h] = weight[h] * fade[h] + total(added);
            most[h] = next;
        }
        constexpr int WIDE = H > 4 ? 2 : 4;
        const char* block = value.data + k * value.row;
        auto add = [&](i64 d, auto wide) {
            constexpr int W = decltype(wide)::value;
            Floats part[W][H];
#pragma GCC unroll 8
            for (int h = 0; h < H; h++)
#pragma GCC unroll 4
                for (int w = 0; w < W; w++)
                    part[w][h] = load(averages + h * dim + d + w * LANES) * all(fade[h]);
            for (i64 i = 0; i < count; i++) {
                Floats x[W];
#pragma GCC unroll 4
                for (int w = 0; w < W; w++)
                    x[w] = load_from<HALF>(block + i * value.row, d + w * LANES);
#pragma GCC unroll 8
                for (int h = 0; h < H; h++)
#pragma GCC unroll 4
                    for (int w = 0; w < W; w++)
                        part[w][h] = mul_add(x[w], all(scores[h][i]), part[w][h]);
            }
#pragma GCC unroll 8
            for (int h = 0; h < H; h++)
#pragma GCC unroll 4
                for (int w = 0; w < W; w++)
                    store(averages + h * dim + d + w * LANES, part[w][h]);
        };
        i64 d = 0;
        for (; d + WIDE * LANES <= dim; d += WIDE * LANES)
            add(d, std::integral_constant<int, WIDE>());
        for (; d < dim; d += LANES) add(d, std::integral_constant<int, 1>());
    }
    for (int h = 0; h < H; h++) {
        for (i64 d = 0; d < dim; d++) sums[d * LANES + h] = averages[h * dim + d];
        sums[dim * LANES + h] = most[h];
        sums[(dim + 1) * LANES + h] = weight[h];
    }
}

using Attend = void (*)(const Call&, const Tile&, i64, const Operand&, const Operand&, i64, i64,
                         Scratch&, float*);
template <bool HALF>
constexpr Attend SINGLES[] = {attend_single<HALF, 1>, attend_single<HALF, 2>,
                               attend_single<HALF, 3>, attend_single<HALF, 4>,
                               attend_single<HALF, 5>, attend_single<HALF, 6>,
                               attend_single<HALF, 7>, attend_single<HALF, 8>};

// Parts of a row's keys, attended apart, become one: [parts][(dim + 2) · width] -> the first.
void merge(float* parts, i64 count, i64 dim, i64 width, float scale) {
    const i64 size = (dim + 2) * width;
    for (i64 lane = 0; lane < width; lane++) {
        float* first = parts + lane;
        float *most = first + dim * width, *weight = most + width;
        for (i64 p = 1; p < count; p++) {
            const float* other = first + p * size;
            const float m = other[dim * width], top = std::max(*most, m);
            const float mine = std::exp2((*most - top) * scale), its = std::exp2((m - top) * scale);
            for (i64 d = 0; d < dim; d++)
                first[d * width] = first[d * width] * mine + other[d * width] * its;
            *weight = *weight * mine + other[(dim + 1) * width] * its;
            *most = top;
        }
    }
}

std::vector<Tile> cut(const Call& call) {
    const i64 group = call.heads / call.kv_heads;
    std::vector<Tile> tiles;
    for (i64 s = 0; s < call.segments; s++) {
        const i64 end = call.segment_rows[s + 1] * group;
        for (i64 first = call.segment_rows[s] * group; first < end; first += TILE) {
            const i64 lanes = std::min<i64>(TILE, end - first);
            tiles.push_back({s, first, lanes, call.positions[first / group] + 1,
                             call.positions[(first + lanes - 1) / group] + 1});
        }
    }
    return tiles;
}

// Values as pairs of keys, or keys and values widened to float32: what `attend` cannot read as is.
struct Prepared {
    std::vector<i64> keys, first;  // of each segment: how many are seen, and where they begin
    i64 rows = 0;                  // of a head's prepared values
    char *key = nullptr, *value = nullptr;
};

void widen_rows(const char* from, i64 stride, i64 count, i64 dim, char* to) {
    for (i64 k = 0; k < count; k++)
        for (i64 d = 0; d < dim; d++)
            ((float*)to)[k * dim + d] = widen(((const uint16_t*)(from + k * stride))[d]);
}

void pair_rows(const char* from, i64 stride, i64 count, i64 dim, char* to) {
    for (i64 k = 0; k < count; k += 2) {
        const uint16_t* low = (const uint16_t*)(from + k * stride);
        const uint16_t* high = (const uint16_t*)(from + (k + 1) * stride);
        uint32_t* pair = (uint32_t*)to + k / 2 * dim;
        if (k + 1 < count)
            for (i64 d = 0; d < dim; d++) pair[d] = low[d] | uint32_t(high[d]) << 16;
        else
            for (i64 d = 0; d < dim; d++) pair[d] = low[d];
    }
}

template <class A>
void run(const Call& call, int threads) {
    static thread_local Scratch prepared_memory, part_memory;
    const std::vector<Tile> tiles = cut(call);
    const bool all_single = std::all_of(tiles.begin(), tiles.end(),
                                        [&](const Tile& t) { return is_single(call, t); });
    const i64 dim = call.dim, copied = call.half && !all_single ? 512 : 0;
    // Keys of each segment that any row sees, and where its prepared rows begin.
    std::vector<i64> seen(call.segments), start(call.segments + 1, 0);
    for (i64 s = 0; s < call.segments; s++) {
        const i64 end = call.segment_rows[s + 1];
        seen[s] = end > call.segment_rows[s] ? call.positions[end - 1] + 1 : 0;
        start[s + 1] = start[s] + (seen[s] + A::DEPTH - 1) / A::DEPTH;
    }
    const i64 total = start[call.segments] * dim * 4;  // bytes of a head's prepared rows
    char *values = nullptr, *keys = nullptr;
    if (copied) {
        const i64 kinds = A::DEPTH == 1 ? 2 : 1;
        values = (char*)prepared_memory.take(kinds * call.kv_heads * total / 4);
        keys = values + (kinds - 1) * call.kv_heads * total;
    }
    auto raw = [&](bool is_value, i64 head, i64 s) -> Operand {
        const i64 row = is_value ? call.value_row : call.key_row;
        const i64 by = is_value ? call.value_head : call.key_head;
        return {(is_value ? call.value : call.key) + head * by + call.segment_keys[s] * row, row};
    };
    auto operand = [&](bool is_value, i64 head, i64 s) -> Operand {
        if (copied && (is_value || A::DEPTH == 1))
            return {(is_value ? values : keys) + head * total + start[s] * dim * 4, dim * 4};
        return raw(is_value, head, s);
    };
    // Few tiles would leave threads idle: their keys are cut, by the same rule on any number.
    const i64 pairs = i64(tiles.size()) * call.kv_heads;
    std::vector<i64> first_part(tiles.size() + 1, 0);
    for (size_t t = 0; t < tiles.size(); t++) {
        const i64 parts = pairs < FEW_TASKS ? (tiles[t].visible + PART - 1) / PART : 1;
        first_part[t + 1] = first_part[t] + parts;
    }
    const i64 tasks = first_part.back() * call.kv_heads, part_size = (dim + 2) * TILE;
    float* parts = pairs < FEW_TASKS ? part_memory.take(tasks * part_size) : nullptr;
    i64 pieces = 0;
    if (copied)
        for (i64 s = 0; s < call.segments; s++) pieces += (seen[s] + copied - 1) / copied;
    std::atomic<i64> next_piece{0}, next_task{0}, next_merge{0};

#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch, own;
        for (i64 i; (i = next_piece++) < pieces * call.kv_heads;) {
            i64 head = i / pieces, piece = i % pieces, s = 0;
            for (; piece >= (seen[s] + copied - 1) / copied; s++)
                piece -= (seen[s] + copied - 1) / copied;
            const i64 k = piece * copied, count = std::min(copied, seen[s] - k);
            const i64 at = head * total + (start[s] + k / A::DEPTH) * dim * 4;
            const char* value = call.value + head * call.value_head;
            const char* key = call.key + head * call.key_head;
            value += (call.segment_keys[s] + k) * call.value_row;
            key += (call.segment_keys[s] + k) * call.key_row;
            if (A::DEPTH == 2) {
                pair_rows(value, call.value_row, count, dim, values + at);
            } else {
                widen_rows(value, call.value_row, count, dim, values + at);
                widen_rows(key, call.key_row, count, dim, keys + at);
            }
        }
#pragma omp barrier
        // The last tiles see most keys: they come first, so that no thread ends long after others.
        for (i64 i; (i = next_task++) < tasks;) {
            const i64 head = i % call.kv_heads, part = first_part.back() - 1 - i / call.kv_heads;
            const i64 t = std::upper_bound(first_part.begin(), first_part.end(), part) -
                          first_part.begin() - 1;
            const Tile& tile = tiles[t];
            const Operand key = operand(false, head, tile.segment);
            const Operand value = operand(true, head, tile.segment);
            const i64 vectors = (tile.lanes + LANES - 1) / LANES, width = vectors * LANES;
            const i64 begin = parts ? (part - first_part[t]) * PART : 0;
            const i64 end = parts ? std::min(begin + PART, tile.visible) : tile.visible;
            float* sums = parts ? parts + (head * first_part.back() + part) * part_size
                                : own.take(part_size);
            float *mosts = sums + dim * width, *weights = mosts + width;
            if (is_single(call, tile)) {
                auto attend = (call.half ? SINGLES<true> : SINGLES<false>)[tile.lanes - 1];
                attend(call, tile, head, raw(false, head, tile.segment),
                       raw(true, head, tile.segment), begin, end, scratch, sums);
                if (!parts) scatter(call, tile, head, sums, width);
                continue;
            }
            auto attend = vectors == 1 ? attend_tile<A, 1>
                          : vectors == 2 ? attend_tile<A, 2>
                                         : attend_tile<A, 3>;
            attend(call, tile, head, key, value, begin, end, scratch, sums, mosts, weights);
            if (!parts) scatter(call, tile, head, sums, width);
        }
#pragma omp barrier
        if (parts)
            for (i64 i; (i = next_merge++) < pairs;) {
                const i64 head = i % call.kv_heads, t = i / call.kv_heads;
                const i64 count = first_part[t + 1] - first_part[t];
                const i64 width = (tiles[t].lanes + LANES - 1) / LANES * LANES;
                float* sums = parts + (head * first_part.back() + first_part[t]) * part_size;
                // Parts lie part_size apart; a narrow tile fills only the beginning of each.
                for (i64 p = 1; p < count; p++)
                    std::memmove(sums + p * (dim + 2) * width, sums + p * part_size,
                                 (dim + 2) * width * sizeof(float));
                merge(sums, count, dim, width, call.scale * LOG2_E);
                scatter(call, tiles[t], head, sums, width);
            }
    }
}

}  // namespace

extern "C" {

void kvfuse_attend(const Call* call, int threads) {
    if (call->half && DOTS)
        run<Double>(*call, threads);
    else
        run<Single>(*call, threads);
}
}
