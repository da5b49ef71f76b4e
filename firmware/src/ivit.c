/* shiftmax and shiftgelu: I-ViT's functions of max - x, which has 256 values, so ShiftExp comes from a table.
 * All values lie in [1, 2^31): sums of two fit 32 bits, and e * floor((2^31 - 1) / S) does where e <= S. */
#include "lanes.h"

#define ONE 0x7fffffffu

static int check(const struct bitship_shift_exp *p, const void *x, const void *out) {
    if (p == NULL || x == NULL || out == NULL || p->rows < 1 || p->channels < 1 || p->below == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    return bitship_check_rescale(p->requant, p->channels);
}

static int32_t largest(const int8_t *x, int32_t n) {
    int8_t most = x[0];
    for (int32_t i = 1; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    return most;
}

static uint32_t add(uint32_t a, uint32_t b) { return a + b > ONE ? ONE : a + b; }

int bitship_shiftmax(const struct bitship_shift_exp *p, const int8_t *x, int16_t *out) {
    const int error = check(p, x, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    const int32_t skip = p->masked != 0 ? INT8_MIN : INT32_MAX;
    for (int32_t row = 0; row < p->rows; row++, x += p->channels, out += p->channels) {
        const int32_t *from = p->below + largest(x, p->channels);
        uint32_t total = 0;
        for (int32_t i = 0; i < p->channels; i++) {
            total = add(total, x[i] == skip ? (uint32_t)p->masked : (uint32_t)from[-x[i]]);
        }
        const uint32_t factor = ONE / (total == 0 ? 1 : total);
        for (int32_t i = 0; i < p->channels; i++) {
            const uint32_t e = x[i] == skip ? (uint32_t)p->masked : (uint32_t)from[-x[i]];
            out[i] = (int16_t)((e * factor) >> 16);
        }
    }
    return BITSHIP_OK;
}

int bitship_shiftgelu(const struct bitship_shift_exp *p, const int8_t *x, void *out) {
    int32_t lanes[BITSHIP_LANES];
    const int error = check(p, x, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    if (p->zero == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const int32_t dtype = bitship_finish_dtype(p->requant);
    ptrdiff_t at = 0;
    for (int32_t row = 0; row < p->rows; row++) {
        const int32_t most = largest(x + at, p->channels);
        const int32_t *from = p->below + most;
        const uint32_t zero = (uint32_t)p->zero[most + 128];
        for (int32_t c = 0; c < p->channels; c += BITSHIP_LANES) {
            const int32_t n = bitship_min(BITSHIP_LANES, p->channels - c);
            for (int32_t i = 0; i < n; i++) {
                const int32_t q = x[at + i];
                const uint32_t e = (uint32_t)from[-q], total = add(e, zero);
                const uint32_t gate = (e * (ONE / (total == 0 ? 1 : total))) >> 24;
                lanes[i] = q * (int32_t)gate;
            }
            bitship_finish(p->requant, c, n, lanes, bitship_at_out(out, dtype, at));
            at += n;
        }
    }
    return BITSHIP_OK;
}
