/* add, sub and mul with broadcasting; clamp, cast, table and the shifts. */
#include "lanes.h"

enum operation { ADD, SUB, MUL };

/* lanes of one operand: loaded, then rescaled to int32 (add, sub) or centred (mul). */
static void term(const void *x, int32_t dtype, int32_t step, int32_t n, const struct bitship_rescale *r,
                 int32_t zero_point, int32_t *lanes) {
    bitship_load(x, dtype, step, n, lanes);
    if (r != NULL) {
        bitship_rescale_lanes(r, 0, n, lanes);
    } else if (zero_point != 0) {
        for (int32_t i = 0; i < n; i++) {
            lanes[i] -= zero_point;
        }
    }
}

/* a[i] = a[i] op b[i] */
BITSHIP_CLONES
static void combine(enum operation op, int32_t n, int32_t *a, const int32_t *b) {
    if (op == ADD) {
        for (int32_t i = 0; i < n; i++) {
            a[i] += b[i];
        }
    } else if (op == SUB) {
        for (int32_t i = 0; i < n; i++) {
            a[i] -= b[i];
        }
    } else {
        for (int32_t i = 0; i < n; i++) {
            a[i] *= b[i];
        }
    }
}

static int check(const struct bitship_binary *p, const void *a, const void *b, const void *out) {
    if (p == NULL || a == NULL || b == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    for (int i = 0; i < 6; i++) {
        if (p->shape[i] < 1) {
            return BITSHIP_ERROR_ARGUMENT;
        }
    }
    if (!bitship_is_number(p->a_dtype) || !bitship_is_number(p->b_dtype)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    const struct bitship_rescale *sides[2] = {p->rescale_a, p->rescale_b};
    for (int i = 0; i < 2; i++) {
        const int error = bitship_check_rescale(sides[i], 1);
        if (error != BITSHIP_OK) {
            return error;
        }
        if (sides[i] != NULL && sides[i]->dtype != BITSHIP_INT32) {
            return BITSHIP_ERROR_UNSUPPORTED;
        }
    }
    return bitship_check_rescale(p->requant, p->shape[5]);
}

static int binary(enum operation op, const struct bitship_binary *p, const void *a, const void *b,
                  void *out) {
    int32_t left[BITSHIP_LANES], right[BITSHIP_LANES], index[5] = {0, 0, 0, 0, 0},
                                                       index_b[5] = {0, 0, 0, 0, 0};
    const int error = check(p, a, b, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    const int32_t row = p->shape[5], dtype = bitship_finish_dtype(p->requant);
    const int32_t azp = op == MUL ? p->a_zero_point : 0, bzp = op == MUL ? p->b_zero_point : 0;
    const struct bitship_rescale *ra = op == MUL ? NULL : p->rescale_a, *rb = op == MUL ? NULL : p->rescale_b;
    ptrdiff_t from_a = 0, from_b = 0, to = 0;
    do {
        for (int32_t i = 0; i < row; i += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, row - i);
            const void *pa = bitship_at(a, p->a_dtype, from_a + (ptrdiff_t)i * p->a_step[5]);
            const void *pb = bitship_at(b, p->b_dtype, from_b + (ptrdiff_t)i * p->b_step[5]);
            term(pa, p->a_dtype, p->a_step[5], n, ra, azp, left);
            term(pb, p->b_dtype, p->b_step[5], n, rb, bzp, right);
            combine(op, n, left, right);
            bitship_finish(p->requant, i, n, left, bitship_at_out(out, dtype, to + i));
        }
        to += row;
        (void)bitship_next(p->shape, 5, index_b, p->b_step, &from_b);
    } while (bitship_next(p->shape, 5, index, p->a_step, &from_a));
    return BITSHIP_OK;
}

int bitship_add(const struct bitship_binary *p, const void *a, const void *b, void *out) {
    return binary(ADD, p, a, b, out);
}

int bitship_sub(const struct bitship_binary *p, const void *a, const void *b, void *out) {
    return binary(SUB, p, a, b, out);
}

int bitship_mul(const struct bitship_binary *p, const void *a, const void *b, void *out) {
    return binary(MUL, p, a, b, out);
}

enum change { CLAMP, CAST, LEFT, RIGHT };

/* One block of a unary op, in place. */
BITSHIP_CLONES
static void change(enum change op, const struct bitship_unary *p, int32_t n, int32_t *lanes) {
    const int32_t amount = p->amount;
    const int64_t half = p->half_up != 0 ? ((int64_t)1 << amount) >> 1 : 0;
    if (op == CLAMP) {
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = bitship_min(bitship_max(lanes[i], p->qmin), p->qmax);
        }
    } else if (op == LEFT) {
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = (int32_t)((uint32_t)lanes[i] << amount);
        }
    } else if (op == RIGHT) {
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = (int32_t)(((int64_t)lanes[i] + half) >> amount);
        }
    }
}

static int unary(enum change op, const struct bitship_unary *p, const void *x, void *out) {
    int32_t lanes[BITSHIP_LANES];
    if (p == NULL || x == NULL || out == NULL || p->size < 1 || p->amount < 0 || p->amount > 31 ||
        p->qmin > p->qmax) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t out_dtype = op == CAST ? p->out_dtype : p->x_dtype;
    if (bitship_item_bytes(p->x_dtype) == 0 || bitship_item_bytes(out_dtype) == 0 ||
        (op == LEFT && p->x_dtype != BITSHIP_INT32) || (op == RIGHT && !bitship_is_number(p->x_dtype))) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    for (int32_t i = 0; i < p->size; i += BITSHIP_LANES) {
        const int32_t n = bitship_min(BITSHIP_LANES, p->size - i);
        bitship_load(bitship_at(x, p->x_dtype, i), p->x_dtype, 1, n, lanes);
        change(op, p, n, lanes);
        bitship_store(lanes, n, out_dtype, bitship_at_out(out, out_dtype, i));
    }
    return BITSHIP_OK;
}

int bitship_clamp(const struct bitship_unary *p, const void *x, void *out) { return unary(CLAMP, p, x, out); }

int bitship_cast(const struct bitship_unary *p, const void *x, void *out) { return unary(CAST, p, x, out); }

int bitship_logical_left_shift(const struct bitship_unary *p, const void *x, void *out) {
    return unary(LEFT, p, x, out);
}

int bitship_arithmetic_right_shift(const struct bitship_unary *p, const void *x, void *out) {
    return unary(RIGHT, p, x, out);
}

/* TOSA's interpolation, its fraction rounded off. */
BITSHIP_CLONES
static void interpolate(const int16_t *x, const int16_t *table, int32_t n, int16_t *out) {
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
        const int16_t *at = table + ((x[i] + 32768) >> 7);
        out[i] = (int16_t)((at[0] * 128 + (at[1] - at[0]) * (x[i] & 127) + 64) >> 7);
    }
}

int bitship_table(const struct bitship_unary *p, const void *x, const void *table, void *out) {
    if (p == NULL || x == NULL || table == NULL || out == NULL || p->size < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t n = p->size; /* read once: for all a compiler knows, a store to out could change it */
    const int8_t *from = (const int8_t *)x;
    if (p->x_dtype == BITSHIP_INT16 && p->out_dtype == BITSHIP_INT16) {
        interpolate((const int16_t *)x, (const int16_t *)table, n, (int16_t *)out);
    } else if (p->x_dtype == BITSHIP_INT8 && p->out_dtype == BITSHIP_INT8) {
        const int8_t *t = (const int8_t *)table + 128;
        int8_t *to = (int8_t *)out;
        BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) { to[i] = t[from[i]]; }
    } else if (p->x_dtype == BITSHIP_INT8 && p->out_dtype == BITSHIP_INT16) {
        const int16_t *t = (const int16_t *)table + 128;
        int16_t *to = (int16_t *)out;
        BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) { to[i] = t[from[i]]; }
    } else {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    return BITSHIP_OK;
}
