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

/* out[i] = one finished lane, n <= 16 lanes of which the first is channel `first`; lanes has all 16. */
BITSHIP_INLINE void finish_panel(const struct bitship_window *p, const struct packed *h, int32_t first,
                                 int32_t n, int32_t *lanes, void *out) {
    const int32_t *m = packed_table(h, MULTIPLIER) + first, *left = packed_table(h, LEFT) + first,
                  *right = packed_table(h, RIGHT) + first;
    const int32_t lo = h->lowest, hi = h->highest;
    int8_t done[PANEL];
    if (h->epilogue == FINISH) {
        bitship_finish(p->requant, first, n, lanes, out);
        return;
    }
    const int32_t zero_point = p->requant->output_zero_point;
    if (h->epilogue == DOUBLE_INT8) {
        for (int32_t i = 0; i < PANEL; i++) {
            const int32_t v = (int32_t)((uint32_t)lanes[i] << left[i]);
            done[i] = (int8_t)bitship_place(bitship_twice(v, m[i], right[i]), lo, hi, zero_point);
        }
    } else {
        for (int32_t i = 0; i < PANEL; i++) {
            done[i] = (int8_t)bitship_place(bitship_single(lanes[i], m[i], right[i]), lo, hi, zero_point);
        }
    }
    if (n == PANEL) {
        memcpy(out, done, PANEL);
    } else {
        memcpy(out, done, (size_t)n);
    }
}

/* Whether this layer may take its sums as uint8 quads: x + 128 times weights without a zero point. */
static inline int32_t packed_quads(int32_t level, const struct bitship_window *p) {
    return level >= 2 && p->x_dtype == BITSHIP_INT8 && p->weight_zero_point == 0 &&
           p->input_zero_point >= -128 && p->input_zero_point <= 127;
}

/* Fill the head and every table but the bias's. */
void bitship_host_tables(const struct bitship_window *p, struct packed *h);

#endif
