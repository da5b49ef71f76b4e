/* conv2d: four output pixels at a time, gathered into a panel, then times every channel; see block.h.
 *
 * Where a row of taps is short, each takes a vector of its own (`padded_rows`, weights to match): nothing is
 * packed. One or two pixels at the end go through the product of single rows, which costs less than a block.
 */
#include "block.h"
#include "dense.h"
#include "gather.h"

/* What the walks share. */
struct job {
    const struct bitship_mve_window *p;
    struct bitship_mve_block b;
    struct bitship_mve_row row;
    int8_t *panel; /* short depths: one patch per pixel */
    int8_t *patch;
    bitship_mve_panel *multiply;
    bitship_mve_product *alone;
    int8_t *wide; /* rows of whole words, where the output's are not; NULL where they are */
};

/* Pixels at the end that single rows take. */
static inline int few(const struct job *j, int32_t n) {
    return n < 3 && j->b.pieces > 1 && !j->p->padded_rows;
}

/* The block of n pixels to `out`. */
static inline void finish(struct job *j, int32_t n, int8_t *out) {
    const int32_t channels = j->p->out_c;
    struct bitship_mve_block *b = &j->b;
    if (j->wide == NULL) {
        b->out = out;
    }
    for (int32_t i = n; i < 4; i++) {
        b->offset[i] = b->offset[n - 1];
    }
    if (b->pieces > 1) {
        j->multiply(b, j->p->rounding);
    } else {
        bitship_mve_block_short(b, j->p->rounding);
    }
    for (int32_t i = 0; j->wide != NULL && i < n; i++) {
        bitship_mve_copy(out + i * (ptrdiff_t)channels, j->wide + b->offset[i], channels);
    }
}

static inline void finish_alone(struct job *j, const int8_t *x, int8_t *out) {
    j->row.x = x;
    j->row.out = out;
    j->alone(&j->row);
}

/* A patch with taps in the padding, which hold the input's zero point. */
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
            if (first < last) {
                bitship_mve_copy(to + first * p->in_c, line + (ptrdiff_t)(left + first) * p->in_c,
                                 (last - first) * p->in_c);
            }
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

/* Any kernel: pixels are gathered one by one. What the walk needs is in locals, which no store can change. */
static void windows(struct job *j, const int8_t *image, int32_t count, int8_t *out) {
    const struct bitship_mve_window *p = j->p;
    const int32_t rows = p->kernel_h, row = p->kernel_w * p->in_c, depth = rows * row;
    const int32_t pitch = p->in_w * p->in_c, hop = p->stride_w * p->in_c, width = p->out_w;
    const int deep = j->b.pieces > 1, padded = p->padded_rows, whole = row % 16 == 0 || rows == 1;
    const int32_t room = p->in_w - p->kernel_w + p->pad_left, all = room < 0 ? 0 : room / p->stride_w + 1;
    const int32_t fit = all < width ? all : width;
    const int32_t before = (p->pad_left + p->stride_w - 1) / p->stride_w;
    int8_t *const panel = j->panel, *const patch = j->patch;
    const int8_t *from = image;
    int32_t y = -1, x = width - 1, top = 0, last = 0;
    for (; count > 0; count -= 4, out += 4 * (ptrdiff_t)p->out_c) {
        const int32_t n = bitship_mve_min(count, 4);
        const int alone = few(j, n);
        if (x + 1 >= before && x + 4 < last && n == 4) { /* four side by side, all their taps inside */
            from += hop;
            if (padded) {
                bitship_mve_spread_short_rows_4(panel, from, hop, rows, row, pitch);
            } else {
                for (int32_t i = 0; i < 4; i++) {
                    int8_t *const to = panel + 16 * i;
                    if (deep && whole) {
                        bitship_mve_spread_rows(to, from + i * hop, rows, row, pitch);
                    } else if (deep) {
                        bitship_mve_pack_rows(patch, from + i * hop, rows, row, pitch);
                        bitship_mve_spread(to, patch, depth);
                    } else {
                        bitship_mve_pack_rows(to, from + i * hop, rows, row, pitch);
                    }
                }
            }
            from += 3 * hop;
            x += 4;
            finish(j, n, out);
            continue;
        }
        for (int32_t i = 0; i < (alone ? n : 4); i++) { /* a pixel that is none repeats the last */
            if (i < n && ++x == width) {
                x = 0;
                if (++y == p->out_h) {
                    y = 0;
                    image += (ptrdiff_t)p->in_h * pitch;
                }
                top = y * p->stride_h - p->pad_top;
                from = image + (ptrdiff_t)top * pitch - p->pad_left * p->in_c;
                last = top < 0 || top + rows > p->in_h || p->dilation_h != 1 || p->dilation_w != 1 ? 0 : fit;
            } else if (i < n) {
                from += hop;
            }
            const int inside = x >= before && x < last;
            int8_t *const to = panel + 16 * i, *const packed = deep ? patch : to;
            if (!inside) {
                gather_border(p, image, top, x * p->stride_w - p->pad_left, packed);
            } else if (padded) {
                bitship_mve_spread_short_rows(to, from, rows, row, pitch);
                continue;
            } else if (deep && whole && !alone) {
                bitship_mve_spread_rows(to, from, rows, row, pitch);
                continue;
            } else {
                bitship_mve_pack_rows(packed, from, rows, row, pitch);
            }
            if (padded) {
                bitship_mve_spread_short_rows(to, patch, rows, row, row);
            } else if (alone) {
                finish_alone(j, patch, out + i * (ptrdiff_t)p->out_c);
            } else if (deep) {
                bitship_mve_spread(to, patch, depth);
            }
        }
        if (!alone) {
            finish(j, n, out);
        }
    }
}

/* A 1x1 kernel that meets the pixels one by one. */
static void pixels(struct job *j, const int8_t *x, int32_t count, int8_t *out) {
    const int32_t depth = j->p->in_c;
    j->b.step = depth;
    if (j->b.pieces == 1 && j->wide == NULL && count >= 4) {
        j->b.x = x;
        j->b.out = out;
        j->b.blocks = count / 4;
        bitship_mve_block_short(&j->b, j->p->rounding);
        x += (count & ~3) * (ptrdiff_t)depth;
        out += (count & ~3) * (ptrdiff_t)j->p->out_c;
        count &= 3;
        j->b.blocks = 1;
    }
    for (; count > 0; count -= 4, x += 4 * depth, out += 4 * (ptrdiff_t)j->p->out_c) {
        const int32_t n = bitship_mve_min(count, 4);
        if (few(j, n)) {
            for (int32_t i = 0; i < n; i++) {
                finish_alone(j, x + i * depth, out + i * (ptrdiff_t)j->p->out_c);
            }
            break;
        }
        j->b.x = x;
        for (int32_t i = 0; i < 4 && (j->b.pieces > 1 || n < 4); i++) { /* none repeats the last */
            const int8_t *from = x + (i < n ? i : n - 1) * depth;
            if (j->b.pieces > 1) {
                bitship_mve_spread(j->panel + 16 * i, from, depth);
            } else {
                bitship_mve_copy(j->panel + i * depth, from, depth);
                j->b.x = j->panel;
            }
        }
        finish(j, n, out);
    }
}

int bitship_mve_conv2d_by(const struct bitship_mve_window *p, const struct bitship_mve_products *products,
                          const int8_t *x, const void *weights, const int32_t *table, void *scratch,
                          int8_t *out) {
    const int32_t depth = p->kernel_h * p->kernel_w * p->in_c;
    const int32_t pieces = p->padded_rows ? p->kernel_h : (depth + 15) / 16;
    const int32_t channels = (p->out_c + 3) / 4 * 4, count = p->batch * p->out_h * p->out_w;
    /* A strip may come with more rows of input than it needs. */
    const int direct = p->kernel_h * p->kernel_w * p->stride_h * p->stride_w == 1 && p->in_w == p->out_w &&
                       p->pad_top + p->pad_left == 0 &&
                       (p->in_h == p->out_h || (p->batch == 1 && p->in_h > p->out_h));
    int8_t clamp[2 * BITSHIP_MVE_BYTES];
    struct job j = {.p = p,
                    .b = {.panel = (const int8_t *)scratch,
                          .pieces = pieces,
                          .weights = (const int8_t *)weights,
                          .table = table,
                          .channels = channels,
                          .zero_point = p->output_zero_point,
                          .clamp = bitship_mve_clamp(p->qmin, p->qmax, clamp),
                          .x = (const int8_t *)scratch,
                          .step = BITSHIP_MVE_BYTES,
                          .depth = depth,
                          .blocks = 1},
                    .row = {.depth = depth,
                            .weights = (const int8_t *)weights,
                            .table = table,
                            .channels = p->out_c,
                            .pitch = pieces * products->piece_bytes,
                            .zero_point = p->output_zero_point,
                            .rounding = p->rounding,
                            .qmin = p->qmin,
                            .qmax = p->qmax,
                            .entry_bytes = BITSHIP_MVE_ENTRY(p->rounding) * 4},
                    .panel = (int8_t *)scratch,
                    .patch = (int8_t *)scratch + (ptrdiff_t)64 * pieces,
                    .multiply = products->panel,
                    .alone = products->row};
    for (uint32_t i = 0; i < 4; i++) {
        j.b.offset[i] = i * (uint32_t)channels;
    }
    if (p->out_c != channels || ((uintptr_t)out & 3) != 0) {
        j.wide = j.patch + (pieces > 1 ? pieces * 16 : 0) + 16;
        j.b.out = j.wide;
    }
    if (direct) {
        pixels(&j, x, count, out);
    } else {
        windows(&j, x, count, out);
    }
    return BITSHIP_OK;
}

int bitship_mve_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *weights,
                       const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out) {
    static const struct bitship_mve_products products = {bitship_mve_block_panel, bitship_mve_row, 32};
    (void)scratch_bytes;
    return bitship_mve_conv2d_by(p, &products, x, weights, table, scratch, out);
}
