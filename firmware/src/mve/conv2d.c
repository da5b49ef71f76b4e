/* conv2d: four output pixels at a time, gathered into a panel, then times every channel; see block.h. */
#include "block.h"

/* Where the walk over output pixels stands. */
struct walk {
    const struct bitship_mve_window *p;
    const int8_t *image;
    int32_t y;
    int32_t x;
};

static inline void step(struct walk *at) {
    const struct bitship_mve_window *p = at->p;
    if (++at->x == p->out_w) {
        at->x = 0;
        if (++at->y == p->out_h) {
            at->y = 0;
            at->image += (ptrdiff_t)p->in_h * p->in_w * p->in_c;
        }
    }
}

/* The input pixel under an unpadded 1x1 kernel. */
static inline const int8_t *under(const struct walk *at) {
    const struct bitship_mve_window *p = at->p;
    return at->image + ((ptrdiff_t)at->y * p->stride_h * p->in_w + at->x * p->stride_w) * p->in_c;
}

/* The patch of a pixel with taps in the padding, which hold the input's zero point. */
static void gather_border(const struct bitship_mve_window *p, const int8_t *image, int32_t top, int32_t left,
                          int8_t *to) {
    const int32_t row = p->kernel_w * p->in_c;
    bitship_mve_fill(to, p->input_zero_point, p->kernel_h * row);
    for (int32_t i = 0; i < p->kernel_h; i++, to += row) {
        const int32_t y = top + i * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            continue;
        }
        const int8_t *line = image + (ptrdiff_t)y * p->in_w * p->in_c;
        if (p->dilation_w == 1) { /* taps side by side */
            const int32_t first = left < 0 ? -left : 0;
            const int32_t last = left + p->kernel_w > p->in_w ? p->in_w - left : p->kernel_w;
            bitship_mve_copy(to + first * p->in_c, line + (ptrdiff_t)(left + first) * p->in_c,
                             (last - first) * p->in_c);
            continue;
        }
        for (int32_t j = 0; j < p->kernel_w; j++) {
            const int32_t x = left + j * p->dilation_w;
            if (x >= 0 && x < p->in_w) {
                bitship_mve_copy(to + j * p->in_c, line + (ptrdiff_t)x * p->in_c, p->in_c);
            }
        }
    }
}

/* The patch of the pixel that the walk stands at: into the panel, or as it is where there is none. */
static void gather(const struct walk *at, int8_t *patch, int8_t *panel) {
    const struct bitship_mve_window *p = at->p;
    const int32_t top = at->y * p->stride_h - p->pad_top, left = at->x * p->stride_w - p->pad_left;
    const int32_t row = p->kernel_w * p->in_c, pitch = p->in_w * p->in_c;
    const int inside = top >= 0 && left >= 0 && top + p->kernel_h <= p->in_h && left + p->kernel_w <= p->in_w;
    if (!inside || p->dilation_h != 1 || p->dilation_w != 1) {
        gather_border(p, at->image, top, left, patch);
    } else {
        const int8_t *from = at->image + ((ptrdiff_t)top * p->in_w + left) * p->in_c;
        if (panel != NULL && row % BITSHIP_MVE_BYTES == 0) {
            for (int32_t i = 0; i < p->kernel_h; i++, from += pitch, panel += row * 4) {
                bitship_mve_spread(panel, from, row);
            }
            return;
        }
        int8_t *to = patch;
        for (int32_t i = 0; i < p->kernel_h; i++, from += pitch, to += row) {
            bitship_mve_copy(to, from, row);
        }
    }
    if (panel != NULL) {
        bitship_mve_spread(panel, patch, p->kernel_h * row);
    }
}

int bitship_mve_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *weights,
                       const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out) {
    const int32_t depth = p->kernel_h * p->kernel_w * p->in_c, pieces = (depth + 15) / 16;
    const int32_t channels = (p->out_c + 3) / 4 * 4, count = p->batch * p->out_h * p->out_w;
    const int direct = p->kernel_h * p->kernel_w == 1 && p->pad_top + p->pad_left == 0 &&
                       (p->out_h - 1) * p->stride_h < p->in_h && (p->out_w - 1) * p->stride_w < p->in_w;
    const int aligned = p->out_c == channels && ((uintptr_t)out & 3) == 0;
    int8_t clamp[2 * BITSHIP_MVE_BYTES];
    struct bitship_mve_block b = {.pieces = pieces,
                                  .weights = weights,
                                  .table = table,
                                  .zero_point = p->output_zero_point,
                                  .clamp = bitship_mve_clamp(p->qmin, p->qmax, clamp),
                                  .depth = depth};
    struct walk at = {p, x, 0, 0};
    int8_t *panel = (int8_t *)scratch, *patch = panel + (ptrdiff_t)(pieces > 1 ? 64 : 0) * pieces;
    int8_t *wide = patch + (pieces == 1 ? 64 : direct ? 0 : pieces * 16); /* rows of whole words */
    const uint32_t pitch = (uint32_t)channels;
    (void)scratch_bytes;
    b.panel = panel;
    for (int32_t first = 0; first < count; first += 4, out += 4 * (ptrdiff_t)p->out_c) {
        const int32_t n = count - first < 4 ? count - first : 4;
        for (int32_t i = 0; i < 4; i++) {
            if (pieces > 1) {
                if (direct) {
                    bitship_mve_spread(panel + 16 * i, under(&at), depth);
                } else {
                    gather(&at, patch, panel + 16 * i);
                }
            } else if (direct) {
                b.x[i] = under(&at);
            } else {
                b.x[i] = patch + 16 * i;
                gather(&at, patch + 16 * i, NULL);
            }
            b.offset[i] = (uint32_t)(i < n ? i : n - 1) * pitch;
            if (i + 1 < n) {
                step(&at);
            }
        }
        step(&at);
        b.out = aligned ? out : wide;
        b.end = b.out + channels;
        if (pieces > 1) {
            bitship_mve_block_panel(&b, p->rounding);
        } else {
            bitship_mve_block_short(&b, p->rounding);
        }
        for (int32_t i = 0; !aligned && i < n; i++) {
            bitship_mve_copy(out + i * (ptrdiff_t)p->out_c, wide + i * (ptrdiff_t)channels, p->out_c);
        }
    }
    return BITSHIP_OK;
}
