/* depthwise_conv2d: a block of channels at a time, taps outermost, so that every inner loop runs over
 * channels. */
#include "window.h"

/* acc[i] += (x[i] - zero_point) * w[i]. The product fits int16: at most 255 * 128. */
static inline void tap_s8(const int8_t *x, const int8_t *w, int32_t n, int32_t zero_point, int32_t *acc) {
    for (int32_t i = 0; i < n; i++) {
        acc[i] += (int16_t)((int16_t)(x[i] - zero_point) * w[i]);
    }
}

/* The same with a weight zero point: the product may leave int16. */
static inline void tap_s8_centred(const int8_t *x, const int8_t *w, int32_t n, int32_t zero_point,
                                  int32_t weight_zero_point, int32_t *acc) {
    for (int32_t i = 0; i < n; i++) {
        acc[i] += (x[i] - zero_point) * (w[i] - weight_zero_point);
    }
}

/* The same for any dtype and weight zero point, M output channels for each input channel. */
static inline void tap_any(const struct bitship_window *p, const void *x, const int8_t *w, int32_t first,
                           int32_t n, int32_t multiplier, int32_t *acc) {
    const int8_t *x8 = (const int8_t *)x;
    const int16_t *x16 = (const int16_t *)x;
    for (int32_t i = 0; i < n; i++) {
        const int32_t c = (first + i) / multiplier;
        const int32_t v = p->x_dtype == BITSHIP_INT8 ? x8[c] : x16[c];
        acc[i] += (v - p->input_zero_point) * (w[first + i] - p->weight_zero_point);
    }
}

/* acc[4] of four channels, sums in registers; x[at] is the first of them at tap (0, 0), which may be padding.
 */
static inline void quad(const struct bitship_window *p, const int8_t *x, ptrdiff_t at, const int8_t *w,
                        int32_t weight_zero_point, const int32_t *bias, struct bitship_taps rows,
                        struct bitship_taps cols, int32_t *acc) {
    const ptrdiff_t right = (ptrdiff_t)p->dilation_w * p->in_c,
                    down = (ptrdiff_t)p->dilation_h * p->in_w * p->in_c;
    const int32_t zero_point = p->input_zero_point, channels = p->out_c;
    int32_t s0 = bias[0], s1 = bias[1], s2 = bias[2], s3 = bias[3];
    for (int32_t i = rows.first; i < rows.last; i++) {
        const int8_t *v = x + (at + i * down + cols.first * right);
        const int8_t *t = w + (ptrdiff_t)(i * p->kernel_w + cols.first) * channels;
        for (int32_t j = cols.last - cols.first; j > 0; j--) {
            s0 += (v[0] - zero_point) * (t[0] - weight_zero_point);
            s1 += (v[1] - zero_point) * (t[1] - weight_zero_point);
            s2 += (v[2] - zero_point) * (t[2] - weight_zero_point);
            s3 += (v[3] - zero_point) * (t[3] - weight_zero_point);
            v += right;
            t += channels;
        }
    }
    acc[0] = s0;
    acc[1] = s1;
    acc[2] = s2;
    acc[3] = s3;
}

/* acc[n] of output channels from `first` on at output pixel (y, x) of one image. */
BITSHIP_CLONES
static void pixel(const struct bitship_window *p, const void *image, const int8_t *w, const int32_t *bias,
                  int32_t y, int32_t x, int32_t first, int32_t n, int32_t *acc) {
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    const struct bitship_taps rows = bitship_taps(top, p->dilation_h, p->kernel_h, p->in_h);
    const struct bitship_taps cols = bitship_taps(left, p->dilation_w, p->kernel_w, p->in_w);
    const int32_t multiplier = p->out_c / p->in_c;
    const int bytes = p->x_dtype == BITSHIP_INT8 && multiplier == 1;
    const int plain = bytes && p->weight_zero_point == 0;
    if (BITSHIP_SCALAR && bytes && n % 4 == 0) {
        for (int32_t i = 0; i < n; i += 4) {
            const ptrdiff_t at = ((ptrdiff_t)top * p->in_w + left) * p->in_c + first + i;
            if (!plain) {
                quad(p, (const int8_t *)image, at, w + first + i, p->weight_zero_point, bias + first + i,
                     rows, cols, acc + i);
                continue;
            }
            quad(p, (const int8_t *)image, at, w + first + i, 0, bias + first + i, rows, cols, acc + i);
        }
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        acc[i] = bias[first + i];
    }
    for (int32_t i = rows.first; i < rows.last; i++) {
        for (int32_t j = cols.first; j < cols.last; j++) {
            const ptrdiff_t at = (ptrdiff_t)(top + i * p->dilation_h) * p->in_w + left + j * p->dilation_w;
            const void *from = bitship_at(image, p->x_dtype, at * p->in_c);
            const int8_t *tap = w + (ptrdiff_t)(i * p->kernel_w + j) * p->out_c;
            if (plain && n == BITSHIP_LANES) {
                tap_s8((const int8_t *)from + first, tap + first, BITSHIP_LANES, p->input_zero_point, acc);
            } else if (plain) {
                tap_s8((const int8_t *)from + first, tap + first, n, p->input_zero_point, acc);
            } else if (bytes) {
                tap_s8_centred((const int8_t *)from + first, tap + first, n, p->input_zero_point,
                               p->weight_zero_point, acc);
            } else {
                tap_any(p, from, tap, first, n, multiplier, acc);
            }
        }
    }
}

int bitship_depthwise_conv2d(const struct bitship_window *p, const void *x, const int8_t *w,
                             const int32_t *bias, void *out) {
    int32_t acc[BITSHIP_LANES];
    if (p == NULL || x == NULL || w == NULL || bias == NULL || out == NULL || p->in_c < 1 ||
        p->out_c % p->in_c != 0) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    int error = bitship_check_window(p);
    if (error == BITSHIP_OK) {
        error = bitship_check_rescale(p->requant, p->out_c);
    }
    if (error != BITSHIP_OK) {
        return error;
    }
    const int32_t dtype = bitship_finish_dtype(p->requant);
    ptrdiff_t at = 0;
    for (int32_t b = 0; b < p->batch; b++) {
        const void *image = bitship_at(x, p->x_dtype, (ptrdiff_t)b * p->in_h * p->in_w * p->in_c);
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t ox = 0; ox < p->out_w; ox++) {
                for (int32_t o = 0; o < p->out_c; o += BITSHIP_LANES) {
                    const int32_t n = bitship_min(BITSHIP_LANES, p->out_c - o);
                    pixel(p, image, w, bias, y, ox, o, n, acc);
                    bitship_finish(p->requant, o, n, acc, bitship_at_out(out, dtype, at + o));
                }
                at += p->out_c;
            }
        }
    }
    return BITSHIP_OK;
}
