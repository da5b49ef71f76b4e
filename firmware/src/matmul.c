/* matmul: two rows of a by a block of columns of b at a time. */
#include "product.h"

#define ROWS 2

int bitship_matmul(const struct bitship_matmul *p, const void *a, const int8_t *b, void *out) {
    int32_t acc[ROWS * BITSHIP_LANES];
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
    struct bitship_product product = {
        .a_dtype = p->a_dtype,
        .a_zero_point = p->a_zero_point,
        .b_zero_point = p->b_zero_point,
        .depth = p->depth,
        .columns = p->columns,
    };
    for (int32_t image = 0; image < p->batch; image++, b += (ptrdiff_t)p->depth * p->columns) {
        for (int32_t i = 0; i < p->rows; i += ROWS) {
            const ptrdiff_t row = (ptrdiff_t)image * p->rows + i;
            product.a = bitship_at(a, p->a_dtype, row * p->depth);
            product.rows = bitship_min(ROWS, p->rows - i);
            for (int32_t j = 0; j < p->columns; j += BITSHIP_LANES) {
                const int32_t n = bitship_min(BITSHIP_LANES, p->columns - j);
                bitship_product(&product, b + j, n, acc);
                for (int32_t r = 0; r < product.rows; r++) {
                    bitship_finish(p->requant, j, n, acc + r * BITSHIP_LANES,
                                   bitship_at_out(out, dtype, (row + r) * p->columns + j));
                }
            }
        }
    }
    return BITSHIP_OK;
}
