/* What the loops of binary.c read. */
#ifndef BITSHIP_MVE_BINARY_H
#define BITSHIP_MVE_BINARY_H

#include "mve.h"

/* The assembly reads the fields by their offsets. */
struct bitship_mve_terms {
    const int8_t *a;
    const int8_t *b;
    int8_t *out;
    int32_t size;          /* 12 */
    const int32_t *a_term; /* 16: by code as uint8 */
    const int32_t *b_term; /* 20: the same; NULL: b times b_factor */
    int32_t b_factor;      /* 24; mul: zero point of b */
    int32_t zero_point;    /* 28 */
    int32_t qmin;          /* 32 */
    int32_t qmax;          /* 36 */
    int32_t entry[5];      /* 40: 0, multiplier, shift (left shift, below zero) */
    int32_t a_zero_point;  /* 60: mul */
};

#endif
