/* matmul: a block of columns at a time; every step adds one element of a times a row of b. */
#include "lanes.h"

/* acc[j] += a * (b[j] - zero_point) over the depth; a is a row of `depth` elements, b has `columns` per row.
 */
BITSHIP_CLONES
static void block(const struct bitship_matmul *p, const void *a, const int8_t *b, int32_t n, int32_t *acc) {
    const int8_t *a8 = (const int8_t *)a;
    const int16_t *a16 = (const int16_t *)a;
    for (int32_t j = 0; j < n; j++) {
        acc[j] = 0;
    }
    for (int32_t k = 0; k < p->depth; k++) {
        const int32_t v = (p->a_dtype == BITSHIP_INT8 ? a8[k] : a16[k]) - p->a_zero_point;
        for (int32_t j = 0; j < n; j++) {
            acc[j] += v * (b[j] - p->b_zero_point);
        }
        b += p->columns;
    }
}

int bitship_matmul(const struct bitship_matmul *p, const void *a, const int8_t *b, void *out) {
    int32_t acc[BITSHIP_LANES];
    if (p == NULL || a == NULL || b == NULL || out == NULL || p->batch < 1 || p->rows < 1 || p->depth < 1 ||
        p->columns < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int error = bitship_check_rescale(p->requant, p->columns);
    if (error != BITSHIP_OK) {
        return error;
    }
    if (p->a_dtype != BITSHIP_INT8 && p->a_dtype != BITSHIP_INT16) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    const int32_t dtype = bitship_finish_dtype(p->requant);
    for (int32_t row = 0; row < p->batch * p->rows; row++) {
        const void *from = bitship_at(a, p->a_dtype, (ptrdiff_t)row * p->depth);
        const int8_t *image = b + (ptrdiff_t)(row / p->rows) * p->depth * p->columns;
        for (int32_t j = 0; j < p->columns; j += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, p->columns - j);
            block(p, from, image + j, n, acc);
            bitship_finish(p->requant, j, n, acc,
                           bitship_at_out(out, dtype, (ptrdiff_t)row * p->columns + j));
        }
    }
    return BITSHIP_OK;
}
