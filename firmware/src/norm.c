/* layer_norm, rms_norm, i_layer_norm: exact sums, one root and one division per row, then two multiplies and
 * two shifts per element. */
#include "lanes.h"

#define CHANNELS_MAX (1 << 22) /* z would leave int32 */
#define BLOCK 64               /* elements between the two passes of a row */

/* z of an element q of the row is a function of y = q * scale + offset:
 *   UPPER  ((y * factor + 2^31) >> 32)            Q20, y shifted up so that the upper word is the result
 *   BEYOND ((y * factor + 2^(down - 1)) >> down)  Q20, down above 32: the result is in the upper word
 *   LONG   the same, Q20, any down, for rows too long to shift y up
 *   IVIT   (y * factor) >> 1, which fits int32: |y| <= the root, factor <= 2^31 / root */
enum form { UPPER, BEYOND, LONG, IVIT };
struct row {
    enum form form;
    uint32_t scale;
    uint32_t offset;
    int32_t factor;
    int32_t down;
};

struct sums {
    int64_t total;
    int64_t squares;
};

/* Squares of int8 fit 32 bits for 2^16 elements. */
BITSHIP_CLONES
static struct sums sums_of_bytes(const int8_t *x, int32_t n) {
    struct sums s = {0, 0};
    for (int32_t from = 0; from < n; from += 1 << 16) {
        const int32_t to = bitship_min(n - from, 1 << 16);
        int32_t total = 0, squares = 0;
        BITSHIP_UNROLL_4 for (int32_t i = 0; i < to; i++) {
            total += x[from + i];
            squares += x[from + i] * x[from + i];
        }
        s.total += total;
        s.squares += squares;
    }
    return s;
}

BITSHIP_CLONES
static struct sums sums_of_words(const int16_t *x, int32_t n) {
    struct sums s = {0, 0};
    for (int32_t from = 0; from < n; from += 1 << 16) {
        const int32_t to = bitship_min(n - from, 1 << 16);
        int32_t total = 0;
        int64_t squares = 0;
        BITSHIP_UNROLL_4 for (int32_t i = 0; i < to; i++) {
            total += x[from + i];
            squares += x[from + i] * x[from + i];
        }
        s.total += total;
        s.squares += squares;
    }
    return s;
}

static struct sums sums_of(const struct bitship_norm *p, const void *x) {
    return p->x_dtype == BITSHIP_INT8 ? sums_of_bytes((const int8_t *)x, p->channels)
                                      : sums_of_words((const int16_t *)x, p->channels);
}

static int32_t bit_length(uint64_t x) {
    int32_t n = 0;
    for (int32_t step = 32; step > 0; step >>= 1) {
        if (x >> step != 0) {
            x >>= step;
            n += step;
        }
    }
    return n + (x != 0);
}

/* floor(sqrt(x)) of a number of 61 or 62 bits, a bit at a time. */
static uint32_t root(uint64_t x) {
    uint64_t rest = x, bit = (uint64_t)1 << 60, found = 0;
    for (; bit != 0; bit >>= 2) {
        const uint64_t trial = found + bit;
        found >>= 1;
        if (rest >= trial) {
            rest -= trial;
            found += bit;
        }
    }
    return (uint32_t)found;
}

/* The row whose y is channels * q - offset and whose w is C^2 times its variance. y shifted up by 32 - down
 * stays below 2^23 * sqrt(C). */
static struct row normalise(const struct bitship_norm *p, int64_t w, int64_t offset) {
    const int64_t v = w + p->epsilon;
    const uint64_t radicand = v < 1 ? 1 : (uint64_t)v;
    const int32_t t = (62 - bit_length(radicand)) >> 1, down = 40 - t;
    const int upper = down <= 32 && p->channels < 65025;
    const int32_t up = upper ? 32 - down : 0;
    const struct row r = {
        .form = upper       ? UPPER
                : down > 32 ? BEYOND
                            : LONG,
        .scale = (uint32_t)p->channels << up,
        .offset = 0u - (uint32_t)((uint64_t)offset << up),
        .factor = (int32_t)(((uint64_t)1 << 60) / root(radicand << (2 * t))),
        .down = down,
    };
    return r;
}

static struct row layer_norm(const struct bitship_norm *p, const void *x) {
    const struct sums s = sums_of(p, x);
    return normalise(p, p->channels * s.squares - s.total * s.total, s.total);
}

static struct row rms_norm(const struct bitship_norm *p, const void *x) {
    const struct sums s = sums_of(p, x);
    const int64_t zero_point = p->input_zero_point, offset = p->channels * zero_point;
    return normalise(p, p->channels * (s.squares - 2 * zero_point * s.total + offset * zero_point), offset);
}

/* Mean rounded half to even, then ten Newton steps; a step that changes nothing is followed by none that
 * does. */
static struct row i_layer_norm(const struct bitship_norm *p, const void *x) {
    const struct sums s = sums_of(p, x);
    const int32_t c = p->channels;
    int32_t mean = (int32_t)(s.total / c), rest = (int32_t)(s.total % c);
    if (rest < 0) {
        mean--;
        rest += c;
    }
    mean += 2 * rest > c || (2 * rest == c && (mean & 1) != 0);
    const uint64_t v = (uint64_t)(s.squares - 2 * mean * s.total + (int64_t)mean * mean * c);
    uint64_t k = (uint64_t)1 << 16, next = k;
    for (int i = 0; i < 10; i++) {
        next = (k + (v > UINT32_MAX || k > UINT32_MAX ? v / k : (uint32_t)v / (uint32_t)k)) >> 1;
        if (next == k) {
            break;
        }
        k = next;
    }
    const struct row r = {
        .form = IVIT,
        .scale = 1,
        .offset = 0u - (uint32_t)mean,
        .factor = (int32_t)(INT32_MAX / next),
        .down = 1,
    };
    return r;
}

/* z of n elements; `wide` and `form` are constants where this is called. */
static inline void z_of(const struct row *r, const void *x, int wide, enum form form, int32_t n, int32_t *z) {
    const int8_t *x8 = (const int8_t *)x;
    const int16_t *x16 = (const int16_t *)x;
    const uint32_t scale = r->scale, offset = r->offset;
    const int32_t factor = r->factor, down = r->down, half = (int32_t)1 << (form == BEYOND ? down - 33 : 0);
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
        const int32_t q = wide ? x16[i] : x8[i];
        if (form == UPPER) {
            const int32_t y = (int32_t)((uint32_t)q * scale + offset);
            z[i] = (int32_t)(uint32_t)((uint64_t)((int64_t)y * factor + ((int64_t)1 << 31)) >> 32);
        } else if (form == BEYOND) {
            const int32_t y = (int32_t)((uint32_t)q * scale + offset);
            z[i] = ((int32_t)(((int64_t)y * factor) >> 32) + half) >> (down - 32);
        } else if (form == LONG) {
            const int32_t y = (int32_t)((uint32_t)q * scale + offset);
            z[i] = (int32_t)(((int64_t)y * factor + ((int64_t)1 << (down - 1))) >> down);
        } else {
            z[i] = (int32_t)(((uint32_t)q + offset) * (uint32_t)factor) >> 1;
        }
    }
}

BITSHIP_CLONES BITSHIP_APART static void to_z(const struct row *r, const void *x, int32_t dtype, int32_t n,
                                              int32_t *z) {
    const int wide = dtype == BITSHIP_INT16;
    if (r->form == UPPER && wide) {
        z_of(r, x, 1, UPPER, n, z);
    } else if (r->form == UPPER) {
        z_of(r, x, 0, UPPER, n, z);
    } else if (r->form == BEYOND && wide) {
        z_of(r, x, 1, BEYOND, n, z);
    } else if (r->form == BEYOND || r->form == LONG) {
        z_of(r, x, wide, LONG, n, z);
    } else if (wide) {
        z_of(r, x, 1, IVIT, n, z);
    } else {
        z_of(r, x, 0, IVIT, n, z);
    }
}

static inline int32_t clamped(int64_t y, int32_t lo, int32_t hi) {
    return (int32_t)(y < lo ? lo : y > hi ? hi : y);
}

/* out[i] = the affine of z[i]. From shift 33 on, the rounding bit and the result are in the upper word of the
 * sum z * multiplier + (bias << (shift - 16)); up to 47, a part of the bias is in the lower one. */
static inline void affine_of(const struct bitship_norm *p, const int32_t *z, const int32_t *multiplier,
                             const int32_t *bias, int near, int wide, int32_t n, void *out) {
    const int32_t shift = p->shift, zero_point = p->output_zero_point, lo = p->qmin - zero_point,
                  hi = p->qmax - zero_point, half = (int32_t)1 << (shift - 33), down = shift - 32;
    int8_t *out8 = (int8_t *)out;
    int16_t *out16 = (int16_t *)out;
    for (int32_t i = 0; i < n; i++) {
        const uint32_t v = (uint32_t)bias[i];
        uint64_t b = (uint64_t)(int64_t)bias[i] << (shift - 16);
        if (BITSHIP_SCALAR && near) { /* the same by two shifts of a word */
            b = (uint64_t)(uint32_t)(bias[i] >> (48 - shift)) << 32 | v << (shift - 16);
        } else if (BITSHIP_SCALAR) {
            b = (uint64_t)(v << (shift - 48)) << 32;
        }
        const uint64_t sum = (uint64_t)((int64_t)z[i] * multiplier[i]) + b;
        const int32_t y = ((int32_t)(uint32_t)(sum >> 32) + half) >> down;
        const int32_t placed = (y < lo ? lo : y > hi ? hi : y) + zero_point;
        if (wide) {
            out16[i] = (int16_t)placed;
        } else {
            out8[i] = (int8_t)placed;
        }
    }
}

/* Any shift, with no word of the sum left out. */
static void affine_by_64_bits(const struct bitship_norm *p, const int32_t *z, const int32_t *multiplier,
                              const int32_t *bias, int32_t n, void *out) {
    const int32_t shift = p->shift, zero_point = p->output_zero_point, lo = p->qmin - zero_point,
                  hi = p->qmax - zero_point;
    int8_t *out8 = (int8_t *)out;
    int16_t *out16 = (int16_t *)out;
    for (int32_t i = 0; i < n; i++) {
        const int64_t sum = (int64_t)z[i] * multiplier[i] +
                            (int64_t)((uint64_t)(int64_t)bias[i] << (shift - 16)) +
                            ((int64_t)1 << (shift - 1));
        const int32_t y = clamped(sum >> shift, lo, hi) + zero_point;
        if (p->out_dtype == BITSHIP_INT16) {
            out16[i] = (int16_t)y;
        } else {
            out8[i] = (int8_t)y;
        }
    }
}

BITSHIP_CLONES BITSHIP_APART static void affine(const struct bitship_norm *p, const int32_t *z,
                                                const int32_t *multiplier, const int32_t *bias, int32_t n,
                                                void *out) {
    const int wide = p->out_dtype == BITSHIP_INT16;
    if (p->shift <= 32) {
        affine_by_64_bits(p, z, multiplier, bias, n, out);
    } else if (p->shift < 48 && wide) {
        affine_of(p, z, multiplier, bias, 1, 1, n, out);
    } else if (p->shift < 48) {
        affine_of(p, z, multiplier, bias, 1, 0, n, out);
    } else {
        affine_of(p, z, multiplier, bias, 0, wide, n, out);
    }
}

static int check(const struct bitship_norm *p, const void *x, const int32_t *multiplier, const int32_t *bias,
                 const void *out) {
    if (p == NULL || x == NULL || multiplier == NULL || bias == NULL || out == NULL || p->rows < 1 ||
        p->channels < 1 || p->channels > CHANNELS_MAX || p->period < 1 || p->channels % p->period != 0 ||
        p->shift < 16 || p->shift > 62 || p->epsilon < 0 || p->epsilon >> 61 != 0 || p->qmin > p->qmax) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if ((p->x_dtype != BITSHIP_INT8 && p->x_dtype != BITSHIP_INT16) ||
        (p->out_dtype != BITSHIP_INT8 && p->out_dtype != BITSHIP_INT16)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    return p->output_zero_point >= INT16_MIN && p->output_zero_point <= INT16_MAX ? BITSHIP_OK
                                                                                  : BITSHIP_ERROR_ARGUMENT;
}

static int norm(struct row (*statistics)(const struct bitship_norm *, const void *),
                const struct bitship_norm *p, const void *x, const int32_t *multiplier, const int32_t *bias,
                void *out) {
    int32_t z[BLOCK];
    const int error = check(p, x, multiplier, bias, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    ptrdiff_t at = 0;
    for (int32_t i = 0; i < p->rows; i++) {
        const struct row r = statistics(p, bitship_at(x, p->x_dtype, at));
        for (int32_t c = 0, channel = 0; c < p->channels;) {
            const int32_t n = bitship_min(BLOCK, p->period - channel);
            to_z(&r, bitship_at(x, p->x_dtype, at), p->x_dtype, n, z);
            affine(p, z, multiplier + channel, bias + channel, n, bitship_at_out(out, p->out_dtype, at));
            at += n;
            c += n;
            channel = channel + n == p->period ? 0 : channel + n;
        }
    }
    return BITSHIP_OK;
}

int bitship_layer_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                       const int32_t *bias, void *out) {
    return norm(layer_norm, p, x, multiplier, bias, out);
}

int bitship_rms_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                     const int32_t *bias, void *out) {
    return norm(rms_norm, p, x, multiplier, bias, out);
}

int bitship_i_layer_norm(const struct bitship_norm *p, const void *x, const int32_t *multiplier,
                         const int32_t *bias, void *out) {
    return norm(i_layer_norm, p, x, multiplier, bias, out);
}
