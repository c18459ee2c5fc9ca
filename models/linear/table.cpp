// Few rows times a table that lies row by row, as an embedding table does: out = hidden · tableᵀ.
//
// Memory is the limit: the table is read once, straight through, for eight rows of `hidden` at a
// time. Every product is one sum along the lanes, in the order of the dimensions, whatever rows are
// beside it.

#include "../attention/lanes.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace {

constexpr i64 PIECE = 96;  // words that a thread takes at once
constexpr int ROWS = 8, WORDS_AT_ONCE = LANES == 16 ? 3 : 1;

struct Product {  // models/linear/table.py fills it: `_Product`
    const char *table, *hidden;  // [words][dim], [rows][dim]
    char* out;                   // [rows][words]
    i64 words, dim, rows;
    bool half;  // bfloat16, else float32
};

// Bytes of a number and of what a lane takes at once; how a register is read and multiplied.
struct Whole {
    static constexpr i64 LANE = 4, SIZE = 4;
    static inline Floats read(const char* p) { return load((const float*)p); }
    static inline Floats dot(Floats sum, Floats a, Floats b) { return mul_add(a, b, sum); }
    static inline float number(const char* p) { return *(const float*)p; }
};
struct Half {
    static constexpr i64 LANE = 2 * Double::DEPTH, SIZE = 2;
    static inline Floats read(const char* p) {
        return Double::DEPTH == 2 ? load((const float*)p) : load_half(p);
    }
    static inline Floats dot(Floats sum, Floats a, Floats b) { return Double::dot(sum, a, b); }
    static inline float number(const char* p) { return widen(*(const uint16_t*)p); }
};

template <class A, int R, int W>
inline void multiply(const char* table, const char* hidden, i64 bytes, float (&out)[W][ROWS]) {
    constexpr i64 step = A::LANE * LANES;
    Floats sums[W][ROWS] = {};
    i64 at = 0;
    for (; at + step <= bytes; at += step) {
        Floats word[W];
#pragma GCC unroll 4
        for (int w = 0; w < W; w++) {
            word[w] = A::read(table + w * bytes + at);
            __builtin_prefetch(table + (w + W) * bytes + at);  // the words that come next
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Floats row = A::read(hidden + r * bytes + at);
#pragma GCC unroll 4
            for (int w = 0; w < W; w++) sums[w][r] = A::dot(sums[w][r], row, word[w]);
        }
    }
    for (int w = 0; w < W; w++) {
        totals(sums[w], out[w]);
        for (; at < bytes; at += A::SIZE)
            for (int r = 0; r < R; r++)
                out[w][r] += A::number(hidden + r * bytes + at) * A::number(table + w * bytes + at);
        at = bytes / step * step;
    }
}

template <class A, int R, int W>
void product(const Product& call, i64 word, i64 row) {
    const i64 bytes = call.dim * A::SIZE;
    float found[W][ROWS];
    multiply<A, R, W>(call.table + word * bytes, call.hidden + row * bytes, bytes, found);
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) {
            const i64 to = (row + r) * call.words + word + w;
            if (call.half)
                ((uint16_t*)call.out)[to] = narrow(found[w][r]);
            else
                ((float*)call.out)[to] = found[w][r];
        }
}

// Rows in the outer loop: a piece of the table stays in the processor's cache for all of them.
template <class A, int R>
void piece_of(const Product& call, i64 word, i64 end, i64 row) {
    for (; word + WORDS_AT_ONCE <= end; word += WORDS_AT_ONCE)
        product<A, R, WORDS_AT_ONCE>(call, word, row);
    for (; word < end; word++) product<A, R, 1>(call, word, row);
}

template <class A>
void run(const Product& call, int threads) {
    using Part = void (*)(const Product&, i64, i64, i64);
    constexpr Part parts[ROWS] = {piece_of<A, 1>, piece_of<A, 2>, piece_of<A, 3>, piece_of<A, 4>,
                                  piece_of<A, 5>, piece_of<A, 6>, piece_of<A, 7>, piece_of<A, 8>};
    const i64 pieces = (call.words + PIECE - 1) / PIECE;
    std::atomic<i64> next{0};
#pragma omp parallel num_threads(threads)
    for (i64 piece; (piece = next++) < pieces;) {
        const i64 word = piece * PIECE, end = std::min(word + PIECE, call.words);
        for (i64 row = 0; row < call.rows; row += ROWS)
            parts[std::min<i64>(ROWS, call.rows - row) - 1](call, word, end, row);
    }
}

}  // namespace

extern "C" void kvfuse_product(const Product* call, int threads) {
    if (call->half)
        run<Half>(*call, threads);
    else
        run<Whole>(*call, threads);
}
