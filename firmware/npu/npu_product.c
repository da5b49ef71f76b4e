/* The two halves of a softmax_matmul around a product that the NPU computes. */
#include <stddef.h>
#include <string.h>

#include "npu_step.h"
#include "product.h"

static int wrong(const struct bitship_softmax_matmul *p) {
    return p->batch < 1 || p->rows < 1 || p->depth < 1 || p->columns < 1 || p->requant == NULL;
}

int bitship_npu_codes(const struct bitship_softmax_matmul *p, const int8_t *x, const uint8_t *exp_table,
                      int8_t *out) {
    if (p == NULL || x == NULL || exp_table == NULL || out == NULL || wrong(p)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t rows = p->batch * p->rows;
    for (int32_t row = 0; row < rows; row++, x += p->depth, out += p->depth) {
        uint8_t *codes = (uint8_t *)out;
        (void)bitship_codes(x, exp_table, p->depth, p->masked, codes);
        for (int32_t i = 0; i < p->depth; i++) {
            codes[i] ^= 0x80u;
        }
    }
    return BITSHIP_OK;
}

int bitship_npu_finish(const struct bitship_softmax_matmul *p, const int8_t *codes, const int32_t *sums,
                       void *out) {
    int32_t acc[BITSHIP_LANES];
    if (p == NULL || codes == NULL || sums == NULL || out == NULL || wrong(p)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t rows = p->batch * p->rows;
    for (int32_t row = 0; row < rows; row++, codes += p->depth, sums += p->columns) {
        uint32_t total = 0;
        for (int32_t i = 0; i < p->depth; i++) {
            total += (uint32_t)(codes[i] + 128);
        }
        const struct bitship_inverse inverse = bitship_reciprocal(total);
        for (int32_t j = 0; j < p->columns; j += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, p->columns - j);
            memcpy(acc, sums + j, (size_t)n * sizeof *acc);
            bitship_finish_row(p->requant, inverse, j, n, acc,
                               bitship_at_out(out, p->requant->dtype, (ptrdiff_t)row * p->columns + j));
        }
    }
    return BITSHIP_OK;
}
