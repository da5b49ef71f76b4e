/* One row times every channel, four channels at a time; see dense.h. */
#include "loops.h"

#if BITSHIP_MVE

#define LOOP                                                                                                 \
    "vldrb.u8 q0, [r1], #16\n"                                                                               \
    "vldrb.u8 q1, [r3], #16\n"                                                                               \
    "vmladava.s8 r0, q0, q1\n"                                                                               \
    "vldrb.u8 q2, [r3], #16\n"                                                                               \
    "vmladava.s8 r2, q0, q2\n"                                                                               \
    "vldrb.u8 q3, [r5], #16\n"                                                                               \
    "vmladava.s8 r4, q0, q3\n"                                                                               \
    "vldrb.u8 q4, [r5], #16\n"                                                                               \
    "vmladava.s8 r6, q0, q4\n"

void bitship_mve_row(const struct bitship_mve_row *d) { ROW(LOOP, "") }

#else

void bitship_mve_row(const struct bitship_mve_row *d) {
    for (int32_t c = 0; c < d->channels; c++) {
        const int8_t *w = d->weights + (ptrdiff_t)(c / 2) * d->pitch + c % 2 * BITSHIP_MVE_BYTES;
        const int32_t *entry = d->table + c * d->entry_bytes / 4;
        const int8_t clamp[32] = {[0] = (int8_t)d->qmin, [16] = (int8_t)d->qmax};
        int32_t sum = 0;
        for (int32_t i = 0; i < d->depth; i++) {
            sum += d->x[i] * w[i / 16 * 32 + i % 16];
        }
        d->out[c] = bitship_mve_narrow(bitship_mve_round(sum, entry, d->rounding), d->zero_point, clamp);
    }
}

#endif

int bitship_mve_fully_connected_by(const struct bitship_mve_dense *p, bitship_mve_product *product,
                                   int32_t pitch, const int8_t *x, const void *weights, const int32_t *table,
                                   int8_t *out) {
    struct bitship_mve_row d = {.depth = p->depth,
                                .weights = (const int8_t *)weights,
                                .table = table,
                                .channels = p->channels,
                                .pitch = pitch,
                                .zero_point = p->output_zero_point,
                                .rounding = p->rounding,
                                .qmin = p->qmin,
                                .qmax = p->qmax,
                                .entry_bytes = BITSHIP_MVE_ENTRY(p->rounding) * 4};
    for (int32_t i = 0; i < p->rows; i++) {
        d.x = x + (ptrdiff_t)i * p->depth;
        d.out = out + (ptrdiff_t)i * p->channels;
        product(&d);
    }
    return BITSHIP_OK;
}

int bitship_mve_fully_connected(const struct bitship_mve_dense *p, const int8_t *x, const int8_t *weights,
                                const int32_t *table, int8_t *out) {
    return bitship_mve_fully_connected_by(p, bitship_mve_row, (p->depth + 15) / 16 * 32, x, weights, table,
                                          out);
}
