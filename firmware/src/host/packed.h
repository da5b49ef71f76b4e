/* Convolutions of an x86-64 host with packed weights: what conv2d.c and depthwise_conv2d.c here share.
 *
 * The kernels in firmware/src are plain C for every processor. These two add, for the host's library alone,
 * instructions that a compiler does not find: dot products of int8 quads (AVX512-VNNI) and int16 pairs
 * (AVX2). Weights are packed once per graph, 16 channels side by side, so that every lane is an output
 * channel and no sum is ever added across lanes. The same bits: both forms are exact modulo 2^32, and
 * `verify` has proven that the total fits.
 */
#ifndef BITSHIP_HOST_PACKED_H
#define BITSHIP_HOST_PACKED_H

#include "../fixed.h"
#include "../window.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(BITSHIP_NO_HOST)
#define BITSHIP_X86 1
#include <immintrin.h>
#define BITSHIP_INLINE static inline __attribute__((always_inline))
#define BITSHIP_AVX2 __attribute__((target("avx2")))
#define BITSHIP_VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#else
#define BITSHIP_X86 0
#define BITSHIP_INLINE static inline
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define BITSHIP_UNROLL _Pragma("GCC unroll 16")
#else
#define BITSHIP_UNROLL
#endif

#define PANEL 16 /* output channels side by side */
#define ALIGN 64

/* In front of packed weights. Tables have one entry per channel, in whole chunks. */
struct packed {
    int32_t quads;    /* 1: uint8 * int8, four at a time; 0: int16 pairs */
    int32_t step;     /* conv2d: elements of one gathered patch; depthwise: taps, in whole pairs or quads */
    int32_t channels; /* entries of a table */
    int32_t epilogue; /* how to finish: see below */
    int32_t lowest;   /* clamp before the zero point is added */
    int32_t highest;
    int32_t item; /* bytes of an element, 1 or 2, where the epilogue is not FINISH */
    int32_t reserved[9];
};
enum { FINISH = 0, DOUBLE = 1, SINGLE = 2 }; /* to int8 or int16; FINISH: bitship_finish, anything */

enum { BIAS, MULTIPLIER, LEFT, RIGHT, TABLES };

BITSHIP_INLINE const int32_t *packed_table(const struct packed *h, int32_t table) {
    return (const int32_t *)(h + 1) + (ptrdiff_t)table * h->channels;
}
BITSHIP_INLINE const int8_t *packed_weights(const struct packed *h) {
    return (const int8_t *)packed_table(h, TABLES);
}

/* Finish `count` pixels of one panel: lanes[i * step ...] holds all 16 sums of pixel i, of which n <= 16 from
 * channel `first` on go to out + i * out_step bytes. Any epilogue. */
static inline void finish_any(const struct bitship_rescale *r, int32_t first, int32_t n, int32_t count,
                              int32_t *lanes, int32_t step, void *out, ptrdiff_t out_step) {
    for (int8_t *to = (int8_t *)out; count > 0; count--, lanes += step, to += out_step) {
        bitship_finish(r, first, n, lanes, to);
    }
}

#if BITSHIP_X86

/* bitship_twice and bitship_single on 16 lanes, and on 8 below. Products of even and odd lanes are taken
 * apart; an odd one's result is shifted to the upper half of its 64 bits, where the blend wants it. */
BITSHIP_INLINE BITSHIP_VNNI __m512i twice_512(__m512i v, __m512i m, __m512i right) {
    const __m512i half = _mm512_set1_epi64((int64_t)1 << 30), one = _mm512_set1_epi32(1);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(v, m), half);
    const __m512i odd =
        _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(m, 32)), half);
    const __m512i high =
        _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 31), _mm512_slli_epi64(odd, 1));
    const __m512i mask = _mm512_sub_epi32(_mm512_sllv_epi32(one, right), one);
    const __m512i limit = _mm512_sub_epi32(_mm512_srli_epi32(mask, 1), _mm512_srai_epi32(high, 31));
    const __mmask16 up = _mm512_cmpgt_epi32_mask(_mm512_and_si512(high, mask), limit);
    const __m512i y = _mm512_srav_epi32(high, right);
    return _mm512_mask_add_epi32(y, up, y, one);
}

BITSHIP_INLINE BITSHIP_VNNI __m512i single_512(__m512i v, __m512i m, __m512i down) {
    const __m512i one = _mm512_set1_epi64(1), last = _mm512_set1_epi64(-1);
    const __m512i down_even = _mm512_and_si512(down, _mm512_set1_epi64(UINT32_MAX)),
                  down_odd = _mm512_srli_epi64(down, 32);
    const __m512i even =
        _mm512_add_epi64(_mm512_mul_epi32(v, m), _mm512_sllv_epi64(one, _mm512_add_epi64(down_even, last)));
    const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(m, 32)),
                                         _mm512_sllv_epi64(one, _mm512_add_epi64(down_odd, last)));
    return _mm512_mask_blend_epi32(0xAAAA, _mm512_srav_epi64(even, down_even),
                                   _mm512_slli_epi64(_mm512_srav_epi64(odd, down_odd), 32));
}

/* The lanes of `some` as int8 or int16; all lanes are in range. */
BITSHIP_INLINE BITSHIP_VNNI void store_512(__m512i y, int32_t item, __mmask16 some, void *to) {
    if (item == 1) {
        _mm_mask_storeu_epi8(to, some, _mm512_cvtepi32_epi8(y));
    } else {
        _mm256_mask_storeu_epi16(to, some, _mm512_cvtepi32_epi16(y));
    }
}

/* finish_any for the epilogues to int8 and int16, without leaving the registers. */
BITSHIP_INLINE BITSHIP_VNNI void finish_panel_512(const struct bitship_rescale *r, const struct packed *h,
                                                  int32_t first, int32_t n, int32_t count, int32_t *lanes,
                                                  int32_t step, void *out, ptrdiff_t out_step) {
    if (h->epilogue == FINISH) {
        finish_any(r, first, n, count, lanes, step, out, out_step);
        return;
    }
    const int doubled = h->epilogue == DOUBLE;
    const __m512i m = _mm512_loadu_si512(packed_table(h, MULTIPLIER) + first),
                  left = _mm512_loadu_si512(packed_table(h, LEFT) + first),
                  right = _mm512_loadu_si512(packed_table(h, RIGHT) + first);
    const __m512i lo = _mm512_set1_epi32(h->lowest), hi = _mm512_set1_epi32(h->highest),
                  zero_point = _mm512_set1_epi32(r->output_zero_point);
    const __mmask16 some = (__mmask16)(0xFFFFu >> (PANEL - n));
    for (int8_t *to = (int8_t *)out; count > 0; count--, lanes += step, to += out_step) {
        __m512i y = _mm512_loadu_si512(lanes);
        y = doubled ? twice_512(_mm512_sllv_epi32(y, left), m, right) : single_512(y, m, right);
        store_512(_mm512_add_epi32(_mm512_min_epi32(_mm512_max_epi32(y, lo), hi), zero_point), h->item, some,
                  to);
    }
}

BITSHIP_INLINE BITSHIP_AVX2 __m256i twice_256(__m256i v, __m256i m, __m256i right) {
    const __m256i half = _mm256_set1_epi64x((int64_t)1 << 30), one = _mm256_set1_epi32(1);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(v, m), half);
    const __m256i odd =
        _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(v, 32), _mm256_srli_epi64(m, 32)), half);
    const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 31), _mm256_slli_epi64(odd, 1), 0xAA);
    const __m256i mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, right), one);
    const __m256i limit = _mm256_sub_epi32(_mm256_srli_epi32(mask, 1), _mm256_srai_epi32(high, 31));
    const __m256i up = _mm256_cmpgt_epi32(_mm256_and_si256(high, mask), limit);
    return _mm256_sub_epi32(_mm256_srav_epi32(high, right), up);
}

/* There is no arithmetic shift of 64 bits: the bias 2^62, as in bitship_single. */
BITSHIP_INLINE BITSHIP_AVX2 __m256i single_256(__m256i v, __m256i m, __m256i down) {
    const __m256i one = _mm256_set1_epi64x(1), bias = _mm256_set1_epi64x((int64_t)1 << 62);
    __m256i y[2] = {_mm256_mul_epi32(v, m),
                    _mm256_mul_epi32(_mm256_srli_epi64(v, 32), _mm256_srli_epi64(m, 32))};
    const __m256i by[2] = {_mm256_and_si256(down, _mm256_set1_epi64x(UINT32_MAX)),
                           _mm256_srli_epi64(down, 32)};
    BITSHIP_UNROLL for (int32_t i = 0; i < 2; i++) {
        const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(by[i], one));
        const __m256i sum = _mm256_add_epi64(y[i], _mm256_add_epi64(bias, half));
        y[i] = _mm256_sub_epi64(_mm256_srlv_epi64(sum, by[i]), _mm256_srlv_epi64(bias, by[i]));
    }
    return _mm256_blend_epi32(y[0], _mm256_slli_epi64(y[1], 32), 0xAA);
}

/* The first n of 16 lanes as int8 or int16; all lanes are in range. */
BITSHIP_INLINE BITSHIP_AVX2 void store_256(__m256i low, __m256i high, int32_t item, int32_t n, void *to) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (n == PANEL && item == 1) {
        _mm_storeu_si128((__m128i *)to, bytes);
    } else if (n == PANEL) {
        _mm256_storeu_si256((__m256i *)to, words);
    } else {
        int16_t done[PANEL];
        if (item == 1) {
            _mm_storeu_si128((__m128i *)done, bytes);
        } else {
            _mm256_storeu_si256((__m256i *)done, words);
        }
        memcpy(to, done, (size_t)(n * item));
    }
}

BITSHIP_INLINE BITSHIP_AVX2 void finish_panel_256(const struct bitship_rescale *r, const struct packed *h,
                                                  int32_t first, int32_t n, int32_t count, int32_t *lanes,
                                                  int32_t step, void *out, ptrdiff_t out_step) {
    if (h->epilogue == FINISH) {
        finish_any(r, first, n, count, lanes, step, out, out_step);
        return;
    }
    const int doubled = h->epilogue == DOUBLE;
    const __m256i lo = _mm256_set1_epi32(h->lowest), hi = _mm256_set1_epi32(h->highest),
                  zero_point = _mm256_set1_epi32(r->output_zero_point);
    __m256i m[2], left[2], right[2];
    BITSHIP_UNROLL for (int32_t i = 0; i < 2; i++) {
        m[i] = _mm256_loadu_si256((const __m256i *)(packed_table(h, MULTIPLIER) + first + 8 * i));
        left[i] = _mm256_loadu_si256((const __m256i *)(packed_table(h, LEFT) + first + 8 * i));
        right[i] = _mm256_loadu_si256((const __m256i *)(packed_table(h, RIGHT) + first + 8 * i));
    }
    for (int8_t *to = (int8_t *)out; count > 0; count--, lanes += step, to += out_step) {
        __m256i y[2];
        BITSHIP_UNROLL for (int32_t i = 0; i < 2; i++) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(lanes + 8 * i));
            y[i] = doubled ? twice_256(_mm256_sllv_epi32(v, left[i]), m[i], right[i])
                           : single_256(v, m[i], right[i]);
            y[i] = _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(y[i], lo), hi), zero_point);
        }
        store_256(y[0], y[1], h->item, n, to);
    }
}

#endif

/* Whether this layer may take its sums as uint8 quads: x + 128 times weights without a zero point. */
static inline int32_t packed_quads(int32_t level, const struct bitship_window *p) {
    return level >= 2 && p->x_dtype == BITSHIP_INT8 && p->weight_zero_point == 0 &&
           p->input_zero_point >= -128 && p->input_zero_point <= 127;
}

/* Fill the head and every table but the bias's for `channels` columns. most_left: the largest shift that a
 * SINGLE epilogue may have. */
void bitship_host_tables(const struct bitship_rescale *r, int32_t channels, int32_t most_left,
                         struct packed *h);

#endif
