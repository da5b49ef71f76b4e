/* avg_pool2d and max_pool2d: a block of channels at a time, taps outermost. */
#include "window.h"

/* total / count to nearest; ties away from zero, or up. */
static inline int32_t divide(int32_t total, int32_t count, int half_up) {
    const int32_t half = count / 2;
    if (!half_up) {
        return total < 0 ? -((-total + half) / count) : (total + half) / count;
    }
    const int32_t shifted = total + half; /* floor division */
    return shifted < 0 ? -((-shifted + count - 1) / count) : shifted / count;
}

/* acc[n]: sum, or maximum, of the window of output pixel (y, x); returns the number of taps inside x. */
BITSHIP_CLONES
static int32_t collect(const struct bitship_window *p, const void *image, int maximum, int32_t y, int32_t x,
                       int32_t first, int32_t n, int32_t *acc) {
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    const struct bitship_taps rows = bitship_taps(top, 1, p->kernel_h, p->in_h);
    const struct bitship_taps cols = bitship_taps(left, 1, p->kernel_w, p->in_w);
    int32_t lanes[BITSHIP_LANES];
    for (int32_t i = 0; i < n; i++) {
        acc[i] = maximum ? INT16_MIN : 0;
    }
    for (int32_t i = rows.first; i < rows.last; i++) {
        for (int32_t j = cols.first; j < cols.last; j++) {
            const ptrdiff_t at = ((ptrdiff_t)(top + i) * p->in_w + left + j) * p->in_c + first;
            bitship_load(bitship_at(image, p->x_dtype, at), p->x_dtype, 1, n, lanes);
            if (maximum) {
                for (int32_t c = 0; c < n; c++) {
                    acc[c] = bitship_max(acc[c], lanes[c]);
                }
            } else {
                for (int32_t c = 0; c < n; c++) {
                    acc[c] += lanes[c];
                }
            }
        }
    }
    return (rows.last - rows.first) * (cols.last - cols.first);
}

static int pool(const struct bitship_window *p, const void *x, int maximum, void *out) {
    int32_t acc[BITSHIP_LANES];
    if (p == NULL || x == NULL || out == NULL || p->in_c != p->out_c || p->qmin > p->qmax ||
        p->pad_top >= p->kernel_h || p->pad_left >= p->kernel_w) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int error = bitship_check_window(p);
    if (error != BITSHIP_OK) {
        return error;
    }
    ptrdiff_t at = 0;
    for (int32_t b = 0; b < p->batch; b++) {
        const void *image = bitship_at(x, p->x_dtype, (ptrdiff_t)b * p->in_h * p->in_w * p->in_c);
        for (int32_t pixel = 0; pixel < p->out_h * p->out_w; pixel++) {
            for (int32_t c = 0; c < p->in_c; c += BITSHIP_LANES) {
                const int32_t n = bitship_min(BITSHIP_LANES, p->in_c - c);
                const int32_t count =
                    collect(p, image, maximum, pixel / p->out_w, pixel % p->out_w, c, n, acc);
                for (int32_t i = 0; i < n; i++) {
                    int32_t y = maximum
                                    ? acc[i]
                                    : divide(acc[i], bitship_max(count, 1), p->division == BITSHIP_HALF_UP);
                    acc[i] = bitship_min(bitship_max(y, p->qmin), p->qmax);
                }
                bitship_store(acc, n, p->x_dtype, bitship_at_out(out, p->x_dtype, at + c));
            }
            at += p->in_c;
        }
    }
    return BITSHIP_OK;
}

int bitship_avg_pool2d(const struct bitship_window *p, const void *x, void *out) {
    return pool(p, x, 0, out);
}

int bitship_max_pool2d(const struct bitship_window *p, const void *x, void *out) {
    return pool(p, x, 1, out);
}
