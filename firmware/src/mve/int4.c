/* conv2d and fully_connected on weights of four bits: the products of block.c and dense.c with another way to
 * read weights. 16 bytes hold a piece of two channels, the first in the low halves; with groups two bytes
 * before them are the channels' multipliers, whose product with a code fits int8.
 */
#include "loops.h"

#if BITSHIP_MVE

/* q5 the even channel's codes, q4 the odd one's. */
#define CODES                                                                                                \
    "vldrb.u8 q4, [r3], #16\n"                                                                               \
    "vshl.i8 q5, q4, #4\n"                                                                                   \
    "vshr.s8 q4, q4, #4\n"                                                                                   \
    "vshr.s8 q5, q5, #4\n"

#define PRODUCTS(with)                                                                                       \
    "vldrb.u8 q0, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r0, q0, q5\n"                                                                                       \
    "vldrb.u8 q1, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r2, q1, q5\n"                                                                                       \
    "vldrb.u8 q2, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r4, q2, q5\n"                                                                                       \
    "vldrb.u8 q3, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r6, q3, q5\n"                                                                                       \
    "vmladav" with                                                                                           \
    ".s8 r8, q0, q4\n"                                                                                       \
    "vmladav" with                                                                                           \
    ".s8 r10, q1, q4\n"                                                                                      \
    "vmladav" with                                                                                           \
    ".s8 r12, q2, q4\n"                                                                                      \
    "vmladav" with ".s8 lr, q3, q4\n"

#define PLAIN(with) CODES PRODUCTS(with)
/* r9, where the output goes, is kept on the stack meanwhile. */
#define GROUPED(with)                                                                                        \
    "ldrb r9, [r3], #1\n"                                                                                    \
    "ldrb r5, [r3], #1\n" CODES                                                                              \
    "vmul.i8 q5, q5, r9\n"                                                                                   \
    "vmul.i8 q4, q4, r5\n" PRODUCTS(with)

/* Two channels a piece at a time: every register of PAIR but the count, which is here on the stack. */
#define GROUPED_PAIR                                                                                         \
    "ldrd r1, r5, [r11]\n"                                                                                   \
    "sub r5, r5, #1\n"                                                                                       \
    "strd r5, r9, [sp, #4]\n" GROUPED("")                                                                    \
    "4:\n" GROUPED("a")                                                                                      \
    "ldr r5, [sp, #4]\n"                                                                                     \
    "subs r5, r5, #1\n"                                                                                      \
    "str r5, [sp, #4]\n"                                                                                     \
    "bne 4b\n"                                                                                               \
    "ldr r9, [sp, #8]\n"                                                                                     \
    "vmov q5[2], q5[0], r0, r4\n"                                                                            \
    "vmov q5[3], q5[1], r2, r6\n"                                                                            \
    "vmov q0[2], q0[0], r8, r12\n"                                                                           \
    "vmov q0[3], q0[1], r10, lr\n"

static void panel(const struct bitship_mve_block *b, int32_t rounding) { PANELS(PAIR(PLAIN)) }
static void grouped_panel(const struct bitship_mve_block *b, int32_t rounding){PANELS(GROUPED_PAIR)}

/* Four channels of a row: q1 and q2 from r3, q3 and q4 from r5. */
#define ROW_CODES(even, odd, from)                                                                           \
    "vldrb.u8 " odd ", [" from                                                                               \
    "], #16\n"                                                                                               \
    "vshl.i8 " even ", " odd                                                                                 \
    ", #4\n"                                                                                                 \
    "vshr.s8 " odd ", " odd                                                                                  \
    ", #4\n"                                                                                                 \
    "vshr.s8 " even ", " even ", #4\n"
#define LOOP                                                                                                 \
    "vldrb.u8 q0, [r1], #16\n" ROW_CODES("q1", "q2", "r3")                                                   \
    "vmladava.s8 r0, q0, q1\n"                                                                               \
    "vmladava.s8 r2, q0, q2\n" ROW_CODES("q3", "q4", "r5")                                                   \
    "vmladava.s8 r4, q0, q3\n"                                                                               \
    "vmladava.s8 r6, q0, q4\n"
#define TIMES(even, odd, from)                                                                               \
    "ldrb r12, [" from                                                                                       \
    "], #1\n"                                                                                                \
    "vmul.i8 " even ", " even                                                                                \
    ", r12\n"                                                                                                \
    "ldrb r12, [" from                                                                                       \
    "], #1\n"                                                                                                \
    "vmul.i8 " odd ", " odd ", r12\n"
/* The multipliers lie before the codes. */
#define GROUPED_LOOP                                                                                         \
    "vldrb.u8 q0, [r1], #16\n"                                                                               \
    "vldrb.u8 q2, [r3, #2]\n"                                                                                \
    "vshl.i8 q1, q2, #4\n"                                                                                   \
    "vshr.s8 q2, q2, #4\n"                                                                                   \
    "vshr.s8 q1, q1, #4\n" TIMES("q1", "q2", "r3")                                                           \
    "add r3, r3, #16\n"                                                                                      \
    "vmladava.s8 r0, q0, q1\n"                                                                               \
    "vmladava.s8 r2, q0, q2\n"                                                                               \
    "vldrb.u8 q4, [r5, #2]\n"                                                                                \
    "vshl.i8 q3, q4, #4\n"                                                                                   \
    "vshr.s8 q4, q4, #4\n"                                                                                   \
    "vshr.s8 q3, q3, #4\n" TIMES("q3", "q4", "r5")                                                           \
    "add r5, r5, #16\n"                                                                                      \
    "vmladava.s8 r4, q0, q3\n"                                                                               \
    "vmladava.s8 r6, q0, q4\n"

static void row(const struct bitship_mve_row *d) {
    ROW(LOOP, "")
}
static void grouped_row(const struct bitship_mve_row *d) { ROW(GROUPED_LOOP, "ldr r12, [r11, #24]\n") }

#else

/* Weight i of a channel: w is its pair's first piece. */
static inline int32_t weight(const uint8_t *w, int32_t odd, int32_t i, int32_t bytes) {
    const uint8_t *piece = w + i / 16 * bytes;
    const int32_t skip = bytes - BITSHIP_MVE_BYTES, byte = piece[skip + i % 16],
                  high = odd ? byte >> 4 : byte;
    const int32_t code = (high & 15) - ((high & 8) << 1);
    return skip > 0 ? code * piece[odd] : code;
}

static void panel_of(const struct bitship_mve_block *b, int32_t rounding, int32_t bytes) {
    const uint8_t *const weights = (const uint8_t *)b->weights;
    for (int32_t c = 0; c < b->channels; c++) {
        const uint8_t *w = weights + (ptrdiff_t)(c / 2) * bytes * b->pieces;
        for (int i = 0; i < 4; i++) {
            int32_t sum = 0;
            for (int32_t k = 0; k < 16 * b->pieces; k++) {
                sum += b->panel[k / 16 * 64 + 16 * i + k % 16] * weight(w, c % 2, k, bytes);
            }
            b->out[b->offset[i] + (uint32_t)c] = bitship_mve_narrow(
                bitship_mve_round(sum, b->table + c * BITSHIP_MVE_ENTRY(rounding), rounding), b->zero_point,
                b->clamp);
        }
    }
}

static void row_of(const struct bitship_mve_row *d, int32_t bytes) {
    const uint8_t *const weights = (const uint8_t *)d->weights;
    for (int32_t c = 0; c < d->channels; c++) {
        const uint8_t *w = weights + (ptrdiff_t)(c / 2) * d->pitch;
        const int32_t *entry = d->table + c * d->entry_bytes / 4;
        const int8_t clamp[32] = {[0] = (int8_t)d->qmin, [16] = (int8_t)d->qmax};
        int32_t sum = 0;
        for (int32_t i = 0; i < d->depth; i++) {
            sum += d->x[i] * weight(w, c % 2, i, bytes);
        }
        d->out[c] = bitship_mve_narrow(bitship_mve_round(sum, entry, d->rounding), d->zero_point, clamp);
    }
}

static void panel(const struct bitship_mve_block *b, int32_t rounding) { panel_of(b, rounding, 16); }
static void grouped_panel(const struct bitship_mve_block *b, int32_t rounding) { panel_of(b, rounding, 18); }
static void row(const struct bitship_mve_row *d) { row_of(d, 16); }
static void grouped_row(const struct bitship_mve_row *d) { row_of(d, 18); }

#endif

int bitship_mve_conv2d_int4(const struct bitship_mve_window *p, const int8_t *x, const void *weights,
                            const int32_t *table, void *scratch, int32_t scratch_bytes, int8_t *out) {
    static const struct bitship_mve_products products[2] = {{panel, row, 16},
                                                            {grouped_panel, grouped_row, 18}};
    (void)scratch_bytes;
    return bitship_mve_conv2d_by(p, &products[p->grouped], x, weights, table, scratch, out);
}

int bitship_mve_fully_connected_int4(const struct bitship_mve_dense *p, const int8_t *x, const void *weights,
                                     const int32_t *table, int8_t *out) {
    const int32_t pieces = (p->depth + 15) / 16;
    return bitship_mve_fully_connected_by(p, p->grouped ? grouped_row : row, pieces * (p->grouped ? 18 : 16),
                                          x, weights, table, out);
}
