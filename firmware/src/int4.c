/* conv2d and fully_connected on weights of four bits, for cores without vector or DSP instructions: patches
 * of two pixels, or one, as centred int16; a byte of weights is two codes for both.
 */
#include "window.h"

#include <string.h>

#define PIXELS 2
#define BLOCK 16 /* channels that are rescaled together */

static int32_t depth_of(const struct bitship_window *p) { return p->kernel_h * p->kernel_w * p->in_c; }

/* Elements of a patch: whole bytes of weights. */
static int32_t even(int32_t depth) { return (depth + 1) / 2 * 2; }

/* The centred patch of output pixel (y, x); padding, and what makes it even, is 0. */
static void gather(const struct bitship_window *p, const void *image, int32_t y, int32_t x, int16_t *patch) {
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left, c = p->in_c;
    const struct bitship_taps rows = bitship_taps(top, p->dilation_h, p->kernel_h, p->in_h);
    const struct bitship_taps cols = bitship_taps(left, p->dilation_w, p->kernel_w, p->in_w);
    memset(patch, 0, (size_t)even(depth_of(p)) * 2);
    for (int32_t i = rows.first; i < rows.last; i++) {
        for (int32_t j = cols.first; j < cols.last; j++) {
            const ptrdiff_t pixel = (ptrdiff_t)(top + i * p->dilation_h) * p->in_w + left + j * p->dilation_w;
            const int8_t *from = (const int8_t *)bitship_at(image, p->x_dtype, pixel * c);
            int16_t *to = patch + (i * p->kernel_w + j) * c;
            if (p->x_dtype == BITSHIP_INT16) { /* zero point 0 */
                memcpy(to, from, (size_t)c * 2);
                continue;
            }
            for (int32_t k = 0; k < c; k++) {
                to[k] = (int16_t)(from[k] - p->input_zero_point);
            }
        }
    }
}

/* sum[i] += patch i times `bytes` bytes of weights, times the multiplier; modulo 2^32: the total is proven to
 * fit.
 */
static inline void dot(const int16_t *x0, const int16_t *x1, const uint8_t *w, int32_t bytes,
                       uint32_t multiplier, uint32_t *sum) {
    int32_t s0 = 0, s1 = 0;
    for (int32_t k = 0; k < bytes; k++, x0 += 2, x1 += 2) {
        const int32_t low = (int8_t)(uint8_t)(w[k] << 4) >> 4, high = (int8_t)w[k] >> 4;
        s0 += x0[0] * low + x0[1] * high;
        s1 += x1[0] * low + x1[1] * high;
    }
    sum[0] += (uint32_t)s0 * multiplier;
    sum[1] += (uint32_t)s1 * multiplier;
}

/* All channels of `pixels` gathered pixels, the first of them at `out`. */
static void finish(const struct bitship_window *p, const int16_t *patches, int32_t pixels, const uint8_t *w,
                   const int32_t *bias, ptrdiff_t at, void *out) {
    const int32_t step = even(depth_of(p)), dtype = bitship_finish_dtype(p->requant);
    const int32_t group = p->weight_group == 0 ? step : p->weight_group;
    const int32_t groups = p->weight_group == 0 ? 0 : (step + group - 1) / group;
    const int16_t *x1 = pixels > 1 ? patches + step : patches;
    int32_t acc[PIXELS * BLOCK];
    for (int32_t first = 0; first < p->out_c; first += BLOCK) {
        const int32_t n = bitship_min(BLOCK, p->out_c - first);
        for (int32_t o = 0; o < n; o++) {
            const uint8_t *multipliers = w;
            uint32_t sum[PIXELS] = {(uint32_t)bias[first + o], (uint32_t)bias[first + o]};
            w += groups;
            for (int32_t k = 0, g = 0; k < step; k += group, g++) {
                const int32_t bytes = bitship_min(group, step - k) / 2;
                dot(patches + k, x1 + k, w, bytes, groups == 0 ? 1 : multipliers[g], sum);
                w += bytes;
            }
            acc[o] = (int32_t)sum[0];
            acc[BLOCK + o] = (int32_t)sum[1];
        }
        for (int32_t i = 0; i < pixels; i++) {
            bitship_finish(p->requant, first, n, acc + i * BLOCK,
                           bitship_at_out(out, dtype, (at + i) * p->out_c + first));
        }
    }
}

int bitship_conv2d_int4(const struct bitship_window *p, const void *x, const void *w, const int32_t *bias,
                        void *scratch, int32_t scratch_bytes, void *out) {
    if (p == NULL || x == NULL || w == NULL || bias == NULL || scratch == NULL || out == NULL ||
        p->groups != 1 || p->weight_zero_point != 0 || p->weight_group < 0 || p->weight_group % 2 != 0) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    int error = bitship_check_window(p);
    if (error == BITSHIP_OK) {
        error = bitship_check_rescale(p->requant, p->out_c);
    }
    if (error != BITSHIP_OK) {
        return error;
    }
    if (p->x_dtype == BITSHIP_INT16 && p->input_zero_point != 0) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    const int32_t step = even(depth_of(p)), image = p->out_h * p->out_w;
    if (scratch_bytes < step * 2 * bitship_min(PIXELS, image)) {
        return BITSHIP_ERROR_SCRATCH;
    }
    int16_t *patches = (int16_t *)scratch;
    for (int32_t b = 0; b < p->batch; b++) {
        const void *from = bitship_at(x, p->x_dtype, (ptrdiff_t)b * p->in_h * p->in_w * p->in_c);
        for (int32_t first = 0; first < image; first += PIXELS) {
            const int32_t pixels = bitship_min(PIXELS, image - first);
            for (int32_t i = 0; i < pixels; i++) {
                gather(p, from, (first + i) / p->out_w, (first + i) % p->out_w,
                       patches + (ptrdiff_t)i * step);
            }
            finish(p, patches, pixels, (const uint8_t *)w, bias, (ptrdiff_t)b * image + first, out);
        }
    }
    return BITSHIP_OK;
}
