/* Sums of products: a vectorising compiler takes a row of b at a time, a scalar core two rows of a by four
 * columns, whose sums stay in registers. b's zero point is taken off as b_zero_point * (sum of a's row). */
#include "product.h"

static inline int32_t element(const struct bitship_product *p, ptrdiff_t at) {
    switch (p->a_dtype) {
    case BITSHIP_INT8:
        return ((const int8_t *)p->a)[at] - p->a_zero_point;
    case BITSHIP_INT16:
        return ((const int16_t *)p->a)[at] - p->a_zero_point;
    default: /* BITSHIP_UINT8 */
        return ((const uint8_t *)p->a)[at] - p->a_zero_point;
    }
}

/* What b's zero point adds to every sum of row i. */
static uint32_t offset(const struct bitship_product *p, int32_t i) {
    uint32_t sum = 0;
    for (int32_t k = 0; p->b_zero_point != 0 && k < p->depth; k++) {
        sum += (uint32_t)element(p, (ptrdiff_t)i * p->depth + k);
    }
    return 0u - sum * (uint32_t)p->b_zero_point;
}

#if BITSHIP_SCALAR

/* `rows` and `n` are constants where this is called: both loops over them disappear. */
static inline __attribute__((always_inline)) void tile(const struct bitship_product *p, int32_t dtype,
                                                       int32_t row, const int8_t *b, int32_t rows, int32_t n,
                                                       int32_t *acc) {
    const int32_t depth = p->depth, columns = p->columns, zero_point = p->a_zero_point;
    const ptrdiff_t at = (ptrdiff_t)row * depth;
    const int8_t *a8 = (const int8_t *)p->a + at, *const end = a8 + depth;
    const uint8_t *u8 = (const uint8_t *)p->a + at;
    const int16_t *a16 = (const int16_t *)p->a + at, *const end16 = a16 + depth;
    uint32_t s[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    while (dtype == BITSHIP_INT16  ? a16 != end16
           : dtype == BITSHIP_INT8 ? a8 != end
                                   : u8 != (const uint8_t *)end) {
        int32_t v[2] = {0, 0};
        if (dtype == BITSHIP_INT16) {
            v[1] = rows > 1 ? a16[depth] - zero_point : 0;
            v[0] = *a16++ - zero_point;
        } else if (dtype == BITSHIP_INT8) {
            v[1] = rows > 1 ? a8[depth] - zero_point : 0;
            v[0] = *a8++ - zero_point;
        } else {
            v[1] = rows > 1 ? u8[depth] : 0;
            v[0] = *u8++;
        }
#pragma GCC unroll 4
        for (int32_t j = 0; j < n; j++) {
            const int32_t w = b[j];
            s[0][j] += (uint32_t)(v[0] * w);
            if (rows > 1) {
                s[1][j] += (uint32_t)(v[1] * w);
            }
        }
        b += columns;
    }
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t j = 0; j < n; j++) {
            acc[i * BITSHIP_LANES + j] = (int32_t)((uint32_t)acc[i * BITSHIP_LANES + j] + s[i][j]);
        }
    }
}

static inline __attribute__((always_inline)) void block(const struct bitship_product *p, int32_t dtype,
                                                        const int8_t *b, int32_t n, int32_t *acc) {
    for (int32_t i = 0; i < p->rows; i += 2, acc += 2 * BITSHIP_LANES) {
        int32_t j = 0;
        if (p->rows - i >= 2) {
            for (; n - j >= 4; j += 4) {
                tile(p, dtype, i, b + j, 2, 4, acc + j);
            }
            for (; j < n; j++) {
                tile(p, dtype, i, b + j, 2, 1, acc + j);
            }
        } else {
            for (; n - j >= 4; j += 4) {
                tile(p, dtype, i, b + j, 1, 4, acc + j);
            }
            for (; j < n; j++) {
                tile(p, dtype, i, b + j, 1, 1, acc + j);
            }
        }
    }
}

static void add_products(const struct bitship_product *p, const int8_t *b, int32_t n, int32_t *acc) {
    if (p->a_dtype == BITSHIP_INT8) {
        block(p, BITSHIP_INT8, b, n, acc);
    } else if (p->a_dtype == BITSHIP_INT16) {
        block(p, BITSHIP_INT16, b, n, acc);
    } else {
        block(p, BITSHIP_UINT8, b, n, acc);
    }
}

#else

BITSHIP_CLONES
static void add_products(const struct bitship_product *p, const int8_t *b, int32_t n, int32_t *acc) {
    for (int32_t i = 0; i < p->rows; i++, acc += BITSHIP_LANES) {
        const int8_t *from = b;
        for (int32_t k = 0; k < p->depth; k++, from += p->columns) {
            const int32_t v = element(p, (ptrdiff_t)i * p->depth + k);
            for (int32_t j = 0; j < n; j++) {
                acc[j] = (int32_t)((uint32_t)acc[j] + (uint32_t)(v * from[j]));
            }
        }
    }
}

#endif

void bitship_product(const struct bitship_product *p, const int8_t *b, int32_t n, int32_t *acc) {
    for (int32_t i = 0; i < p->rows; i++) {
        const int32_t first = (int32_t)offset(p, i);
        for (int32_t j = 0; j < n; j++) {
            acc[i * BITSHIP_LANES + j] = first;
        }
    }
    add_products(p, b, n, acc);
}
