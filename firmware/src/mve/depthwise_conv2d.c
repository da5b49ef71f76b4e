/* depthwise_conv2d: rows of pixels whose taps all lie inside run by themselves; a tap in the padding reads a
 * row of zero points. */
#include "depthwise.h"

/* Where a row of output pixels stands. */
struct row {
    const struct bitship_mve_window *p;
    const int8_t *line; /* the first pixel's top left tap, wherever that is */
    const int8_t *zero_points;
    int32_t top;
    int32_t *offset;
};

/* Bytes between two taps of a row, and between two rows of taps. */
static inline int32_t across(const struct bitship_mve_window *p) { return p->dilation_w * p->in_c; }
static inline int32_t down(const struct bitship_mve_window *p) { return p->dilation_h * p->in_w * p->in_c; }

/* One pixel, some of its taps in the padding. */
static void edge(const struct row *r, struct bitship_mve_taps *t, int32_t x) {
    const struct bitship_mve_window *p = r->p;
    const int32_t left = x * p->stride_w - p->pad_left, apart = across(p), columns = p->kernel_w;
    const int32_t before = left < 0 ? (p->dilation_w - 1 - left) / p->dilation_w : 0;
    const int32_t room = p->in_w - 1 - left, within = room < 0 ? 0 : room / p->dilation_w + 1;
    const int32_t after = within < columns ? within : columns;
    const int8_t *line = r->line + (ptrdiff_t)x * p->stride_w * p->in_c;
    const int nine = p->together > 0;
    int32_t at = 0;
    for (int32_t i = 0, y = r->top; i < p->kernel_h; i++, y += p->dilation_h, line += down(p)) {
        const int inside = y >= 0 && y < p->in_h;
        const int8_t *tap = line;
        for (int32_t j = 0; j < columns; j++, tap += apart) {
            const int8_t *const from = inside && j >= before && j < after ? tap : r->zero_points;
            if (nine) {
                t->tap[at++] = from;
            } else {
                r->offset[at++] = (int32_t)(from - t->base);
            }
        }
    }
    t->blocks = p->in_c / 16;
    t->tail = p->in_c % 16;
    t->pixels = 1;
    if (nine) {
        bitship_mve_taps_3x3(t);
    } else {
        bitship_mve_taps_any(t);
    }
    t->out += p->in_c;
}

/* n pixels from x on, nine taps inside or in rows of the padding, whose zero points last for `together`
 * pixels. */
static void run_nine(const struct row *r, struct bitship_mve_taps *t, int32_t x, int32_t n, int inside) {
    const struct bitship_mve_window *p = r->p;
    const int32_t c = p->in_c, together = p->together, hop = p->stride_w * c;
    const int8_t *line = r->line + (ptrdiff_t)x * hop;
    while (n > 0) {
        const int32_t most = inside ? n / together * together : together;
        const int32_t now = n < together ? n : most; /* whole groups, or what is left of one */
        const int8_t *at = line;
        int32_t i = 0;
        for (int32_t k = 0, y = r->top; k < p->kernel_h; k++, y += p->dilation_h, at += down(p)) {
            const int real = inside || (y >= 0 && y < p->in_h);
            const int8_t *tap = real ? at : r->zero_points;
            for (int32_t j = 0; j < p->kernel_w; j++, tap += real ? across(p) : 0) {
                t->tap[i++] = tap;
            }
        }
        const int32_t width = now < together ? now * c : together * c; /* of a pass through the stream */
        t->blocks = width / 16;
        t->tail = width % 16;
        t->pixels = now < together ? 1 : now / together;
        t->advance = together * hop - t->blocks * 16;
        bitship_mve_taps_3x3(t);
        t->out += now * c;
        line += now * hop;
        n -= now;
    }
}

/* offset[i] += step */
static inline void move_on(int32_t *offset, int32_t n, int32_t step) {
#if BITSHIP_MVE
    __asm__ volatile(
        "dlstp.32 lr, %1\n"
        "1: vldrw.u32 q0, [%0]\n"
        "vadd.i32 q0, q0, %2\n"
        "vstrw.32 q0, [%0], #16\n"
        "letp lr, 1b"
        : "+r"(offset)
        : "r"(n), "r"(step)
        : "lr", "q0", "memory");
#else
    for (int32_t i = 0; i < n; i++) {
        offset[i] += step;
    }
#endif
}

/* n pixels from x on, all taps inside, any number of them. */
static void run_any(const struct row *r, struct bitship_mve_taps *t, int32_t x, int32_t n) {
    const struct bitship_mve_window *p = r->p;
    const int32_t taps = p->kernel_h * p->kernel_w;
    const int8_t *line = r->line + (ptrdiff_t)x * p->stride_w * p->in_c;
    int32_t at = 0;
    for (int32_t i = 0; i < p->kernel_h; i++, line += down(p)) {
        const int8_t *tap = line;
        for (int32_t j = 0; j < p->kernel_w; j++, tap += across(p)) {
            r->offset[at++] = (int32_t)(tap - t->base);
        }
    }
    t->blocks = p->in_c / 16;
    t->tail = p->in_c % 16;
    for (;;) {
        bitship_mve_taps_any(t);
        t->out += p->in_c;
        if (--n == 0) {
            break;
        }
        move_on(r->offset, taps, p->stride_w * p->in_c);
    }
}

static void one_row(const struct row *r, struct bitship_mve_taps *t) {
    const struct bitship_mve_window *p = r->p;
    const int32_t reach = (p->kernel_w - 1) * p->dilation_w, room = p->in_w - 1 - reach + p->pad_left;
    int32_t first = (p->pad_left + p->stride_w - 1) / p->stride_w,
            last = room < 0 ? 0 : room / p->stride_w + 1;
    const int inside = r->top >= 0 && r->top + (p->kernel_h - 1) * p->dilation_h < p->in_h;
    last = last < p->out_w ? last : p->out_w;
    if (first >= last || (!inside && p->together == 0)) {
        first = last = p->out_w;
    }
    for (int32_t x = 0; x < first; x++) {
        edge(r, t, x);
    }
    if (first < last) {
        if (p->together > 0) {
            run_nine(r, t, first, last - first, inside);
        } else {
            run_any(r, t, first, last - first);
        }
    }
    for (int32_t x = last; x < p->out_w; x++) {
        edge(r, t, x);
    }
}

int bitship_mve_depthwise_conv2d(const struct bitship_mve_window *p, const int8_t *x, const int8_t *stream,
                                 void *scratch, int32_t scratch_bytes, int8_t *out) {
    int8_t clamp[2 * BITSHIP_MVE_BYTES], *zero_points = (int8_t *)scratch;
    struct bitship_mve_taps t = {.stream = stream,
                                 .out = out,
                                 .zero_point = p->output_zero_point,
                                 .rounding = p->rounding,
                                 .clamp = bitship_mve_clamp(p->qmin, p->qmax, clamp),
                                 .base = x};
    struct row r = {p, x, zero_points, 0, (int32_t *)(void *)(zero_points + (p->in_c + 15) / 16 * 16)};
    (void)scratch_bytes;
    t.rounding |= t.clamp != NULL ? 8 : 0;
    t.offset = r.offset;
    t.end = r.offset + p->kernel_h * p->kernel_w;
    bitship_mve_fill(zero_points, p->input_zero_point, p->in_c * (p->together > 1 ? p->together : 1));
    for (int32_t b = 0; b < p->batch; b++, x += (ptrdiff_t)p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            r.top = y * p->stride_h - p->pad_top;
            r.line = x + ((ptrdiff_t)r.top * p->in_w - p->pad_left) * p->in_c;
            one_row(&r, &t);
        }
    }
    return BITSHIP_OK;
}
