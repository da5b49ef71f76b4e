/* resize: nearest and bilinear from index and weight tables, rounding half away from zero. */
#include "lanes.h"

/* out[c] from the four neighbours of one output pixel; the weights sum to 2^(2 * bits). */
static void mix(const struct bitship_resize *p, const void *const corner[4], const int32_t weight[4],
                void *out) {
    int32_t lanes[BITSHIP_LANES], acc[BITSHIP_LANES];
    const int32_t down = 2 * p->bits, half = (int32_t)(((uint32_t)1 << down) >> 1);
    for (int32_t c = 0; c < p->channels; c += BITSHIP_LANES) {
        const int32_t n = bitship_min(BITSHIP_LANES, p->channels - c);
        for (int32_t i = 0; i < n; i++) {
            acc[i] = 0;
        }
        for (int k = 0; k < 4; k++) {
            if (weight[k] == 0) {
                continue;
            }
            bitship_load(bitship_at(corner[k], p->x_dtype, c), p->x_dtype, 1, n, lanes);
            for (int32_t i = 0; i < n; i++) {
                acc[i] += weight[k] * lanes[i];
            }
        }
        for (int32_t i = 0; i < n; i++) {
            acc[i] = acc[i] < 0 ? -((-acc[i] + half) >> down) : (acc[i] + half) >> down;
        }
        bitship_store(acc, n, p->x_dtype, bitship_at_out(out, p->x_dtype, c));
    }
}

static int check(const struct bitship_resize *p, const void *x, const void *out) {
    if (p == NULL || x == NULL || out == NULL || p->row_lo == NULL || p->row_hi == NULL ||
        p->row_weight == NULL || p->column_lo == NULL || p->column_hi == NULL || p->column_weight == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (p->batch < 1 || p->in_h < 1 || p->in_w < 1 || p->channels < 1 || p->out_h < 1 || p->out_w < 1 ||
        p->bits < 0 || p->bits > 11) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    return p->x_dtype == BITSHIP_INT8 || p->x_dtype == BITSHIP_INT16 ? BITSHIP_OK : BITSHIP_ERROR_UNSUPPORTED;
}

int bitship_resize(const struct bitship_resize *p, const void *x, void *out) {
    const int error = check(p, x, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    const int32_t one = (int32_t)1 << p->bits;
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->channels;
    ptrdiff_t to = 0;
    for (int32_t b = 0; b < p->batch; b++) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const ptrdiff_t upper = ((ptrdiff_t)b * p->in_h + p->row_lo[y]) * line;
            const ptrdiff_t lower = ((ptrdiff_t)b * p->in_h + p->row_hi[y]) * line;
            const int32_t wy = p->row_weight[y];
            for (int32_t i = 0; i < p->out_w; i++) {
                const ptrdiff_t left = (ptrdiff_t)p->column_lo[i] * p->channels;
                const ptrdiff_t right = (ptrdiff_t)p->column_hi[i] * p->channels;
                const int32_t wx = p->column_weight[i];
                const void *const corner[4] = {
                    bitship_at(x, p->x_dtype, upper + left), bitship_at(x, p->x_dtype, upper + right),
                    bitship_at(x, p->x_dtype, lower + left), bitship_at(x, p->x_dtype, lower + right)};
                const int32_t weight[4] = {(one - wy) * (one - wx), (one - wy) * wx, wy * (one - wx),
                                           wy * wx};
                mix(p, corner, weight, bitship_at_out(out, p->x_dtype, to));
                to += p->channels;
            }
        }
    }
    return BITSHIP_OK;
}
