/* rescale: requantization of rows of int32 lanes, single (half up, one rounding) and double (gemmlowp). */
#include "fixed.h"
#include "lanes.h"

/* SINGLE for any shift: the result may leave int32 before the clamp. */
static inline int32_t single_wide(int32_t v, int32_t m, int32_t down, const struct bitship_rescale *r) {
    int64_t y = ((int64_t)v * m + ((int64_t)1 << (down - 1))) >> down;
    y += r->output_zero_point;
    return (int32_t)(y < r->qmin ? r->qmin : y > r->qmax ? r->qmax : y);
}

/* DOUBLE with branches in place of masks. A tie below zero goes down: h - 1 rounds half up where h rounds
 * half away; h is above INT32_MIN because m is below 2^31. */
static inline int32_t twice_scalar(int32_t v, int32_t m, int32_t shift) {
    if (shift > 0) {
        v = (int32_t)((uint32_t)v << shift);
    }
    int32_t high = (int32_t)(uint32_t)((uint64_t)((int64_t)v * m + ((int64_t)1 << 30)) >> 31);
    if (shift < 0) {
        high -= high < 0;
        high = (high >> -shift) + ((high >> (-shift - 1)) & 1);
    }
    return high;
}

/* (v - zero_point) << pre_shift; the range proof says that this fits int32. */
static inline int32_t centre(int32_t v, int32_t zero_point, int32_t pre_shift) {
    return (int32_t)(((uint32_t)v - (uint32_t)zero_point) << pre_shift);
}

static inline void rescale_double(const struct bitship_rescale *r, const int32_t *m, const int8_t *s,
                                  int32_t step, int32_t lo, int32_t hi, int32_t n, int32_t *lanes) {
    const int32_t izp = r->input_zero_point, pre = r->pre_shift, ozp = r->output_zero_point;
    for (int32_t i = 0; i < n; i++) {
        const int32_t shift = s[i * step];
        int32_t v = centre(lanes[i], izp, pre);
        if (BITSHIP_SCALAR) {
            v = twice_scalar(v, m[i * step], shift);
        } else {
            const int32_t left = shift > 0 ? shift : 0, right = shift < 0 ? -shift : 0;
            v = bitship_twice((int32_t)((uint32_t)v << left), m[i * step], right);
        }
        lanes[i] = bitship_place(v, lo, hi, ozp);
    }
}

/* One factor is read before the loop: for all a compiler knows, a store to a lane could change it. */
static inline void rescale_single(const struct bitship_rescale *r, const int32_t *m, const int8_t *s,
                                  int32_t step, int32_t lo, int32_t hi, int32_t n, int32_t *lanes) {
    const int32_t izp = r->input_zero_point, pre = r->pre_shift, ozp = r->output_zero_point;
    if (step == 0) {
        const int32_t factor = m[0], down = 31 - s[0];
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = bitship_place(bitship_single(centre(lanes[i], izp, pre), factor, down), lo, hi, ozp);
        }
    } else {
        for (int32_t i = 0; i < n; i++) {
            lanes[i] =
                bitship_place(bitship_single(centre(lanes[i], izp, pre), m[i], 31 - s[i]), lo, hi, ozp);
        }
    }
}

static inline int32_t clamp_to_int32(int64_t v) {
    return v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : (int32_t)v;
}

static int any_left(const int8_t *s, int32_t step, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (s[i * step] > 0) {
            return 1;
        }
    }
    return 0;
}

BITSHIP_CLONES
void bitship_rescale_lanes(const struct bitship_rescale *r, int32_t channel, int32_t n, int32_t *lanes) {
    const int32_t step = r->count > 1;
    const int32_t *m = r->multiplier + channel * step;
    const int8_t *s = r->shift + channel * step;
    /* Bounds of y before the zero point is added, so that y + zero point stays inside int32. */
    const int64_t lo64 = (int64_t)r->qmin - r->output_zero_point,
                  hi64 = (int64_t)r->qmax - r->output_zero_point;
    const int32_t lo = clamp_to_int32(lo64), hi = clamp_to_int32(hi64);
    if (r->rounding == BITSHIP_SINGLE && any_left(s, step, step != 0 ? n : 1)) {
        for (int32_t i = 0; i < n; i++) {
            int32_t v = centre(lanes[i], r->input_zero_point, r->pre_shift);
            lanes[i] = single_wide(v, m[i * step], 31 - s[i * step], r);
        }
    } else if (lo64 > INT32_MAX || hi64 < INT32_MIN) { /* no int32 y reaches the range from the other side */
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = lo64 > INT32_MAX ? r->qmin : r->qmax;
        }
    } else if (r->rounding == BITSHIP_DOUBLE) {
        if (step != 0) {
            rescale_double(r, m, s, 1, lo, hi, n, lanes);
        } else {
            rescale_double(r, m, s, 0, lo, hi, n, lanes);
        }
    } else if (step != 0) {
        rescale_single(r, m, s, 1, lo, hi, n, lanes);
    } else {
        rescale_single(r, m, s, 0, lo, hi, n, lanes);
    }
}

/* SINGLE for shift <= -2: the rounding bit is in the high word, so the low word of the product never matters.
 */
static inline int32_t single_far(int32_t v, int32_t m, int32_t shift) {
    const int32_t high = (int32_t)(((int64_t)v * m) >> 32);
    return (high + ((int32_t)1 << (-2 - shift))) >> (-1 - shift);
}

/* DOUBLE for shift < 0. The high half is at most 2^31 - 2, so adding 1 to it, shifted or not, stays in int32.
 */
static inline int32_t twice_right(int32_t v, int32_t m, int32_t shift) {
    int32_t high = (int32_t)(uint32_t)((uint64_t)((int64_t)v * m + ((int64_t)1 << 30)) >> 31);
    high -= high < 0;
    return ((high >> (-1 - shift)) + 1) >> 1;
}

/* Any shift, any rounding, clamped. */
static int32_t one(const struct bitship_rescale *r, int32_t v, int32_t m, int32_t shift) {
    if (r->rounding == BITSHIP_SINGLE) {
        return single_wide(v, m, 31 - shift, r);
    }
    const int32_t zero_point = r->output_zero_point;
    return bitship_place(twice_scalar(v, m, shift), r->qmin - zero_point, r->qmax - zero_point, zero_point);
}

/* The common shifts leave |y| at most 2^30: the zero point can be added before the clamp. */
static inline void to_int8(const struct bitship_rescale *r, const int32_t *m, const int8_t *s, int32_t step,
                           int32_t n, const int32_t *lanes, int8_t *out) {
    const int32_t zero_point = r->output_zero_point, qmin = r->qmin, qmax = r->qmax;
    const int doubled = r->rounding == BITSHIP_DOUBLE;
    for (const int32_t *const end = lanes + n; lanes != end; lanes++, m += step, s += step) {
        const int32_t shift = *s;
        int32_t y;
        if (doubled && shift < 0) {
            y = twice_right(*lanes, *m, shift) + zero_point;
        } else if (!doubled && shift <= -2) {
            y = single_far(*lanes, *m, shift) + zero_point;
        } else {
            y = one(r, *lanes, *m, shift);
        }
        y = y < qmin ? qmin : y;
        *out++ = (int8_t)(y > qmax ? qmax : y);
    }
}

/* single_far for one factor of all lanes. */
static void to_int8_far(const struct bitship_rescale *r, int32_t n, const int32_t *lanes, int8_t *out) {
    const int32_t m = r->multiplier[0], down = -1 - r->shift[0], half = (int32_t)1 << (down - 1);
    const int32_t zero_point = r->output_zero_point, qmin = r->qmin, qmax = r->qmax;
    for (const int32_t *const end = lanes + n; lanes != end; lanes++) {
        int32_t y = (((int32_t)(((int64_t)*lanes * m) >> 32) + half) >> down) + zero_point;
        y = y < qmin ? qmin : y;
        *out++ = (int8_t)(y > qmax ? qmax : y);
    }
}

void bitship_rescale_to_int8(const struct bitship_rescale *r, int32_t channel, int32_t n,
                             const int32_t *lanes, int8_t *out) {
    if (r->count > 1) {
        to_int8(r, r->multiplier + channel, r->shift + channel, 1, n, lanes, out);
    } else if (r->rounding == BITSHIP_SINGLE && r->shift[0] <= -2) {
        to_int8_far(r, n, lanes, out);
    } else {
        to_int8(r, r->multiplier, r->shift, 0, n, lanes, out);
    }
}

int bitship_check_rescale(const struct bitship_rescale *r, int32_t channels) {
    if (r == NULL) {
        return BITSHIP_OK;
    }
    if (r->multiplier == NULL || r->shift == NULL || (r->count != 1 && r->count != channels) ||
        r->qmin > r->qmax || r->pre_shift < 0 || r->pre_shift > 31) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (r->rounding != BITSHIP_SINGLE && r->rounding != BITSHIP_DOUBLE) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    return bitship_item_bytes(r->dtype) == 0 ? BITSHIP_ERROR_UNSUPPORTED : BITSHIP_OK;
}

int bitship_rescale(const struct bitship_rescale_op *p, const void *x, void *out) {
    int32_t lanes[BITSHIP_LANES];
    if (p == NULL || x == NULL || out == NULL || p->requant == NULL || p->rows < 1 || p->channels < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    int error = bitship_check_rescale(p->requant, p->channels);
    if (error != BITSHIP_OK) {
        return error;
    }
    if (bitship_item_bytes(p->x_dtype) == 0) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    const int per_channel = p->requant->count > 1;
    const int32_t rows = per_channel ? p->rows : 1;
    const int32_t row = per_channel ? p->channels : p->rows * p->channels;
    for (int32_t y = 0; y < rows; y++) {
        for (int32_t c = 0; c < row; c += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, row - c);
            const ptrdiff_t at = (ptrdiff_t)y * row + c;
            bitship_load(bitship_at(x, p->x_dtype, at), p->x_dtype, 1, n, lanes);
            bitship_finish(p->requant, per_channel ? c : 0, n, lanes,
                           bitship_at_out(out, p->requant->dtype, at));
        }
    }
    return BITSHIP_OK;
}
