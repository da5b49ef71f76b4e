/* Products whose second operand is packed at run time: what product.c and product_pack.c share. */
#ifndef BITSHIP_HOST_PRODUCT_H
#define BITSHIP_HOST_PRODUCT_H

#include "../product.h"
#include "packed.h"

#define PRODUCT_BLOCK 64 /* rows at once */

/* What both ops are: rows of a times b, a row's epilogue scaled or not. */
struct product {
    int32_t batch;
    int32_t rows;
    int32_t depth;
    int32_t columns;
    int32_t a_dtype;
    int32_t a_zero_point;
    int32_t b_zero_point;
    int32_t masked;
    int32_t softmax;
    const struct bitship_rescale *requant;
};

/* One image's parts of scratch. */
struct parts {
    int8_t *panels;
    int32_t *columns;                 /* first value of every column's sum */
    int32_t *added;                   /* to every sum of a row */
    struct bitship_inverse *inverses; /* of a row's codes */
    uint8_t *rows;
};

struct parts bitship_host_split(const struct packed *h, void *scratch);

/* b [depth, columns] as panels of 16 columns, and the first value of every column's sum. */
void bitship_host_pack_quads(const struct product *p, const struct packed *h, const int8_t *b,
                             const struct parts *s);
void bitship_host_pack_pairs(const struct product *p, const struct packed *h, const int8_t *b,
                             const struct parts *s);

/* `rows` rows of a as the dot product reads them, and what b's zero point adds to their sums. */
void bitship_host_rows_of_quads(const struct product *p, const struct packed *h, const void *a,
                                const uint8_t *exp_table, int32_t rows, const struct parts *s);
void bitship_host_rows_of_pairs(const struct product *p, const struct packed *h, const void *a,
                                const uint8_t *exp_table, int32_t rows, const struct parts *s);

#endif
