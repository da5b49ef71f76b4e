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

static uint32_t add(uint32_t a, uint32_t b) { return a + b > ONE ? ONE : a + b; }

/* One row; masked is a constant 0 where nothing is masked, and the test for it disappears. */
static inline void shiftmax(const int8_t *x, const int32_t *from, int32_t n, int32_t masked, int16_t *out) {
    uint32_t total = 0;
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
        const int32_t e = masked != 0 && x[i] == INT8_MIN ? masked : from[-x[i]];
        total = add(total, (uint32_t)e);
    }
    const uint32_t factor = ONE / (total == 0 ? 1 : total);
    BITSHIP_UNROLL_4 for (int32_t i = 0; i < n; i++) {
        const int32_t e = masked != 0 && x[i] == INT8_MIN ? masked : from[-x[i]];
        out[i] = (int16_t)(((uint32_t)e * factor) >> 16);
    }
}

int bitship_shiftmax(const struct bitship_shift_exp *p, const int8_t *x, int16_t *out) {
    const int error = check(p, x, out);
    if (error != BITSHIP_OK) {
        return error;
    }
    const int32_t rows = p->rows, n = p->channels;
    for (int32_t row = 0; row < rows; row++, x += n, out += n) {
        const int32_t *from = p->below + bitship_largest(x, n);
        if (p->masked != 0) {
            shiftmax(x, from, n, p->masked, out);
        } else {
            shiftmax(x, from, n, 0, out);
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
        const int32_t most = bitship_largest(x + at, p->channels);
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
