/* reduce_sum, reduce_max, reduce_min, reduce_any over any axes, and argmax. */
#include "lanes.h"

/* acc[i] = acc[i] combined with lanes[i]. */
BITSHIP_CLONES
static void combine(int32_t reduction, int32_t n, int32_t zero_point, const int32_t *lanes, int32_t *acc) {
    switch (reduction) {
    case BITSHIP_REDUCE_SUM:
        for (int32_t i = 0; i < n; i++) {
            acc[i] += lanes[i] - zero_point;
        }
        break;
    case BITSHIP_REDUCE_MIN:
        for (int32_t i = 0; i < n; i++) {
            acc[i] = bitship_min(acc[i], lanes[i]);
        }
        break;
    default: /* BITSHIP_REDUCE_MAX; any is the maximum of 0 and 1 */
        for (int32_t i = 0; i < n; i++) {
            acc[i] = bitship_max(acc[i], lanes[i]);
        }
        break;
    }
}

/* All lanes folded into acc[0], for a reduction along the last axis. */
static void fold(int32_t reduction, int32_t n, int32_t zero_point, const int32_t *lanes, int32_t *acc) {
    for (int32_t i = 0; i < n; i++) {
        combine(reduction, 1, zero_point, lanes + i, acc);
    }
}

static int32_t start(int32_t reduction) {
    switch (reduction) {
    case BITSHIP_REDUCE_MAX:
        return INT32_MIN;
    case BITSHIP_REDUCE_MIN:
        return INT32_MAX;
    default:
        return 0;
    }
}

static int check(const struct bitship_reduce *p, const void *x, const void *out) {
    if (p == NULL || x == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    for (int i = 0; i < 6; i++) {
        if (p->shape[i] < 1) {
            return BITSHIP_ERROR_ARGUMENT;
        }
    }
    if (p->reduction == BITSHIP_REDUCE_ANY ? p->x_dtype != BITSHIP_BOOL : !bitship_is_number(p->x_dtype)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    if (p->requant != NULL && p->reduction != BITSHIP_REDUCE_SUM) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    return bitship_check_rescale(p->requant, p->reduced[5] != 0 ? 1 : p->shape[5]);
}

/* acc[n]: every reduced element below base, for lanes from `first` on of the last axis. */
static void collect(const struct bitship_reduce *p, const void *x, const int32_t *step, ptrdiff_t base,
                    int32_t first, int32_t n, int32_t *acc) {
    int32_t lanes[BITSHIP_LANES], inner[5], index[5] = {0, 0, 0, 0, 0};
    const int last = p->reduced[5] != 0;
    for (int i = 0; i < 5; i++) {
        inner[i] = p->reduced[i] != 0 ? p->shape[i] : 1;
    }
    for (int32_t i = 0; i < n; i++) {
        acc[i] = start(p->reduction);
    }
    ptrdiff_t at = 0;
    do {
        if (!last) {
            bitship_load(bitship_at(x, p->x_dtype, base + at + first), p->x_dtype, 1, n, lanes);
            combine(p->reduction, n, p->input_zero_point, lanes, acc);
            continue;
        }
        for (int32_t c = 0; c < p->shape[5]; c += BITSHIP_LANES) {
            const int32_t m = bitship_min(BITSHIP_LANES, p->shape[5] - c);
            bitship_load(bitship_at(x, p->x_dtype, base + at + c), p->x_dtype, 1, m, lanes);
            fold(p->reduction, m, p->input_zero_point, lanes, acc);
        }
    } while (bitship_next(inner, 5, index, step, &at));
}

int bitship_reduce(const struct bitship_reduce *p, const void *x, void *out) {
    int32_t acc[BITSHIP_LANES], step[6], outer[5], index[5] = {0, 0, 0, 0, 0};
    const int error = check(p, x, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    step[5] = 1;
    for (int i = 4; i >= 0; i--) {
        step[i] = step[i + 1] * p->shape[i + 1];
        outer[i] = p->reduced[i] != 0 ? 1 : p->shape[i];
    }
    const int32_t kept = p->reduced[5] != 0 ? 1 : p->shape[5];
    const int32_t dtype = p->reduction == BITSHIP_REDUCE_SUM ? bitship_finish_dtype(p->requant) : p->x_dtype;
    ptrdiff_t base = 0, to = 0;
    do {
        for (int32_t c = 0; c < kept; c += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, kept - c);
            collect(p, x, step, base, c, n, acc);
            if (p->reduction == BITSHIP_REDUCE_SUM) {
                bitship_finish(p->requant, c, n, acc, bitship_at_out(out, dtype, to));
            } else {
                bitship_store(acc, n, dtype, bitship_at_out(out, dtype, to));
            }
            to += n;
        }
    } while (bitship_next(outer, 5, index, step, &base));
    return BITSHIP_OK;
}

int bitship_argmax(const struct bitship_argmax *p, const void *x, void *out) {
    if (p == NULL || x == NULL || out == NULL || p->outer < 1 || p->extent < 1 || p->inner < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (!bitship_is_number(p->x_dtype)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    int32_t *to = (int32_t *)out;
    for (int32_t o = 0; o < p->outer; o++) {
        for (int32_t i = 0; i < p->inner; i++) {
            int32_t best = 0, best_value = INT32_MIN, value;
            for (int32_t k = 0; k < p->extent; k++) {
                const ptrdiff_t at = ((ptrdiff_t)o * p->extent + k) * p->inner + i;
                bitship_load(bitship_at(x, p->x_dtype, at), p->x_dtype, 1, 1, &value);
                if (value > best_value) {
                    best_value = value;
                    best = k;
                }
            }
            *to++ = best;
        }
    }
    return BITSHIP_OK;
}
