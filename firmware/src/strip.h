/* What the generated code of a stage needs: which rows of a tensor are in its buffer, which part of it a tile
 * is. */
#ifndef BITSHIP_STRIP_H
#define BITSHIP_STRIP_H

#include <stdint.h>
#include <string.h>

/* A tensor of which a few rows are held: [base, from) are kept from earlier steps, [from, to) are this
 * step's.
 */
struct bitship_strip {
    int32_t base;
    int32_t from;
    int32_t to;
};

/* (position / divisor, floored) in [0, cap]: how many rows are computed once the image has reached a
 * position. */
static inline int32_t bitship_reach(int32_t position, int32_t divisor, int32_t cap) {
    const int32_t row = position < 0 ? 0 : position / divisor;
    return row < cap ? row : cap;
}

/* The first row that is read for output rows from `from` on. */
static inline int32_t bitship_first_row(int32_t from, int32_t stride, int32_t before) {
    const int32_t row = from * stride - before;
    return row < 0 ? 0 : row;
}

/* Rows that are read for so many output rows, of those there are: what lies behind counts as padding. */
static inline int32_t bitship_rows_in(int32_t out, int32_t stride, int32_t extent, int32_t pad,
                                      int32_t there) {
    const int32_t rows = (out - 1) * stride + extent - pad;
    return rows < there ? rows : there;
}

static inline int32_t bitship_lower(int32_t a, int32_t b) { return a < b ? a : b; }

/* Begin a step: rows before `base` are dropped, those behind move to the front; rows up to `to` are computed
 * next. */
static __attribute__((noinline, unused)) void
bitship_strip_next(struct bitship_strip *s, uint8_t *rows, int32_t row_bytes, int32_t base, int32_t to) {
    base = bitship_lower(base, s->to);
    if (base > s->base && s->to > base) {
        memmove(rows, rows + (base - s->base) * row_bytes, (size_t)((s->to - base) * row_bytes));
    }
    s->base = base;
    s->from = s->to;
    s->to = to;
}

/* Begin a step for a tensor of which nothing is kept. */
static inline void bitship_strip_anew(struct bitship_strip *s, int32_t to) {
    s->base = s->from = s->to;
    s->to = to;
}

/* Rows [top, bottom) and columns [left, right) of a tensor. */
struct bitship_region {
    int32_t top;
    int32_t bottom;
    int32_t left;
    int32_t right;
};

static inline int32_t bitship_clamped(int32_t v, int32_t cap) { return v < 0 ? 0 : v < cap ? v : cap; }

/* What a window op reads for an output region: a tensor of `rows` by `columns`, windows of `extent`. */
static inline struct bitship_region bitship_needed(struct bitship_region out, const int32_t stride[2],
                                                   const int32_t before[2], const int32_t extent[2],
                                                   int32_t rows, int32_t columns) {
    const struct bitship_region r = {
        bitship_clamped(out.top * stride[0] - before[0], rows),
        bitship_clamped((out.bottom - 1) * stride[0] - before[0] + extent[0], rows),
        bitship_clamped(out.left * stride[1] - before[1], columns),
        bitship_clamped((out.right - 1) * stride[1] - before[1] + extent[1], columns),
    };
    return r;
}

/* Copy the region `part` between a tensor that holds `whole` and dense rows of the part alone. */
static inline void bitship_cut(const uint8_t *from, struct bitship_region whole, struct bitship_region part,
                               int32_t pixel_bytes, uint8_t *to) {
    const int32_t pitch = (whole.right - whole.left) * pixel_bytes,
                  row = (part.right - part.left) * pixel_bytes;
    from += (part.top - whole.top) * pitch + (part.left - whole.left) * pixel_bytes;
    for (int32_t y = part.top; y < part.bottom; y++, from += pitch, to += row) {
        memcpy(to, from, (size_t)row);
    }
}

static inline void bitship_put(const uint8_t *from, struct bitship_region part, struct bitship_region whole,
                               int32_t pixel_bytes, uint8_t *to) {
    const int32_t pitch = (whole.right - whole.left) * pixel_bytes,
                  row = (part.right - part.left) * pixel_bytes;
    to += (part.top - whole.top) * pitch + (part.left - whole.left) * pixel_bytes;
    for (int32_t y = part.top; y < part.bottom; y++, from += row, to += pitch) {
        memcpy(to, from, (size_t)row);
    }
}

#endif
