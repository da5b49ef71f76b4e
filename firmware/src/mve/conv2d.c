/* conv2d: four output pixels at a time, gathered into a panel, then times every channel; see block.h. */
#include "block.h"
#include "gather.h"

/* Where the walk over output pixels stands. */
struct walk {
    const struct bitship_mve_window *p;
    const int8_t *image;
    const int8_t *from; /* the pixel's top left tap, wherever that is */
    int32_t y;
    int32_t x;
    int32_t first; /* pixels of this row whose taps all lie inside */
    int32_t last;
};

static void start_row(struct walk *at) {
    const struct bitship_mve_window *p = at->p;
    const int32_t top = at->y * p->stride_h - p->pad_top, room = p->in_w - p->kernel_w + p->pad_left;
    at->x = 0;
    at->from = at->image + ((ptrdiff_t)top * p->in_w - p->pad_left) * p->in_c;
    at->first = (p->pad_left + p->stride_w - 1) / p->stride_w;
    at->last = room < 0 ? 0 : room / p->stride_w + 1;
    if (top < 0 || top + p->kernel_h > p->in_h || p->dilation_h != 1 || p->dilation_w != 1) {
        at->last = 0;
    }
}

static void next_row(struct walk *at) {
    const struct bitship_mve_window *p = at->p;
    if (++at->y == p->out_h) {
        at->y = 0;
        at->image += (ptrdiff_t)p->in_h * p->in_w * p->in_c;
    }
    start_row(at);
}

static inline void step(struct walk *at) {
    at->from += at->p->stride_w * at->p->in_c;
    if (++at->x == at->p->out_w) {
        next_row(at);
    }
}

/* A patch with taps in the padding, which hold the input's zero point. */
static void gather_border(const struct walk *at, int8_t *to) {
    const struct bitship_mve_window *p = at->p;
    const int32_t top = at->y * p->stride_h - p->pad_top, left = at->x * p->stride_w - p->pad_left;
    const int32_t row = p->kernel_w * p->in_c;
    bitship_mve_fill(to, p->input_zero_point, p->kernel_h * row);
    for (int32_t i = 0; i < p->kernel_h; i++, to += row) {
        const int32_t y = top + i * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            continue;
        }
        const int8_t *line = at->image + (ptrdiff_t)y * p->in_w * p->in_c;
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
static inline void gather(const struct walk *at, int8_t *patch, int8_t *panel) {
    const struct bitship_mve_window *p = at->p;
    const int32_t row = p->kernel_w * p->in_c, pitch = p->in_w * p->in_c;
    if (at->x < at->first || at->x >= at->last) {
        gather_border(at, patch);
    } else if (panel != NULL && (row % BITSHIP_MVE_BYTES == 0 || p->kernel_h == 1)) {
        bitship_mve_spread_rows(panel, at->from, p->kernel_h, row, pitch);
        return;
    } else {
        bitship_mve_pack_rows(patch, at->from, p->kernel_h, row, pitch);
    }
    if (panel != NULL) {
        bitship_mve_spread_rows(panel, patch, 1, p->kernel_h * row, 0);
    }
}

/* What the walks share. */
struct job {
    const struct bitship_mve_window *p;
    struct bitship_mve_block b;
    int8_t *panel;
    int8_t *patch; /* short depths: one per pixel */
    int8_t *wide;  /* rows of whole words, where the output's are not */
};

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
        bitship_mve_block_panel(b, j->p->rounding);
    } else {
        bitship_mve_block_short(b, j->p->rounding);
    }
    for (int32_t i = 0; j->wide != NULL && i < n; i++) {
        bitship_mve_copy(out + i * (ptrdiff_t)channels, j->wide + b->offset[i], channels);
    }
}

/* Any kernel: pixels are gathered one by one. */
static void windows(struct job *j, const int8_t *x, int32_t count, int8_t *out) {
    struct walk at = {.p = j->p, .image = x};
    int8_t *const panel = j->b.pieces > 1 ? j->panel : NULL;
    start_row(&at);
    j->b.x = j->patch;
    j->b.step = BITSHIP_MVE_BYTES;
    for (; count > 0; count -= 4, out += 4 * (ptrdiff_t)j->p->out_c) {
        const int32_t n = count < 4 ? count : 4;
        for (int32_t i = 0; i < 4; i++) { /* a pixel that is none repeats the last */
            if (panel != NULL) {
                gather(&at, j->patch, panel + 16 * i);
            } else {
                gather(&at, j->patch + 16 * i, NULL);
            }
            if (i + 1 < n) {
                step(&at);
            }
        }
        if (count > 4) {
            step(&at);
        }
        finish(j, n, out);
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
    for (; count > 0; count -= 4, out += 4 * (ptrdiff_t)j->p->out_c) {
        const int32_t n = count < 4 ? count : 4;
        j->b.x = x;
        for (int32_t i = 0; i < 4 && (j->b.pieces > 1 || n < 4); i++) { /* none repeats the last */
            const int8_t *from = x + (i < n ? i : n - 1) * depth;
            if (j->b.pieces > 1) {
                bitship_mve_spread_rows(j->panel + 16 * i, from, 1, depth, 0);
            } else {
                bitship_mve_copy(j->patch + i * depth, from, depth);
                j->b.x = j->patch;
            }
        }
        x += 4 * depth;
        finish(j, n, out);
    }
}

int bitship_mve_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *weights,
                       const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out) {
    const int32_t depth = p->kernel_h * p->kernel_w * p->in_c, pieces = (depth + 15) / 16;
    const int32_t channels = (p->out_c + 3) / 4 * 4, count = p->batch * p->out_h * p->out_w;
    const int direct = p->kernel_h * p->kernel_w * p->stride_h * p->stride_w == 1 && p->in_h == p->out_h &&
                       p->in_w == p->out_w && p->pad_top + p->pad_left == 0;
    int8_t clamp[2 * BITSHIP_MVE_BYTES];
    struct job j = {.p = p,
                    .b = {.panel = (const int8_t *)scratch,
                          .pieces = pieces,
                          .weights = weights,
                          .table = table,
                          .channels = channels,
                          .zero_point = p->output_zero_point,
                          .clamp = bitship_mve_clamp(p->qmin, p->qmax, clamp),
                          .depth = depth,
                          .blocks = 1},
                    .panel = (int8_t *)scratch,
                    .patch = (int8_t *)scratch + (ptrdiff_t)(pieces > 1 ? 64 : 0) * pieces};
    (void)scratch_bytes;
    for (uint32_t i = 0; i < 4; i++) {
        j.b.offset[i] = i * (uint32_t)channels;
    }
    if (p->out_c != channels || ((uintptr_t)out & 3) != 0) {
        j.wide = j.patch + (pieces == 1 ? 64 : direct ? 0 : pieces * 16) + (direct ? 0 : 16);
        j.b.out = j.wide;
    }
    if (direct) {
        pixels(&j, x, count, out);
    } else {
        windows(&j, x, count, out);
    }
    return BITSHIP_OK;
}
