/* The product of one row by every channel: x is read once for four channels, the lanes of whose epilogue are
 * the channels. Weights and table are those of a block of four pixels (block.h), but for the depth, which
 * need not be whole vectors.
 */
#ifndef BITSHIP_MVE_DENSE_H
#define BITSHIP_MVE_DENSE_H

#include "mve.h"

/* The assembly reads the fields by their offsets. */
struct bitship_mve_row {
    const int8_t *x;
    int32_t depth;         /* 4 */
    const int8_t *weights; /* 8 */
    const int32_t *table;  /* 12: an entry per channel */
    int8_t *out;           /* 16 */
    int32_t channels;      /* 20 */
    int32_t pitch;         /* 24: bytes of a pair of channels' weights */
    int32_t zero_point;    /* 28 */
    int32_t rounding;      /* 32 */
    int32_t qmin;          /* 36 */
    int32_t qmax;          /* 40 */
    int32_t entry_bytes;   /* 44: of the table */
};

void bitship_mve_row(const struct bitship_mve_row *d);

/* bitship_mve_fully_connected by another product, whose pairs of channels take so many bytes. */
typedef void bitship_mve_product(const struct bitship_mve_row *d);
int bitship_mve_fully_connected_by(const struct bitship_mve_dense *p, bitship_mve_product *product,
                                   int32_t pitch, const int8_t *x, const void *weights, const int32_t *table,
                                   int8_t *out);

#endif
