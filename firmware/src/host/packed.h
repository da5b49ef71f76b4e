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
#define BITSHIP_ROLLED _Pragma("GCC unroll 1") /* so that the vectoriser still finds a loop */
#else
#define BITSHIP_UNROLL
#define BITSHIP_ROLLED
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
    int32_t reserved[10];
};
enum { FINISH = 0, DOUBLE_INT8 = 1, SINGLE_INT8 = 2 }; /* FINISH: bitship_finish, any dtype and shift */

enum { BIAS, MULTIPLIER, LEFT, RIGHT, TABLES };

BITSHIP_INLINE const int32_t *packed_table(const struct packed *h, int32_t table) {
    return (const int32_t *)(h + 1) + (ptrdiff_t)table * h->channels;
}
BITSHIP_INLINE const int8_t *packed_weights(const struct packed *h) {
    return (const int8_t *)packed_table(h, TABLES);
}

/* Finish `count` pixels of one panel: lanes[i * step ...] holds all 16 sums of pixel i, of which n <= 16 from
 * channel `first` on go to out + i * out_step bytes. */
BITSHIP_INLINE void finish_panel(const struct bitship_window *p, const struct packed *h, int32_t first,
                                 int32_t n, int32_t count, int32_t *lanes, int32_t step, void *out,
                                 ptrdiff_t out_step) {
    const int32_t *m = packed_table(h, MULTIPLIER) + first, *left = packed_table(h, LEFT) + first,
                  *right = packed_table(h, RIGHT) + first;
    const int32_t lo = h->lowest, hi = h->highest, epilogue = h->epilogue;
    const int32_t zero_point = epilogue == FINISH ? 0 : p->requant->output_zero_point;
    for (int8_t *to = (int8_t *)out; count > 0; count--, lanes += step, to += out_step) {
        int32_t y[PANEL];
        int8_t done[PANEL];
        if (epilogue == FINISH) {
            bitship_finish(p->requant, first, n, lanes, to);
            continue;
        }
        if (epilogue == DOUBLE_INT8) {
            BITSHIP_ROLLED for (int32_t i = 0; i < PANEL; i++) {
                const int32_t v = (int32_t)((uint32_t)lanes[i] << left[i]);
                y[i] = bitship_place(bitship_twice(v, m[i], right[i]), lo, hi, zero_point);
            }
        } else {
            BITSHIP_ROLLED for (int32_t i = 0; i < PANEL; i++) {
                y[i] = bitship_place(bitship_single(lanes[i], m[i], right[i]), lo, hi, zero_point);
            }
        }
        BITSHIP_ROLLED for (int32_t i = 0; i < PANEL; i++) { done[i] = (int8_t)y[i]; }
        if (n == PANEL) {
            memcpy(to, done, PANEL);
        } else {
            memcpy(to, done, (size_t)n);
        }
    }
}

#if BITSHIP_X86

/* The even and the odd 64-bit products' 32-bit results, side by side; an odd one has its result on top. */
BITSHIP_INLINE BITSHIP_VNNI __m512i join(__m512i even, __m512i odd) {
    return _mm512_mask_blend_epi32(0xAAAA, even, odd);
}

/* bitship_twice and bitship_single on 16 lanes. */
BITSHIP_INLINE BITSHIP_VNNI __m512i twice_512(__m512i v, __m512i m, __m512i right) {
    const __m512i half = _mm512_set1_epi64((int64_t)1 << 30), one = _mm512_set1_epi32(1);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(v, m), half);
    const __m512i odd =
        _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(m, 32)), half);
    const __m512i high = join(_mm512_srli_epi64(even, 31), _mm512_slli_epi64(odd, 1));
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
    return join(_mm512_srav_epi64(even, down_even), _mm512_slli_epi64(_mm512_srav_epi64(odd, down_odd), 32));
}

/* finish_panel with registers of 16 lanes: compilers settle for four. */
BITSHIP_INLINE BITSHIP_VNNI void finish_panel_512(const struct bitship_window *p, const struct packed *h,
                                                  int32_t first, int32_t n, int32_t count, int32_t *lanes,
                                                  int32_t step, void *out, ptrdiff_t out_step) {
    if (h->epilogue == FINISH) {
        finish_panel(p, h, first, n, count, lanes, step, out, out_step);
        return;
    }
    const int doubled = h->epilogue == DOUBLE_INT8;
    const __m512i m = _mm512_loadu_si512(packed_table(h, MULTIPLIER) + first),
                  left = _mm512_loadu_si512(packed_table(h, LEFT) + first),
                  right = _mm512_loadu_si512(packed_table(h, RIGHT) + first);
    const __m512i lo = _mm512_set1_epi32(h->lowest), hi = _mm512_set1_epi32(h->highest),
                  zero_point = _mm512_set1_epi32(p->requant->output_zero_point);
    const __mmask16 some = (__mmask16)(0xFFFFu >> (PANEL - n));
    for (int8_t *to = (int8_t *)out; count > 0; count--, lanes += step, to += out_step) {
        __m512i y = _mm512_loadu_si512(lanes);
        y = doubled ? twice_512(_mm512_sllv_epi32(y, left), m, right) : single_512(y, m, right);
        y = _mm512_add_epi32(_mm512_min_epi32(_mm512_max_epi32(y, lo), hi), zero_point);
        if (n == PANEL) {
            _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(y));
        } else {
            _mm_mask_storeu_epi8(to, some, _mm512_cvtepi32_epi8(y));
        }
    }
}

#endif

/* Whether this layer may take its sums as uint8 quads: x + 128 times weights without a zero point. */
static inline int32_t packed_quads(int32_t level, const struct bitship_window *p) {
    return level >= 2 && p->x_dtype == BITSHIP_INT8 && p->weight_zero_point == 0 &&
           p->input_zero_point >= -128 && p->input_zero_point <= 127;
}

/* Fill the head and every table but the bias's. */
void bitship_host_tables(const struct bitship_window *p, struct packed *h);

#endif
