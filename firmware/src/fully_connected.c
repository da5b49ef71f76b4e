/* fully_connected: one row of x by every row of weights, four of them at a time, straight from x: no scratch.
 *
 * The input zero point is in the bias, made ahead of time, so a product is one multiply-accumulate. The sums
 * are taken modulo 2^32: only the total is proven to fit int32.
 */
#include "lanes.h"

/* `x16` and `x8` are the same row, one of them read: `wide` is a constant where this is called. */
static inline __attribute__((always_inline)) void dot(const void *x, int wide, int32_t depth, const int8_t *w,
                                                      const int32_t *bias, int32_t n, uint32_t off,
                                                      int32_t *acc) {
    for (int32_t i = 0; i < n; i += 4) {
        const int8_t *x8 = (const int8_t *)x;
        const int16_t *x16 = (const int16_t *)x;
        const int32_t i1 = bitship_min(i + 1, n - 1), i2 = bitship_min(i + 2, n - 1),
                      i3 = bitship_min(i + 3, n - 1);
        const int8_t *w0 = w + (ptrdiff_t)i * depth, *w1 = w + (ptrdiff_t)i1 * depth,
                     *w2 = w + (ptrdiff_t)i2 * depth, *w3 = w + (ptrdiff_t)i3 * depth;
        uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        BITSHIP_UNROLL_4 for (int32_t k = 0; k < depth; k++) {
            const int32_t v = wide ? *x16++ : *x8++;
            s0 += (uint32_t)(v * *w0++);
            s1 += (uint32_t)(v * *w1++);
            s2 += (uint32_t)(v * *w2++);
            s3 += (uint32_t)(v * *w3++);
        }
        acc[i3] = (int32_t)((uint32_t)bias[i3] + s3 - off);
        acc[i2] = (int32_t)((uint32_t)bias[i2] + s2 - off);
        acc[i1] = (int32_t)((uint32_t)bias[i1] + s1 - off);
        acc[i] = (int32_t)((uint32_t)bias[i] + s0 - off);
    }
}

int bitship_fully_connected(const struct bitship_fully_connected *p, const void *x, const int8_t *w,
                            const int32_t *bias, void *out) {
    int32_t acc[BITSHIP_LANES];
    if (p == NULL || x == NULL || w == NULL || bias == NULL || out == NULL || p->rows < 1 || p->depth < 1 ||
        p->channels < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int error = bitship_check_rescale(p->requant, p->channels);
    if (error != BITSHIP_OK) {
        return error;
    }
    if (p->x_dtype != BITSHIP_INT8 && p->x_dtype != BITSHIP_INT16) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    const int wide = p->x_dtype == BITSHIP_INT16;
    const int32_t dtype = bitship_finish_dtype(p->requant), depth = p->depth;
    for (int32_t row = 0; row < p->rows; row++) {
        const void *from = bitship_at(x, p->x_dtype, (ptrdiff_t)row * depth);
        uint32_t off = 0;
        for (int32_t k = 0; p->weight_zero_point != 0 && k < depth; k++) {
            const int32_t v = wide ? ((const int16_t *)from)[k] : ((const int8_t *)from)[k];
            off += (uint32_t)v * (uint32_t)p->weight_zero_point;
        }
        for (int32_t o = 0; o < p->channels; o += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, p->channels - o);
            const int8_t *rows = w + (ptrdiff_t)o * depth;
            if (wide) {
                dot(from, 1, depth, rows, bias + o, n, off, acc);
            } else {
                dot(from, 0, depth, rows, bias + o, n, off, acc);
            }
            bitship_finish(p->requant, o, n, acc,
                           bitship_at_out(out, dtype, (ptrdiff_t)row * p->channels + o));
        }
    }
    return BITSHIP_OK;
}
