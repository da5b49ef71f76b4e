/* Depthwise convolution: 16 channels of one output pixel at a time.
 *
 * VMULLB and VMULLT give products of even and odd channels as int16; a few of them are added there, as many
 * as cannot overflow with these weights, before they are widened. Four vectors of sums hold the channels 0 4
 * 8 12, 2 6 10 14, 1 5 9 13 and 3 7 11 15, which narrowing puts back in order. The constants of 16 channels
 * lie in the order they are read, so that one pointer walks them all.
 */
#ifndef BITSHIP_MVE_DEPTHWISE_H
#define BITSHIP_MVE_DEPTHWISE_H

#include "mve.h"

/* The assembly reads the fields by their offsets. */
struct bitship_mve_taps {
    const int8_t *tap[9];  /* 3x3: where each tap's channels begin */
    const int8_t *stream;  /* 36 */
    int8_t *out;           /* 40 */
    int32_t blocks;        /* 44: whole blocks of 16 channels */
    int32_t tail;          /* 48: channels behind them */
    int32_t pixels;        /* 52: used up */
    int32_t advance;       /* 56: from the end of a pixel's whole blocks to the next pixel's channels */
    int32_t zero_point;    /* 60 */
    int32_t rounding;      /* 64: plus 8 for a clamp */
    const int8_t *clamp;   /* 68: 16 times qmin, 16 times qmax */
    const int32_t *offset; /* 72: other kernels: where each tap's channels begin, counted from base */
    const int32_t *end;    /* 76: behind the last */
    const int8_t *base;    /* 80 */
#if !BITSHIP_MVE
    const int8_t *outside; /* the zero points, for a tap of the offset BITSHIP_MVE_OUTSIDE */
#endif
};
#define BITSHIP_MVE_OUTSIDE INT32_MIN

/* 3x3: `pixels` output pixels side by side. */
void bitship_mve_taps_3x3(struct bitship_mve_taps *t);

/* Any kernel: one output pixel. */
void bitship_mve_taps_any(struct bitship_mve_taps *t);

#endif
