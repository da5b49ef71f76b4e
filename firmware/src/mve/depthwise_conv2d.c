/* depthwise_conv2d: rows of pixels whose taps all lie inside run by themselves; a tap in the padding reads a
 * row of zero points. */
#include "depthwise.h"

/* Where a row of output pixels stands. */
struct row {
    const struct bitship_mve_window *p;
    const int8_t *line; /* the first pixel's top left tap, wherever that is */
    const int8_t *zero_points;
    int32_t top;
    int32_t first_row; /* rows of taps inside the input */
    int32_t last_row;
    int32_t first; /* pixels whose columns of taps all lie inside */
    int32_t last;
    int32_t *offset;
};

/* Bytes between two taps of a row, and between two rows of taps. */
static inline int32_t across(const struct bitship_mve_window *p) { return p->dilation_w * p->in_c; }
static inline int32_t down(const struct bitship_mve_window *p) { return p->dilation_h * p->in_w * p->in_c; }

/* The taps of a 3x3 kernel, some in the padding: a column of them is walked down unless it lies there. */
static void find_3x3(const struct row *r, const int8_t *line, int32_t c, const int8_t **tap) {
    const struct bitship_mve_window *p = r->p;
    const int8_t *const zero_points = r->zero_points;
    const int32_t extent = p->in_w, apart = across(p), next = down(p), d = p->dilation_w;
    const int32_t last = r->last_row, first = r->first_row;
    const int8_t *left = zero_points, *middle = zero_points, *right = zero_points;
    int32_t left_step = 0, middle_step = 0, right_step = 0;
    if (c >= 0 && c < extent) {
        left = line;
        left_step = next;
    }
    if (c + d >= 0 && c + d < extent) {
        middle = line + apart;
        middle_step = next;
    }
    if (c + 2 * d >= 0 && c + 2 * d < extent) {
        right = line + 2 * apart;
        right_step = next;
    }
    for (int32_t i = 0; i < 3; i++, tap += 3) {
        if (i < first || i >= last) {
            tap[0] = tap[1] = tap[2] = zero_points;
            continue;
        }
        tap[0] = left;
        tap[1] = middle;
        tap[2] = right;
        left += left_step;
        middle += middle_step;
        right += right_step;
    }
}

/* Where a tap lies, counted from base. The zero points are in another array: only where addresses have 32
 * bits is the way there a number of 32 bits. */
static inline int32_t offset_of(const struct row *r, const struct bitship_mve_taps *t, const int8_t *from) {
#if !BITSHIP_MVE
    if (from == r->zero_points) {
        return BITSHIP_MVE_OUTSIDE;
    }
#else
    (void)r;
#endif
    return (int32_t)(from - t->base);
}

/* One pixel, some of its taps in the padding. */
static void edge(const struct row *r, struct bitship_mve_taps *t, int32_t x) {
    const struct bitship_mve_window *p = r->p;
    const int32_t apart = across(p), columns = p->kernel_w, rows = p->kernel_h, next = down(p);
    const int32_t first = r->first_row, last = r->last_row, extent = p->in_w, dilation = p->dilation_w;
    const int8_t *const zero_points = r->zero_points;
    const int8_t *line = r->line + (ptrdiff_t)x * p->stride_w * p->in_c + first * next;
    int32_t c = x * p->stride_w - p->pad_left;
    const int nine = p->together > 0;
    const int three = nine && columns == 3;
    if (three) {
        find_3x3(r, line, c, t->tap);
    }
    for (int32_t j = three ? columns : 0; j < columns; j++, c += dilation, line += apart) {
        const int inside = c >= 0 && c < extent;
        const int8_t *tap = line;
        for (int32_t i = 0, at = j; i < rows; i++, at += columns) {
            const int8_t *from = zero_points;
            if (inside && i >= first && i < last) {
                from = tap;
                tap += next;
            }
            if (nine) {
                t->tap[at] = from;
            } else {
                r->offset[at] = offset_of(r, t, from);
            }
        }
    }
    t->blocks = p->in_c >> 4;
    t->tail = p->in_c & 15;
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
        for (int32_t k = 0; k < p->kernel_h; k++, at += down(p)) {
            const int real = inside || (k >= r->first_row && k < r->last_row);
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
    const int inside = r->first_row == 0 && r->last_row == p->kernel_h;
    const int runs = r->first < r->last && (inside || p->together > 0);
    const int32_t first = runs ? r->first : p->out_w, last = runs ? r->last : p->out_w;
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

/* Taps of a column that lie inside: from `first_row` to `last_row`. */
static void place(struct row *r, int32_t y) {
    const struct bitship_mve_window *p = r->p;
    r->top = y * p->stride_h - p->pad_top;
    r->first_row = 0;
    r->last_row = p->kernel_h;
    while (r->first_row < r->last_row && r->top + r->first_row * p->dilation_h < 0) {
        r->first_row++;
    }
    while (r->last_row > r->first_row && r->top + (r->last_row - 1) * p->dilation_h >= p->in_h) {
        r->last_row--;
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
    const int32_t room = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w + p->pad_left;
    const int32_t fit = room < 0 ? 0 : room / p->stride_w + 1;
    struct row r = {.p = p,
                    .zero_points = zero_points,
                    .first = (p->pad_left + p->stride_w - 1) / p->stride_w,
                    .last = fit < p->out_w ? fit : p->out_w,
                    .offset = (int32_t *)(void *)(zero_points + (p->in_c + 15) / 16 * 16)};
#if !BITSHIP_MVE
    t.outside = zero_points;
#endif
    (void)scratch_bytes;
    t.rounding |= t.clamp != NULL ? 8 : 0;
    t.offset = r.offset;
    t.end = r.offset + p->kernel_h * p->kernel_w;
    bitship_mve_fill(zero_points, p->input_zero_point, p->in_c * (p->together > 1 ? p->together : 1));
    for (int32_t b = 0; b < p->batch; b++, x += (ptrdiff_t)p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            place(&r, y);
            r.line = x + ((ptrdiff_t)r.top * p->in_w - p->pad_left) * p->in_c;
            one_row(&r, &t);
        }
    }
    return BITSHIP_OK;
}
