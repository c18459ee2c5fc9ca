// Rotary position embedding of cached keys, in place, in one pass over them.
//
// Products and their sum are rounded one by one, as the library's operations round them: a key that
// was cached comes out as a fresh one, to the last bit.

#include "../attention/lanes.h"

#include <algorithm>

namespace {

constexpr i64 PIECE = 128;  // rows that a thread takes at once

struct Rotation {  // models/kv/rotary.py fills it: `_Rotation`
    char* keys;              // [heads][rows][dim]
    i64 head;                // bytes from a head to the next; its rows follow each other
    const char *cos, *sin;   // [rows][dim]
    i64 heads, rows, dim;
    bool half;  // bfloat16, else float32
};

struct Whole {
    using Number = float;
    static inline float read(float x) { return x; }
    static inline float write(float x) { return x; }
};
struct Half {
    using Number = uint16_t;
    static inline float read(uint16_t x) { return widen(x); }
    static inline uint16_t write(float x) { return narrow(x); }
};

template <class T>
inline float rounded(float x) {
    return T::read(T::write(x));
}

template <class T>
void turn(typename T::Number* __restrict row, const typename T::Number* __restrict cos,
          const typename T::Number* __restrict sin, i64 half) {
    typename T::Number *low = row, *high = row + half;
#pragma GCC ivdep
    for (i64 j = 0; j < half; j++) {
        const float a = T::read(low[j]), b = T::read(high[j]);
        low[j] = T::write(rounded<T>(a * T::read(cos[j])) + rounded<T>(-b * T::read(sin[j])));
        high[j] = T::write(rounded<T>(b * T::read(cos[half + j])) +
                           rounded<T>(a * T::read(sin[half + j])));
    }
}

template <class T>
void run(const Rotation& call, int threads) {
    using Number = typename T::Number;
    const i64 pieces = (call.rows + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads)
    for (i64 task = 0; task < call.heads * pieces; task++) {
        const i64 first = task % pieces * PIECE, end = std::min(first + PIECE, call.rows);
        Number* keys = (Number*)(call.keys + task / pieces * call.head);
        for (i64 row = first; row < end; row++)
            turn<T>(keys + row * call.dim, (const Number*)call.cos + row * call.dim,
                    (const Number*)call.sin + row * call.dim, call.dim / 2);
    }
}

}  // namespace

extern "C" void kvfuse_rotate(const Rotation* call, int threads) {
    if (call->half)
        run<Half>(*call, threads);
    else
        run<Whole>(*call, threads);
}
