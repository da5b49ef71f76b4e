/* Sums of products of rows of a and columns of b, where b is computed too: matmul and softmax_matmul. */
#ifndef BITSHIP_PRODUCT_H
#define BITSHIP_PRODUCT_H

#include "lanes.h"

#define BITSHIP_PRODUCT_ROWS 8

/* a [rows, depth] int8, uint8 or int16; b [depth, columns] int8, of which n <= BITSHIP_LANES columns from b
 * on are wanted. */
struct bitship_product {
    const void *a;
    int32_t a_dtype;
    int32_t a_zero_point;
    int32_t b_zero_point;
    int32_t rows; /* at most BITSHIP_PRODUCT_ROWS */
    int32_t depth;
    int32_t columns;
};

/* acc[i * BITSHIP_LANES + j] = sum over k of (a[i, k] - a_zero_point) * (b[k, j] - b_zero_point), modulo
 * 2^32; the range proof says that the sum fits. */
void bitship_product(const struct bitship_product *p, const int8_t *b, int32_t n, int32_t *acc);

/* A row's codes e[i] = exp_table[max(x) - x[i]], 0 for a masked -128; returns their sum. */
uint32_t bitship_codes(const int8_t *x, const uint8_t *exp_table, int32_t n, int32_t masked, uint8_t *e);

/* R = floor(2^(bits + 30) / total) with bits = bit_length(total) - 1, so R is in (2^29, 2^30]; 1 stands for a
 * total of 0. */
struct bitship_inverse {
    int32_t factor;
    int32_t bits;
};
struct bitship_inverse bitship_reciprocal(uint32_t total);

/* Requantize n columns from `first` on of a row of codes: the reciprocal of their sum joins the multipliers,
 * its power of two the shifts. */
void bitship_finish_row(const struct bitship_rescale *r, struct bitship_inverse inverse, int32_t first,
                        int32_t n, int32_t *acc, void *out);

#endif
