/* conv2d: gather the patches of a few output pixels as centred int16, then dot them with every output
 * channel.
 *
 * The centred patch has 0 in the padding, so there is no border case in the dot product; the patch is read
 * once per output channel, which pays for gathering it. Two dot products: tile 8  weights of two channels are
 * widened to int16 once per tile, patches padded to a multiple of 16 elements: loops of int16 pairs that a
 * compiler vectorises (pmaddwd and its kin); tile 1  for a single output pixel (a fully connected layer): two
 * channels at a time; tile 2  two pixels by two channels straight from int8 weights: eight loads and four
 * multiply-accumulates a step fit the registers of a microcontroller. A weight zero point needs widened
 * weights here too.
 */
#include "window.h"

#include <string.h>

#define WIDE_TILE 8
#define SMALL_TILE 2
#define ONE_TILE 1
#define DEPTH_ALIGN 16

/* Longest patch whose dot product with weights that still carry their zero point cannot leave int32. */
#define RAW_DEPTH(dtype) ((dtype) == BITSHIP_INT16 ? 511 : 65536)

/* Elements of one patch: taps times channels of a group. */
static int32_t patch_depth(const struct bitship_window *p) {
    return p->kernel_h * p->kernel_w * (p->in_c / p->groups);
}

/* Elements from one patch to the next. */
static int32_t patch_step(const struct bitship_window *p) {
    const int32_t depth = patch_depth(p);
    return p->tile == WIDE_TILE ? (depth + DEPTH_ALIGN - 1) / DEPTH_ALIGN * DEPTH_ALIGN : depth;
}

int32_t bitship_conv2d_scratch_bytes(const struct bitship_window *p) {
    if (p == NULL || p->groups < 1) {
        return 0;
    }
    return patch_step(p) * 2 * (p->tile + (p->tile == WIDE_TILE ? 2 : 0));
}

/* out[i] = x[i] - zero_point */
static inline void centre_row(const void *x, int32_t dtype, int32_t n, int32_t zero_point, int16_t *out) {
    const int8_t *x8 = (const int8_t *)x;
    if (dtype == BITSHIP_INT16) { /* zero_point is 0 */
        memcpy(out, x, (size_t)n * 2);
        return;
    }
    if (BITSHIP_SCALAR) {
        for (; n >= 4; n -= 4, x8 += 4, out += 4) {
            const int32_t a = x8[0], b = x8[1], c = x8[2], d = x8[3];
            out[0] = (int16_t)(a - zero_point);
            out[1] = (int16_t)(b - zero_point);
            out[2] = (int16_t)(c - zero_point);
            out[3] = (int16_t)(d - zero_point);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        out[i] = (int16_t)(x8[i] - zero_point);
    }
}

/* Gather the patch of output pixel (y, x) of one image and group into patch[patch_step]. */
BITSHIP_CLONES
static void gather(const struct bitship_window *p, const void *image, int32_t group, int32_t y, int32_t x,
                   int16_t *patch) {
    const int32_t c = p->in_c / p->groups, top = y * p->stride_h - p->pad_top,
                  left = x * p->stride_w - p->pad_left;
    const struct bitship_taps rows = bitship_taps(top, p->dilation_h, p->kernel_h, p->in_h);
    const struct bitship_taps cols = bitship_taps(left, p->dilation_w, p->kernel_w, p->in_w);
    const int32_t step = patch_step(p);
    if (rows.first > 0 || rows.last < p->kernel_h || cols.first > 0 || cols.last < p->kernel_w) {
        memset(patch, 0, (size_t)step * 2);
    } else if (step > patch_depth(p)) {
        memset(patch + patch_depth(p), 0, (size_t)(step - patch_depth(p)) * 2);
    }
    const int together = p->dilation_w == 1 && p->groups == 1; /* a row of taps is contiguous */
    for (int32_t i = rows.first; i < rows.last; i++) {
        const ptrdiff_t line = (ptrdiff_t)(top + i * p->dilation_h) * p->in_w;
        for (int32_t j = cols.first; j < cols.last; j++) {
            const int32_t n = together ? (cols.last - cols.first) * c : c;
            const ptrdiff_t from = (line + left + j * p->dilation_w) * p->in_c + group * c;
            centre_row(bitship_at(image, p->x_dtype, from), p->x_dtype, n, p->input_zero_point,
                       patch + (i * p->kernel_w + j) * c);
            if (together) {
                break;
            }
        }
    }
}

/* sum[pixel][channel] of 4 pixels by 2 channels; depth is a multiple of 16. */
static inline void dot_4x2(const int16_t *x, ptrdiff_t step, const int16_t *w, int32_t blocks, int32_t *sum) {
    const int16_t *x0 = x, *x1 = x + step, *x2 = x + 2 * step, *x3 = x + 3 * step, *v = w + step;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (int32_t k = 0; k < blocks * DEPTH_ALIGN; k++) {
        s0 += x0[k] * w[k];
        s1 += x0[k] * v[k];
        s2 += x1[k] * w[k];
        s3 += x1[k] * v[k];
        s4 += x2[k] * w[k];
        s5 += x2[k] * v[k];
        s6 += x3[k] * w[k];
        s7 += x3[k] * v[k];
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    sum[4] = s4;
    sum[5] = s5;
    sum[6] = s6;
    sum[7] = s7;
}

/* Two rows of weights (the second may equal the first), widened and centred; zeros up to step. */
static inline void widen_weights(const int8_t *w, const int8_t *v, int32_t depth, int32_t step,
                                 int32_t zero_point, int16_t *out) {
    for (int32_t k = 0; k < depth; k++) {
        out[k] = (int16_t)(w[k] - zero_point);
    }
    for (int32_t k = 0; k < depth; k++) {
        out[step + k] = (int16_t)(v[k] - zero_point);
    }
    for (int32_t k = depth; k < step; k++) {
        out[k] = 0;
        out[step + k] = 0;
    }
}

/* acc[pixel][i] for n channels from w and bias on, 8 pixels. */
BITSHIP_CLONES
static void dot_wide(const struct bitship_window *p, const int16_t *patches, const int8_t *w,
                     const int32_t *bias, int32_t n, int32_t pixels, int16_t *wide, int32_t *acc) {
    const int32_t depth = patch_depth(p), step = patch_step(p);
    int32_t sum[WIDE_TILE * 2];
    for (int32_t i = 0; i < n; i += 2) {
        const int32_t next = i + 1 < n ? i + 1 : i;
        widen_weights(w + (ptrdiff_t)i * depth, w + (ptrdiff_t)next * depth, depth, step,
                      p->weight_zero_point, wide);
        dot_4x2(patches, step, wide, step / DEPTH_ALIGN, sum);
        if (pixels > WIDE_TILE / 2) {
            dot_4x2(patches + 4 * (ptrdiff_t)step, step, wide, step / DEPTH_ALIGN, sum + WIDE_TILE);
        }
        for (int32_t pixel = 0; pixel < pixels; pixel++) {
            acc[pixel * BITSHIP_LANES + next] = bias[next] + sum[2 * pixel + (next > i)];
            acc[pixel * BITSHIP_LANES + i] = bias[i] + sum[2 * pixel];
        }
    }
}

/* zero_point * the sum of a patch: what the weight zero point takes off every channel's dot product, modulo
 * 2^32. */
static uint32_t correction(const int16_t *patch, int32_t depth, int32_t zero_point) {
    uint32_t sum = 0;
    for (int32_t k = 0; zero_point != 0 && k < depth; k++) {
        const int32_t v = patch[k];
        sum += (uint32_t)v;
    }
    return sum * (uint32_t)zero_point;
}

/* bias + dot - off, modulo 2^32 on the way: only the total is proven to fit int32. */
static inline int32_t total(int32_t bias, int32_t dot, uint32_t off) {
    return (int32_t)((uint32_t)bias + (uint32_t)dot - off);
}

/* acc[i] for n channels of one pixel, int8 weights as they are, four channels at a time. */
BITSHIP_CLONES
static void dot_one(const struct bitship_window *p, const int16_t *patch, const int8_t *w,
                    const int32_t *bias, int32_t n, uint32_t off, int32_t *acc) {
    const ptrdiff_t depth = patch_depth(p);
    for (int32_t i = 0; i < n; i += 4) {
        const int32_t i1 = bitship_min(i + 1, n - 1), i2 = bitship_min(i + 2, n - 1),
                      i3 = bitship_min(i + 3, n - 1);
        const int8_t *w0 = w + i * depth, *w1 = w + i1 * depth, *w2 = w + i2 * depth, *w3 = w + i3 * depth;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (ptrdiff_t k = 0; k < depth; k++) {
            const int32_t v = patch[k];
            s0 += v * w0[k];
            s1 += v * w1[k];
            s2 += v * w2[k];
            s3 += v * w3[k];
        }
        acc[i3] = total(bias[i3], s3, off);
        acc[i2] = total(bias[i2], s2, off);
        acc[i1] = total(bias[i1], s1, off);
        acc[i] = total(bias[i], s0, off);
    }
}

/* One element of two patches times two rows of weights. */
static inline void step_2x2(const int16_t *x0, const int16_t *x1, const int8_t *w0, const int8_t *w1,
                            int32_t k, int32_t *s) {
    const int32_t a = x0[k], b = x1[k], c = w0[k], d = w1[k];
    s[0] += a * c;
    s[1] += a * d;
    s[2] += b * c;
    s[3] += b * d;
}

/* acc[pixel][i] for n channels, 2 pixels, int8 weights as they are. */
static void dot_small(const struct bitship_window *p, const int16_t *patches, const int8_t *w,
                      const int32_t *bias, int32_t n, const uint32_t *off, int32_t *acc) {
    const int32_t depth = patch_depth(p);
    for (int32_t i = 0; i < n; i += 2) {
        const int32_t next = i + 1 < n ? i + 1 : i;
        const int16_t *x0 = patches, *x1 = patches + depth, *const end = patches + (depth & ~3);
        const int8_t *w0 = w + (ptrdiff_t)i * depth, *w1 = w + (ptrdiff_t)next * depth;
        int32_t s[4] = {0, 0, 0, 0};
        while (x0 != end) {
            step_2x2(x0, x1, w0, w1, 0, s);
            step_2x2(x0, x1, w0, w1, 1, s);
            step_2x2(x0, x1, w0, w1, 2, s);
            step_2x2(x0, x1, w0, w1, 3, s);
            x0 += 4;
            x1 += 4;
            w0 += 4;
            w1 += 4;
        }
        for (int32_t k = 0; k < (depth & 3); k++) {
            step_2x2(x0, x1, w0, w1, k, s);
        }
        acc[i] = total(bias[i], s[0], off[0]);
        acc[next] = total(bias[next], s[1], off[0]);
        acc[BITSHIP_LANES + i] = total(bias[i], s[2], off[1]);
        acc[BITSHIP_LANES + next] = total(bias[next], s[3], off[1]);
    }
}

/* All channels of `pixels` output pixels from their patches; pixel i goes to out + i * out_c. */
static void finish_tile(const struct bitship_window *p, int32_t group, const int16_t *patches, int32_t pixels,
                        const int8_t *w, const int32_t *bias, int16_t *wide, ptrdiff_t at, void *out) {
    int32_t acc[WIDE_TILE * BITSHIP_LANES];
    const int32_t channels = p->out_c / p->groups, depth = patch_depth(p),
                  dtype = bitship_finish_dtype(p->requant);
    uint32_t off[SMALL_TILE] = {0, 0};
    for (int32_t i = 0; p->tile != WIDE_TILE && i < p->tile; i++) {
        off[i] = correction(patches + (ptrdiff_t)i * depth, depth, p->weight_zero_point);
    }
    for (int32_t o = 0; o < channels; o += BITSHIP_LANES) {
        const int32_t n = bitship_min(BITSHIP_LANES, channels - o), first = group * channels + o;
        const int8_t *rows = w + (ptrdiff_t)first * depth;
        if (p->tile == WIDE_TILE) {
            dot_wide(p, patches, rows, bias + first, n, pixels, wide, acc);
        } else if (p->tile == ONE_TILE) {
            dot_one(p, patches, rows, bias + first, n, off[0], acc);
        } else {
            dot_small(p, patches, rows, bias + first, n, off, acc);
        }
        for (int32_t pixel = 0; pixel < pixels; pixel++) {
            void *to = bitship_at_out(out, dtype, (at + pixel) * p->out_c + first);
            bitship_finish(p->requant, first, n, acc + pixel * BITSHIP_LANES, to);
        }
    }
}

static int check(const struct bitship_window *p, const int8_t *w, const void *x, const int32_t *bias,
                 const void *scratch, int32_t scratch_bytes, const void *out) {
    if (p == NULL || x == NULL || w == NULL || bias == NULL || scratch == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (p->groups < 1 || p->in_c % p->groups != 0 || p->out_c % p->groups != 0 ||
        (p->tile != WIDE_TILE && p->tile != SMALL_TILE && p->tile != ONE_TILE)) {
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
    if (p->tile != WIDE_TILE && p->weight_zero_point != 0 && patch_depth(p) > RAW_DEPTH(p->x_dtype)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    return scratch_bytes < bitship_conv2d_scratch_bytes(p) ? BITSHIP_ERROR_SCRATCH : BITSHIP_OK;
}

int bitship_conv2d(const struct bitship_window *p, const void *x, const int8_t *w, const int32_t *bias,
                   void *scratch, int32_t scratch_bytes, void *out) {
    const int error = check(p, w, x, bias, scratch, scratch_bytes, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    int16_t *patches = (int16_t *)scratch;
    const int32_t step = patch_step(p), image = p->out_h * p->out_w;
    int16_t *wide = patches + (ptrdiff_t)p->tile * step;
    for (int32_t b = 0; b < p->batch; b++) {
        const void *from = bitship_at(x, p->x_dtype, (ptrdiff_t)b * p->in_h * p->in_w * p->in_c);
        int32_t oy = 0, ox = 0;
        for (int32_t first = 0; first < image; first += p->tile) {
            const int32_t pixels = bitship_min(p->tile, image - first);
            int32_t y = oy, x0 = ox;
            for (int32_t group = 0; group < p->groups; group++) {
                y = oy;
                x0 = ox;
                for (int32_t i = 0; i < p->tile; i++) {
                    /* The last tile repeats its last pixel: every patch is defined, none past `pixels` is
                     * stored. */
                    gather(p, from, group, y, x0, patches + (ptrdiff_t)i * step);
                    if (i + 1 < pixels && ++x0 == p->out_w) {
                        x0 = 0;
                        y++;
                    }
                }
                finish_tile(p, group, patches, pixels, w, bias, wide, (ptrdiff_t)b * image + first, out);
            }
            ox = x0 + 1 == p->out_w ? 0 : x0 + 1;
            oy = y + (ox == 0);
        }
    }
    return BITSHIP_OK;
}
