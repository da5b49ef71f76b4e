/* conv2d with packed weights: gather the patches of a block of pixels, then 8 pixels by 32 channels at a
 * time. */
#include "dot.h"

#define BLOCK 64 /* pixels gathered at once; their patches stay in the second-level cache */

static int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

static int32_t depth_of(const struct bitship_window *p) { return p->kernel_h * p->kernel_w * p->in_c; }

static int usable(int32_t level, const struct bitship_window *p) {
    return p != NULL && level >= 1 && level <= bitship_host_level() && p->groups == 1 &&
           bitship_check_window(p) == BITSHIP_OK &&
           bitship_check_rescale(p->requant, p->out_c) == BITSHIP_OK &&
           (p->x_dtype == BITSHIP_INT8 || p->input_zero_point == 0);
}

int32_t bitship_host_conv2d_packed_bytes(int32_t level, const struct bitship_window *p) {
    if (!usable(level, p)) {
        return 0;
    }
    const int64_t channels = round_up(p->out_c, PANEL), depth = depth_of(p);
    const int64_t weights = packed_quads(level, p) ? (depth + 3) / 4 * 4 : (depth + 1) / 2 * 4;
    const int64_t bytes = (int64_t)sizeof(struct packed) + channels * (4 * TABLES + weights);
    return bytes > INT32_MAX ? 0 : (int32_t)bytes;
}

int32_t bitship_host_conv2d_scratch_bytes(int32_t level, const struct bitship_window *p) {
    if (!usable(level, p)) {
        return 0;
    }
    const int64_t depth = depth_of(p);
    const int64_t bytes = BLOCK * (packed_quads(level, p) ? (depth + 3) / 4 * 4 : (depth + 1) / 2 * 4);
    return bytes > INT32_MAX ? 0 : (int32_t)bytes;
}

int bitship_host_conv2d_pack(int32_t level, const struct bitship_window *p, const int8_t *w,
                             const int32_t *bias, void *out) {
    if (w == NULL || bias == NULL || out == NULL || bitship_host_conv2d_packed_bytes(level, p) == 0) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    struct packed *h = (struct packed *)out;
    const int32_t depth = depth_of(p);
    memset(h, 0, (size_t)bitship_host_conv2d_packed_bytes(level, p));
    h->quads = packed_quads(level, p);
    h->channels = round_up(p->out_c, PANEL);
    const int32_t together = h->quads ? 4 : 2;
    h->step = round_up(depth, together);
    bitship_host_tables(p->requant, p->out_c, 0, h);
    int32_t *sums = (int32_t *)(h + 1);
    int8_t *quads = (int8_t *)(sums + TABLES * (ptrdiff_t)h->channels);
    int16_t *pairs = (int16_t *)quads;
    for (int32_t c = 0; c < p->out_c; c++) {
        uint32_t total = 0;
        const ptrdiff_t panel = (ptrdiff_t)(c / PANEL) * PANEL * h->step + (c % PANEL) * together;
        for (int32_t k = 0; k < depth; k++) {
            const ptrdiff_t to = panel + (ptrdiff_t)(k / together) * PANEL * together + k % together;
            const int32_t v = w[(ptrdiff_t)c * depth + k];
            total += (uint32_t)v;
            if (h->quads) {
                quads[to] = (int8_t)v;
            } else {
                pairs[to] = (int16_t)(v - p->weight_zero_point);
            }
        }
        /* quads read x + 128 where the sum wants x - zero_point */
        const uint32_t off = h->quads ? total * (uint32_t)(128 + p->input_zero_point) : 0;
        sums[c] = (int32_t)((uint32_t)bias[c] - off);
    }
    return BITSHIP_OK;
}

#if BITSHIP_X86

/* n elements of x as the dot product reads them: x + 128, or x - zero_point as int16. */
BITSHIP_INLINE void row(const struct bitship_window *p, int quads, const void *x, int32_t n, void *out) {
    const int8_t *from = (const int8_t *)x;
    if (quads) {
        uint8_t *to = (uint8_t *)out;
        for (; n >= 8; n -= 8, from += 8, to += 8) {
            uint64_t v;
            memcpy(&v, from, 8);
            v ^= UINT64_C(0x8080808080808080);
            memcpy(to, &v, 8);
        }
        for (int32_t i = 0; i < n; i++) {
            to[i] = (uint8_t)(from[i] ^ -128);
        }
    } else if (p->x_dtype == BITSHIP_INT16) {
        memcpy(out, x, (size_t)n * 2);
    } else {
        int16_t *to = (int16_t *)out;
        for (int32_t i = 0; i < n; i++) {
            to[i] = (int16_t)(from[i] - p->input_zero_point);
        }
    }
}

/* Patches of `pixels` output pixels from pixel `first` of one image on. */
BITSHIP_INLINE void gather(const struct bitship_window *p, int quads, int32_t step, const void *image,
                           int32_t first, int32_t pixels, uint8_t *out) {
    const int32_t c = p->in_c, item = quads ? 1 : 2, depth = depth_of(p);
    const int pointwise = p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 &&
                          p->pad_top == 0 && p->pad_left == 0 && p->out_w == p->in_w && p->out_h <= p->in_h;
    if (pointwise && step == depth) {
        row(p, quads, bitship_at(image, p->x_dtype, (ptrdiff_t)first * c), pixels * c, out);
        return;
    }
    int32_t y = first / p->out_w, x = first % p->out_w;
    for (int32_t i = 0; i < pixels; i++, out += (ptrdiff_t)step * item) {
        const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
        const struct bitship_taps rows = bitship_taps(top, p->dilation_h, p->kernel_h, p->in_h);
        const struct bitship_taps cols = bitship_taps(left, p->dilation_w, p->kernel_w, p->in_w);
        if (rows.first > 0 || rows.last < p->kernel_h || cols.first > 0 || cols.last < p->kernel_w) {
            memset(out, quads ? 128 + p->input_zero_point : 0, (size_t)step * (size_t)item);
        } else if (step > depth) {
            memset(out + (ptrdiff_t)depth * item, 0, (size_t)(step - depth) * (size_t)item);
        }
        const int together = p->dilation_w == 1; /* a row of taps is contiguous */
        for (int32_t ky = rows.first; ky < rows.last; ky++) {
            const ptrdiff_t line = (ptrdiff_t)(top + ky * p->dilation_h) * p->in_w + left;
            for (int32_t kx = cols.first; kx < cols.last; kx++) {
                const int32_t n = together ? (cols.last - cols.first) * c : c;
                row(p, quads, bitship_at(image, p->x_dtype, (line + kx * p->dilation_w) * c), n,
                    out + (ptrdiff_t)(ky * p->kernel_w + kx) * c * item);
                if (together) {
                    break;
                }
            }
        }
        if (++x == p->out_w) {
            x = 0;
            y++;
        }
    }
}

static BITSHIP_VNNI void block_quads(const struct bitship_window *p, const struct packed *h,
                                     const void *image, int32_t first, int32_t pixels, ptrdiff_t at,
                                     uint8_t *patches, void *out) {
    const int32_t item = bitship_item_bytes(bitship_finish_dtype(p->requant));
    int32_t acc[TILE * 2 * PANEL];
    gather(p, 1, h->step, image, first, pixels, patches);
    for (int32_t c = 0; c < p->out_c; c += 2 * PANEL) {
        const int8_t *w = packed_weights(h) + (ptrdiff_t)c * h->step;
        const int32_t *bias = packed_table(h, BIAS) + c;
        const int two = h->channels - c > PANEL;
        for (int32_t i = 0; i < pixels;) {
            const uint8_t *x = patches + (ptrdiff_t)i * h->step;
            const int32_t left = pixels - i, n = left >= TILE ? TILE : left >= 4 ? 4 : 1;
            if (n == TILE && two) {
                dot_quads(x, h->step, w, bias, TILE, 2, acc);
            } else if (n == TILE) {
                dot_quads(x, h->step, w, bias, TILE, 1, acc);
            } else if (n == 4 && two) {
                dot_quads(x, h->step, w, bias, 4, 2, acc);
            } else if (n == 4) {
                dot_quads(x, h->step, w, bias, 4, 1, acc);
            } else if (two) {
                dot_quads(x, h->step, w, bias, 1, 2, acc);
            } else {
                dot_quads(x, h->step, w, bias, 1, 1, acc);
            }
            for (int32_t j = 0; j < 1 + two; j++) {
                const int32_t from = c + j * PANEL, channels = bitship_min(PANEL, p->out_c - from);
                finish_panel_512(p->requant, h, from, channels, n, acc + j * PANEL, 2 * PANEL,
                                 (int8_t *)out + ((at + i) * p->out_c + from) * item,
                                 (ptrdiff_t)p->out_c * item);
            }
            i += n;
        }
    }
}

static BITSHIP_AVX2 void block_pairs(const struct bitship_window *p, const struct packed *h,
                                     const void *image, int32_t first, int32_t pixels, ptrdiff_t at,
                                     uint8_t *patches, void *out) {
    const int32_t item = bitship_item_bytes(bitship_finish_dtype(p->requant));
    int32_t acc[4 * PANEL];
    gather(p, 0, h->step, image, first, pixels, patches);
    for (int32_t c = 0; c < p->out_c; c += PANEL) {
        const int16_t *w = (const int16_t *)packed_weights(h) + (ptrdiff_t)c * h->step;
        for (int32_t i = 0; i < pixels;) {
            const int16_t *x = (const int16_t *)patches + (ptrdiff_t)i * h->step;
            const int32_t n = pixels - i >= 4 ? 4 : 1;
            if (n == 4) {
                dot_pairs(x, h->step, w, packed_table(h, BIAS) + c, 4, acc);
            } else {
                dot_pairs(x, h->step, w, packed_table(h, BIAS) + c, 1, acc);
            }
            finish_panel_256(p->requant, h, c, bitship_min(PANEL, p->out_c - c), n, acc, PANEL,
                             (int8_t *)out + ((at + i) * p->out_c + c) * item, (ptrdiff_t)p->out_c * item);
            i += n;
        }
    }
}

int bitship_host_conv2d(const struct bitship_window *p, const void *x, const void *packed, void *scratch,
                        int32_t scratch_bytes, void *out) {
    if (p == NULL || x == NULL || packed == NULL || scratch == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const struct packed *h = (const struct packed *)packed;
    const int32_t level = h->quads ? 2 : 1, needed = bitship_host_conv2d_scratch_bytes(level, p);
    if (needed == 0 || h->quads != packed_quads(level, p)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    if (scratch_bytes < needed) {
        return BITSHIP_ERROR_SCRATCH;
    }
    const int32_t image = p->out_h * p->out_w;
    for (int32_t b = 0; b < p->batch; b++) {
        const void *from = bitship_at(x, p->x_dtype, (ptrdiff_t)b * p->in_h * p->in_w * p->in_c);
        for (int32_t first = 0; first < image; first += BLOCK) {
            const int32_t pixels = bitship_min(BLOCK, image - first);
            const ptrdiff_t at = (ptrdiff_t)b * image + first;
            if (h->quads) {
                block_quads(p, h, from, first, pixels, at, (uint8_t *)scratch, out);
            } else {
                block_pairs(p, h, from, first, pixels, at, (uint8_t *)scratch, out);
            }
        }
    }
    return BITSHIP_OK;
}

#else

int bitship_host_conv2d(const struct bitship_window *p, const void *x, const void *packed, void *scratch,
                        int32_t scratch_bytes, void *out) {
    (void)p, (void)x, (void)packed, (void)scratch, (void)scratch_bytes, (void)out;
    return BITSHIP_ERROR_UNSUPPORTED;
}

#endif
