/* table_softmax and softmax_matmul: exponentials by a table of 256, one division per row. */
#include "product.h"

#define MASKED (-128)

struct bitship_inverse bitship_reciprocal(uint32_t total) {
    int32_t bits = 0;
    total = total == 0 ? 1 : total;
    for (int32_t step = 16; step > 0; step >>= 1) {
        bits += total >> (bits + step) != 0 ? step : 0;
    }
    const struct bitship_inverse found = {(int32_t)(((uint64_t)1 << (bits + 30)) / total), bits};
    return found;
}

/* y = min((e * R + 2^(b + 14)) >> (b + 15), 32767) of a row. A sum of 2^18 or more has its rounding bit in
 * the upper word of the product, and no e that reaches an eighth of it. */
static void normalise(const int8_t *x, const int16_t *from, int32_t n, uint32_t total, int16_t *out) {
    const struct bitship_inverse row = bitship_reciprocal(total);
    const int32_t inverse = row.factor, b = row.bits;
    if (b >= 18) {
        const int32_t half = (int32_t)1 << (b - 18), down = b - 17;
        BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
            out[i] = (int16_t)(((int32_t)(((int64_t)from[-x[i]] * inverse) >> 32) + half) >> down);
        }
    } else {
        const int64_t half = (int64_t)1 << (b + 14);
        for (int32_t i = 0; i < n; i++) {
            const int32_t y = (int32_t)((from[-x[i]] * (int64_t)inverse + half) >> (b + 15));
            out[i] = (int16_t)bitship_min(y, INT16_MAX);
        }
    }
}

/* The sum of a row's exponentials. */
static uint32_t sum_of(const int8_t *x, const int16_t *from, int32_t n) {
    int32_t total = 0;
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) { total += from[-x[i]]; }
    return (uint32_t)total;
}

int bitship_table_softmax(const struct bitship_table_softmax *p, const int8_t *x, const int16_t *exp_table,
                          int16_t *out) {
    if (p == NULL || x == NULL || exp_table == NULL || out == NULL || p->rows < 1 || p->channels < 1 ||
        p->channels > UINT16_MAX) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t rows = p->rows, n = p->channels, masked = p->masked;
    for (int32_t row = 0; row < rows; row++, x += n, out += n) {
        const int16_t *from = exp_table + bitship_largest(x, n);
        uint32_t total = sum_of(x, from, n);
        for (int32_t i = 0; masked && i < n; i++) {
            const int32_t e = from[-x[i]];
            total -= x[i] == MASKED ? (uint32_t)e : 0u;
        }
        normalise(x, from, n, total, out);
        for (int32_t i = 0; masked && i < n; i++) {
            out[i] = x[i] == MASKED ? (int16_t)0 : out[i];
        }
    }
    return BITSHIP_OK;
}

/* The codes' masked ones are taken back: most graphs have none. */
uint32_t bitship_codes(const int8_t *x, const uint8_t *exp_table, int32_t n, int32_t masked, uint8_t *e) {
    const uint8_t *from = exp_table + bitship_largest(x, n);
    uint32_t total = 0;
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
        const uint8_t code = from[-x[i]];
        e[i] = code;
        total += code;
    }
    for (int32_t i = 0; masked && i < n; i++) {
        if (x[i] == MASKED) {
            total -= e[i];
            e[i] = 0;
        }
    }
    return total;
}

/* What results is a rescale like any other: a right shift in [1, 62] is proven. */
void bitship_finish_row(const struct bitship_rescale *r, struct bitship_inverse inverse, int32_t first,
                        int32_t n, int32_t *acc, void *out) {
    int32_t multiplier[BITSHIP_LANES];
    int8_t shift[BITSHIP_LANES];
    const int32_t step = r->count > 1, from = first * step, count = step != 0 ? n : 1;
    for (int32_t i = 0; i < count; i++) {
        multiplier[i] =
            (int32_t)(((int64_t)r->multiplier[from + i] * inverse.factor + ((int32_t)1 << 29)) >> 30);
        shift[i] = (int8_t)(r->shift[from + i] - inverse.bits);
    }
    struct bitship_rescale row = *r;
    row.multiplier = multiplier;
    row.shift = shift;
    row.count = step != 0 ? 2 : 1; /* as many as lanes: their own index, or all the first */
    bitship_finish(&row, 0, n, acc, out);
}

int32_t bitship_softmax_matmul_scratch_bytes(const struct bitship_softmax_matmul *p) {
    return p == NULL ? 0 : p->tile * p->depth;
}

static int check(const struct bitship_softmax_matmul *p, int32_t scratch_bytes) {
    if (p->batch < 1 || p->rows < 1 || p->depth < 1 || p->columns < 1 || p->tile < 1 ||
        p->tile > BITSHIP_PRODUCT_ROWS || p->depth > INT32_MAX / BITSHIP_PRODUCT_ROWS || p->requant == NULL ||
        p->requant->rounding != BITSHIP_SINGLE || p->requant->pre_shift != 0 ||
        p->requant->input_zero_point != 0) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int error = bitship_check_rescale(p->requant, p->columns);
    if (error != BITSHIP_OK) {
        return error;
    }
    return scratch_bytes < bitship_softmax_matmul_scratch_bytes(p) ? BITSHIP_ERROR_SCRATCH : BITSHIP_OK;
}

int bitship_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                           const uint8_t *exp_table, void *scratch, int32_t scratch_bytes, void *out) {
    struct bitship_inverse inverse[BITSHIP_PRODUCT_ROWS];
    int32_t acc[BITSHIP_PRODUCT_ROWS * BITSHIP_LANES];
    if (p == NULL || x == NULL || v == NULL || exp_table == NULL || scratch == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int error = check(p, scratch_bytes);
    if (error != BITSHIP_OK) {
        return error;
    }
    uint8_t *e = (uint8_t *)scratch;
    struct bitship_product product = {
        .a = scratch,
        .a_dtype = BITSHIP_UINT8,
        .b_zero_point = p->v_zero_point,
        .depth = p->depth,
        .columns = p->columns,
    };
    for (int32_t image = 0; image < p->batch; image++, v += (ptrdiff_t)p->depth * p->columns) {
        for (int32_t i = 0; i < p->rows; i += p->tile) {
            const ptrdiff_t row = (ptrdiff_t)image * p->rows + i;
            product.rows = bitship_min(p->tile, p->rows - i);
            for (int32_t r = 0; r < product.rows; r++) {
                uint8_t *to = e + (ptrdiff_t)r * p->depth;
                const uint32_t total =
                    bitship_codes(x + (row + r) * p->depth, exp_table, p->depth, p->masked, to);
                inverse[r] = bitship_reciprocal(total);
            }
            for (int32_t j = 0; j < p->columns; j += BITSHIP_LANES) {
                const int32_t n = bitship_min(BITSHIP_LANES, p->columns - j);
                bitship_product(&product, v + j, n, acc);
                for (int32_t r = 0; r < product.rows; r++) {
                    bitship_finish_row(p->requant, inverse[r], j, n, acc + r * BITSHIP_LANES,
                                       bitship_at_out(out, p->requant->dtype, (row + r) * p->columns + j));
                }
            }
        }
    }
    return BITSHIP_OK;
}
