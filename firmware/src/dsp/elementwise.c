/* add, sub and mul of int8: four elements at a time, all read before any is written. */
#include "dot.h"

/* One element of each kernel: `linear` where the whole op is one sum of products, proven for every pair of
 * codes. */
static inline int8_t linear(const struct bitship_dsp_pairs *p, int32_t a, int32_t b) {
    return (int8_t)bitship_ssat8((a * p->a + (b * p->b + p->offset)) >> p->shift);
}

static inline int8_t clamped(const struct bitship_dsp_pairs *p, int32_t a, int32_t b) {
    const int32_t y = bitship_max((a * p->a + (b * p->b + p->offset)) >> p->shift, p->qmin);
    return (int8_t)bitship_min(y, p->qmax);
}

static inline int8_t product(const struct bitship_dsp_pairs *p, int32_t a, int32_t b, int32_t epilogue) {
    const int32_t factors[3] = {p->multiplier, p->offset, p->shift};
    return bitship_dsp_finish(epilogue, (a - p->a) * (b - p->b), factors);
}

/* out[i] of every row by one kernel, whose parameters stay in registers: `q` is a copy that no store can
 * change. */
#define EVERY(kernel)                                                                                        \
    for (int32_t row = 0; row < p->rows; row++, a += p->a_row, b += p->b_row) {                              \
        const int8_t *x = a, *y = b, *const end = a + (p->columns & ~3);                                     \
        for (; x != end; x += 4, y += 4, out += 4) {                                                         \
            const int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];                                        \
            const int32_t y0 = y[0], y1 = y[1], y2 = y[2], y3 = y[3];                                        \
            out[0] = kernel(x0, y0);                                                                         \
            out[1] = kernel(x1, y1);                                                                         \
            out[2] = kernel(x2, y2);                                                                         \
            out[3] = kernel(x3, y3);                                                                         \
        }                                                                                                    \
        for (int32_t i = 0; i < (p->columns & 3); i++) {                                                     \
            *out++ = kernel(x[i], y[i]);                                                                     \
        }                                                                                                    \
    }

int bitship_dsp_sum(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b, int8_t *out) {
    const struct bitship_dsp_pairs q = *p;
#define LINEAR(x, y) linear(&q, x, y)
#define CLAMPED(x, y) clamped(&q, x, y)
    if (q.qmin == -128 && q.qmax == 127) {
        EVERY(LINEAR)
    } else {
        EVERY(CLAMPED)
    }
    return BITSHIP_OK;
}

int bitship_dsp_mul(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b, int8_t *out) {
    const struct bitship_dsp_pairs q = *p;
#define PRODUCT_FLOOR(x, y) product(&q, x, y, BITSHIP_DSP_FLOOR)
#define PRODUCT_DOUBLE(x, y) product(&q, x, y, BITSHIP_DSP_DOUBLE)
    if (q.epilogue == BITSHIP_DSP_FLOOR) {
        EVERY(PRODUCT_FLOOR)
    } else {
        EVERY(PRODUCT_DOUBLE)
    }
    return BITSHIP_OK;
}

int bitship_dsp_sum_tables(const struct bitship_dsp_pairs *p, const int8_t *a, const int8_t *b,
                           const int32_t *tables, int8_t *out) {
    const int32_t factors[3] = {p->multiplier, p->offset, p->shift}, epilogue = p->epilogue;
    const int32_t *const left = tables + 128, *const right = tables + 384;
#define LOOKED_UP(x, y) bitship_dsp_finish(epilogue, left[x] + right[y], factors)
    EVERY(LOOKED_UP)
    return BITSHIP_OK;
}

/* Both operands' rescales are upper words of products, rounded half up, so the second adds to the first. */
int bitship_dsp_sum16(const struct bitship_dsp_sum16 *p, const int16_t *a, const int16_t *b, int16_t *out) {
    const struct bitship_dsp_sum16 q = *p;
    const int16_t *const end = a + q.size;
    while (a != end) {
        const int32_t left = bitship_smmlar((int32_t)((uint32_t)*a++ << q.a_left), q.a, 0);
        const int32_t sum = bitship_smmlar((int32_t)((uint32_t)*b++ << q.b_left), q.b, left);
        *out++ = (int16_t)bitship_ssat16(bitship_smmla(sum, q.multiplier, q.offset) >> q.shift);
    }
    return BITSHIP_OK;
}
