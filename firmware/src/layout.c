/* pad, concat, slice, reshape, transpose and gather: elements are moved by size, never interpreted. */
#include "lanes.h"

#include <string.h>

static int is_item(int32_t bytes) { return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8; }

/* n elements `step` elements apart into consecutive ones. */
static inline void copy_apart(const uint8_t *x, int32_t item, int32_t step, int32_t n, uint8_t *out) {
    const ptrdiff_t apart = (ptrdiff_t)item * step;
    if (item == 1) {
        for (int32_t i = 0; i < n; i++) {
            out[i] = x[i * apart];
        }
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        memcpy(out + (ptrdiff_t)i * item, x + i * apart, (size_t)item);
    }
}

static int strided(const struct bitship_strided *p, const void *x, void *out) {
    int32_t index[5] = {0, 0, 0, 0, 0};
    if (p == NULL || x == NULL || out == NULL || !is_item(p->item_bytes)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    for (int i = 0; i < 6; i++) {
        if (p->shape[i] < 1) {
            return BITSHIP_ERROR_ARGUMENT;
        }
    }
    const int32_t n = p->shape[5], item = p->item_bytes;
    ptrdiff_t at = p->offset;
    uint8_t *to = (uint8_t *)out;
    do {
        const uint8_t *from = (const uint8_t *)x + at * item;
        if (p->step[5] == 1) {
            memmove(to, from, (size_t)n * (size_t)item); /* out may lie over x, see calls/sharing.py */
        } else {
            copy_apart(from, item, p->step[5], n, to);
        }
        to += (ptrdiff_t)n * item;
    } while (bitship_next(p->shape, 5, index, p->step, &at));
    return BITSHIP_OK;
}

int bitship_slice(const struct bitship_strided *p, const void *x, void *out) { return strided(p, x, out); }

int bitship_transpose(const struct bitship_strided *p, const void *x, void *out) {
    return strided(p, x, out);
}

/* n elements of the padding value. */
static void fill(int32_t value, int32_t item, int32_t n, uint8_t *out) {
    const int64_t wide = value;
    const int16_t half = (int16_t)value;
    if (item == 1) {
        memset(out, value & 0xff, (size_t)n);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        if (item == 2) {
            memcpy(out + (ptrdiff_t)i * item, &half, 2);
        } else if (item == 4) {
            memcpy(out + (ptrdiff_t)i * item, &value, 4);
        } else {
            memcpy(out + (ptrdiff_t)i * item, &wide, 8);
        }
    }
}

int bitship_pad(const struct bitship_pad *p, const void *x, void *out) {
    int32_t shape[5], index[5] = {0, 0, 0, 0, 0};
    const int32_t none[5] = {0, 0, 0, 0, 0};
    if (p == NULL || x == NULL || out == NULL || !is_item(p->item_bytes)) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    for (int i = 0; i < 6; i++) {
        if (p->shape[i] < 1 || p->before[i] < 0 || p->after[i] < 0) {
            return BITSHIP_ERROR_ARGUMENT;
        }
        if (i < 5) {
            shape[i] = p->shape[i] + p->before[i] + p->after[i];
        }
    }
    const int32_t item = p->item_bytes, n = p->shape[5], before = p->before[5], after = p->after[5];
    const uint8_t *from = (const uint8_t *)x; /* rows of x are met in order */
    uint8_t *to = (uint8_t *)out;
    ptrdiff_t unused = 0;
    do {
        int inside = 1;
        for (int i = 0; i < 5; i++) {
            inside &= index[i] >= p->before[i] && index[i] < p->before[i] + p->shape[i];
        }
        if (inside) {
            fill(p->value, item, before, to);
            memmove(to + (ptrdiff_t)before * item, from, (size_t)n * (size_t)item);
            fill(p->value, item, after, to + (ptrdiff_t)(before + n) * item);
            from += (ptrdiff_t)n * item;
        } else {
            fill(p->value, item, before + n + after, to);
        }
        to += (ptrdiff_t)(before + n + after) * item;
    } while (bitship_next(shape, 5, index, none, &unused));
    return BITSHIP_OK;
}

int bitship_concat(const struct bitship_concat *p, const void *x, void *out) {
    if (p == NULL || x == NULL || out == NULL || p->outer < 1 || p->run_bytes < 1 ||
        p->out_offset_bytes < 0 || p->out_step_bytes < p->run_bytes) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const uint8_t *from = (const uint8_t *)x;
    uint8_t *to = (uint8_t *)out + p->out_offset_bytes;
    for (int32_t i = 0; i < p->outer; i++) {
        memcpy(to + (ptrdiff_t)i * p->out_step_bytes, from + (ptrdiff_t)i * p->run_bytes,
               (size_t)p->run_bytes);
    }
    return BITSHIP_OK;
}

int bitship_reshape(const struct bitship_copy *p, const void *x, void *out) {
    if (p == NULL || x == NULL || out == NULL || p->bytes < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (x != out) {
        memmove(out, x, (size_t)p->bytes);
    }
    return BITSHIP_OK;
}

int bitship_gather(const struct bitship_gather *p, const void *x, const int32_t *indices, void *out) {
    if (p == NULL || x == NULL || indices == NULL || out == NULL || p->outer < 1 || p->extent < 1 ||
        p->count < 1 || p->inner_bytes < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const uint8_t *from = (const uint8_t *)x;
    uint8_t *to = (uint8_t *)out;
    for (int32_t o = 0; o < p->outer; o++) {
        for (int32_t i = 0; i < p->count; i++) {
            const int32_t k = bitship_min(bitship_max(indices[i], 0), p->extent - 1);
            memcpy(to, from + ((ptrdiff_t)o * p->extent + k) * p->inner_bytes, (size_t)p->inner_bytes);
            to += p->inner_bytes;
        }
    }
    return BITSHIP_OK;
}
