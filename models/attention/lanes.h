// What AVX-512 and AVX2 have in common: float32 along the lanes of a register, and 2^x.

#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace {

using i64 = int64_t;

// `largest(a, b)` gives b where either is NaN, `where(m, a, b)` gives a where m holds.
// VECTORS · WORDS sums, VECTORS rows and a word fill the registers (see `multiply`).
#if defined(__AVX512F__) && defined(__AVX512DQ__)

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
inline float total(Floats x) { return _mm512_reduce_add_ps(x); }
inline Floats nearest(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
inline Floats load_half(const void* p) {
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
inline float total(Floats x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline Floats nearest(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power(Floats x, Floats n) {  // n in [-126, 0], or x is NaN
    __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), bits));
}
inline Floats load_half(const void* p) {
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

#else
#error "AVX-512 or AVX2 with FMA is needed"
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline __m256 folded(Floats x) {
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}
#else
inline __m256 folded(Floats x) { return x; }
#endif

// The sums over the lanes of eight registers.
inline void totals(const Floats (&x)[8], float* out) {
    __m256 four[2];
    for (int i = 0; i < 2; i++) {
        const __m256 a = _mm256_hadd_ps(folded(x[4 * i]), folded(x[4 * i + 1]));
        const __m256 b = _mm256_hadd_ps(folded(x[4 * i + 2]), folded(x[4 * i + 3]));
        four[i] = _mm256_hadd_ps(a, b);
    }
    const __m256 low = _mm256_permute2f128_ps(four[0], four[1], 0x20);
    const __m256 high = _mm256_permute2f128_ps(four[0], four[1], 0x31);
    _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}

constexpr float SMALLEST = -126;  // a power of two that no sum of weights notices

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

inline float widen(uint16_t x) {  // bfloat16
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

inline Floats paired(Floats low, Floats high) {
    const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
    const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
    return _mm512_castsi512_ps(_mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
}
#else
using Double = Single;  // bfloat16 is widened before anything is computed from it
inline Floats paired(Floats low, Floats) { return low; }
#endif

}  // namespace
