/* The product at the heart of the MVE kernels: four pixels times every output channel.
 *
 * Weights lie in groups of four channels, two pairs; a pair's 16-byte pieces alternate, the depth padded with
 * zeros. The lanes of an epilogue are the four pixels, so a channel's bias, multiplier and shift are scalars,
 * and four channels narrow into one vector whose words are four pixels' bytes: one scattering store.
 */
#ifndef BITSHIP_MVE_BLOCK_H
#define BITSHIP_MVE_BLOCK_H

#include "dense.h"

/* The assembly reads the fields by their offsets. */
struct bitship_mve_block {
    const int8_t *panel;   /* 16 bytes of each pixel, the next 16 of each, ... */
    int32_t pieces;        /* of 16 bytes in the depth */
    const int8_t *weights; /* 8 */
    const int32_t *table;  /* 12: an entry per channel */
    int8_t *out;           /* 16: of the first pixel */
    int32_t channels;      /* 20: rounded up to 4 */
    int32_t zero_point;    /* 24 */
    const int8_t *clamp;   /* 28: 16 times qmin, 16 times qmax; NULL for the range of int8 */
    uint32_t offset[4];    /* 32: from out to the pixels' outputs; a pixel that is none repeats the last */
    const int8_t *x;       /* 48: short depths: the first pixel */
    int32_t step;          /* 52: to the next */
    int32_t depth;         /* 56 */
    int32_t blocks;        /* 60: short depths: blocks of four pixels, one behind the other */
};

/* All channels of `blocks` times four pixels whose depth is at most 16, from x. */
void bitship_mve_block_short(const struct bitship_mve_block *b, int32_t rounding);

/* All channels of four pixels from a panel of at least two pieces. */
void bitship_mve_block_panel(const struct bitship_mve_block *b, int32_t rounding);

/* What a convolution is made of, and the bytes of a pair of channels' weights for a piece of the depth. */
typedef void bitship_mve_panel(const struct bitship_mve_block *b, int32_t rounding);
struct bitship_mve_products {
    bitship_mve_panel *panel;
    bitship_mve_product *row;
    int32_t piece_bytes;
};

/* bitship_mve_conv2d by other products. */
int bitship_mve_conv2d_by(const struct bitship_mve_window *p, const struct bitship_mve_products *products,
                          const int8_t *x, const void *weights, const int32_t *table, void *scratch,
                          int8_t *out);

#endif
