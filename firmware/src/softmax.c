/* softmax: fixed point over the last axis; the exponentials come from a table, the reciprocal from Newton
 * steps. */
#include "lanes.h"

#define CHANNELS_MAX 4095

/* Rounded high half of 2ab, saturated. */
static int32_t high_mul(int32_t a, int32_t b) {
    const int64_t y = ((int64_t)a * b + ((int64_t)1 << 30)) >> 31;
    return y > INT32_MAX ? INT32_MAX : (int32_t)y;
}

/* x / 2^amount, half away from zero; amount 0..62. */
static int64_t rounding_shift(int64_t x, int32_t amount) {
    const int64_t mask = ((int64_t)1 << amount) - 1;
    return (x >> amount) + ((x & mask) > (mask >> 1) + (x < 0));
}

static int32_t saturating_left(int32_t x, int amount) {
    const int64_t y = (int64_t)x * ((int64_t)1 << amount);
    return y > INT32_MAX ? INT32_MAX : y < INT32_MIN ? INT32_MIN : (int32_t)y;
}

/* 1 / mantissa of total, Q0.31; total in [1, 2^31) is mantissa * 2^-headroom with bit 31 set. */
static int32_t reciprocal(uint32_t total, int32_t *headroom) {
    *headroom = 0;
    while ((total & 0x80000000u) == 0) {
        total <<= 1;
        (*headroom)++;
    }
    const int64_t sum = (int64_t)(total - 0x80000000u) + INT32_MAX;
    const int32_t denominator = (int32_t)((sum + 1) >> 1);
    int32_t x = 1515870810 + high_mul(denominator, -1010580540); /* 48/17 - 32/17 d, Q2.29 */
    for (int i = 0; i < 3; i++) {
        const int32_t one_minus = ((int32_t)1 << 29) - high_mul(denominator, x);
        x += saturating_left(high_mul(x, one_minus), 2);
    }
    return saturating_left(x, 1);
}

int bitship_softmax(const struct bitship_softmax *p, const int8_t *x, const int32_t *exp_table, int8_t *out) {
    if (p == NULL || x == NULL || exp_table == NULL || out == NULL || p->rows < 1 || p->channels < 1 ||
        p->channels > CHANNELS_MAX) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    for (int32_t row = 0; row < p->rows; row++) {
        int32_t most = x[0], headroom;
        uint32_t total = 0;
        for (int32_t i = 1; i < p->channels; i++) {
            most = bitship_max(most, x[i]);
        }
        for (int32_t i = 0; i < p->channels; i++) {
            total += (uint32_t)rounding_shift(exp_table[most - x[i]], 12);
        }
        if (total == 0) {
            return BITSHIP_ERROR_ARGUMENT; /* an exp_table without a positive first entry */
        }
        const int32_t scale = reciprocal(total, &headroom);
        const int32_t down = bitship_min(12 - headroom + 31 - 8, 62);
        for (int32_t i = 0; i < p->channels; i++) {
            const int64_t y = rounding_shift(high_mul(scale, exp_table[most - x[i]]), down) - 128;
            out[i] = (int8_t)(y > 127 ? 127 : y < -128 ? -128 : y);
        }
        x += p->channels;
        out += p->channels;
    }
    return BITSHIP_OK;
}
