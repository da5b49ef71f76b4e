/* Dot products of a few rows with panels of 16 columns, one column per lane. */
#ifndef BITSHIP_HOST_DOT_H
#define BITSHIP_HOST_DOT_H

#include "packed.h"

#define TILE 8 /* rows (pixels) whose sums stay in registers */

#if BITSHIP_X86

/* acc[pixel * 32 + lane] of `pixels` patches by one or two panels; both counts are constants. */
BITSHIP_INLINE BITSHIP_VNNI void dot_quads(const uint8_t *x, int32_t step, const int8_t *w,
                                           const int32_t *bias, int32_t pixels, int32_t panels,
                                           int32_t *acc) {
    __m512i s[TILE][2];
    BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
        BITSHIP_UNROLL for (int32_t j = 0; j < panels; j++) {
            s[i][j] = _mm512_loadu_si512(bias + j * PANEL);
        }
    }
    for (int32_t k = 0; k < step; k += 4, x += 4, w += 4 * PANEL) {
        __m512i v[2];
        BITSHIP_UNROLL for (int32_t j = 0; j < panels; j++) {
            v[j] = _mm512_loadu_si512(w + (ptrdiff_t)j * PANEL * step);
        }
        BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
            int32_t four;
            memcpy(&four, x + (ptrdiff_t)i * step, 4);
            const __m512i u = _mm512_set1_epi32(four);
            BITSHIP_UNROLL for (int32_t j = 0; j < panels; j++) {
                s[i][j] = _mm512_dpbusd_epi32(s[i][j], u, v[j]);
            }
        }
    }
    BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
        BITSHIP_UNROLL for (int32_t j = 0; j < panels; j++) {
            _mm512_storeu_si512(acc + (i * 2 + j) * PANEL, s[i][j]);
        }
    }
}

/* The same from int16 pairs by one panel. */
BITSHIP_INLINE BITSHIP_AVX2 void dot_pairs(const int16_t *x, int32_t step, const int16_t *w,
                                           const int32_t *bias, int32_t pixels, int32_t *acc) {
    __m256i s[4], t[4];
    BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
        s[i] = _mm256_loadu_si256((const __m256i *)bias);
        t[i] = _mm256_loadu_si256((const __m256i *)(bias + 8));
    }
    for (int32_t k = 0; k < step; k += 2, x += 2, w += 2 * PANEL) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)w),
                      u = _mm256_loadu_si256((const __m256i *)(w + 16));
        BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
            int32_t two;
            memcpy(&two, x + (ptrdiff_t)i * step, 4);
            const __m256i b = _mm256_set1_epi32(two);
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(b, v));
            t[i] = _mm256_add_epi32(t[i], _mm256_madd_epi16(b, u));
        }
    }
    BITSHIP_UNROLL for (int32_t i = 0; i < pixels; i++) {
        _mm256_storeu_si256((__m256i *)(acc + i * PANEL), s[i]);
        _mm256_storeu_si256((__m256i *)(acc + i * PANEL + 8), t[i]);
    }
}

#endif

#endif
