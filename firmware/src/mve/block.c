/* Four pixels times every output channel; see block.h. */
#include "block.h"

#if BITSHIP_MVE

/* q5 = q5 + bias, times multiplier, shifted: r8, r9, r10 (r11, r12) hold the channel's entry. */
#define ENTRY "ldm r3!, {r8, r9, r10}\n vadd.i32 q5, q5, r8\n"
#define ENTRY_ANY "ldm r3!, {r8, r9, r10, r11, r12}\n vadd.i32 q5, q5, r8\n vqshl.s32 q5, r11\n"
#define SINGLE ENTRY "vqdmulh.s32 q5, q5, r9\n vrshl.s32 q5, r10\n"
#define DOUBLE ENTRY "vqrdmulh.s32 q5, q5, r9\n vrshl.s32 q5, r10\n"
/* VRSHL rounds half up; one less below zero is half away. */
#define AWAY                                                                                                 \
    ENTRY "vqrdmulh.s32 q5, q5, r9\n vpt.s32 lt, q5, zr\n vsubt.i32 q5, q5, r11\n vrshl.s32 q5, r10\n"
#define SINGLE_ANY ENTRY_ANY "vqdmulh.s32 q5, q5, r9\n vrshl.s32 q5, r10\n"
#define DOUBLE_ANY                                                                                           \
    ENTRY_ANY "vqrdmulh.s32 q5, q5, r9\n vpt.s32 lt, q5, zr\n vaddt.i32 q5, q5, r12\n vrshl.s32 q5, r10\n"

/* Bytes of four channels, pixels in the words: zero point, narrow, clamp. r7 zero point, r5 clamp. */
#define NARROW                                                                                               \
    "vqadd.s16 q6, q6, r7\n"                                                                                 \
    "vqadd.s16 q7, q7, r7\n"                                                                                 \
    "vqmovnb.s16 q6, q6\n"                                                                                   \
    "vqmovnt.s16 q6, q7\n"                                                                                   \
    "cbz r5, 3f\n"                                                                                           \
    "vldrb.u8 q7, [r5]\n"                                                                                    \
    "vmax.s8 q6, q6, q7\n"                                                                                   \
    "vldrb.u8 q7, [r5, #16]\n"                                                                               \
    "vmin.s8 q6, q6, q7\n"                                                                                   \
    "3:\n"

/* One channel of four pixels in q0 to q3. */
#define SHORT_CHANNEL(rounding, narrow)                                                                      \
    "vldrb.u8 q5, [r1], #16\n"                                                                               \
    "vmladav.s8 r0, q0, q5\n"                                                                                \
    "vmladav.s8 r2, q1, q5\n"                                                                                \
    "vmladav.s8 r4, q2, q5\n"                                                                                \
    "vmladav.s8 r6, q3, q5\n"                                                                                \
    "vmov q5[2], q5[0], r0, r4\n"                                                                            \
    "vmov q5[3], q5[1], r2, r6\n" rounding narrow

#define SHORT(rounding)                                                                                      \
    {                                                                                                        \
        register const struct bitship_mve_block *at __asm__("r0") = b;                                       \
        __asm__ volatile(                                                                                    \
            "ldrd r2, r4, [r0, #48]\n"                                                                       \
            "ldrd r6, r8, [r0, #56]\n"                                                                       \
            "ldr r5, [r0, #64]\n"                                                                            \
            "vctp.8 r5\n"                                                                                    \
            "vpstttt\n"                                                                                      \
            "vldrbt.u8 q0, [r2]\n"                                                                           \
            "vldrbt.u8 q1, [r4]\n"                                                                           \
            "vldrbt.u8 q2, [r6]\n"                                                                           \
            "vldrbt.u8 q3, [r8]\n"                                                                           \
            "ldrd r1, r3, [r0, #8]\n"                                                                        \
            "ldrd r9, r8, [r0, #16]\n"                                                                       \
            "vldrw.u32 q4, [r0, #32]\n"                                                                      \
            "sub r8, r8, r9\n"                                                                               \
            "subs r9, r9, #4\n"                                                                              \
            "vadd.i32 q4, q4, r9\n"                                                                          \
            "ldrd r7, r5, [r0, #24]\n"                                                                       \
            "lsrs r8, r8, #2\n"                                                                              \
            "mov r11, #1\n"                                                                                  \
            "dls lr, r8\n"                                                                                   \
            "1:\n" SHORT_CHANNEL(rounding, "vqmovnb.s32 q6, q5\n")                                           \
                SHORT_CHANNEL(rounding, "vqmovnb.s32 q7, q5\n")                                              \
                    SHORT_CHANNEL(rounding, "vqmovnt.s32 q6, q5\n")                                          \
                        SHORT_CHANNEL(rounding, "vqmovnt.s32 q7, q5\n") NARROW                               \
            "vstrw.32 q6, [q4, #4]!\n"                                                                       \
            "le lr, 1b\n"                                                                                    \
            : "+r"(at)                                                                                       \
            :                                                                                                \
            : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0", "q1",   \
              "q2", "q3", "q4", "q5", "q6", "q7", "cc", "memory");                                           \
    }

/* A piece of the depth: 4 pixels by 2 channels. `with` is "" for the first, which starts the sums, else "a".
 */
#define PIECE(with)                                                                                          \
    "vldrb.u8 q0, [r1], #16\n"                                                                               \
    "vldrb.u8 q4, [r3], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r0, q0, q4\n"                                                                                       \
    "vldrb.u8 q1, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r2, q1, q4\n"                                                                                       \
    "vldrb.u8 q2, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r4, q2, q4\n"                                                                                       \
    "vldrb.u8 q3, [r1], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r6, q3, q4\n"                                                                                       \
    "vldrb.u8 q4, [r3], #16\n"                                                                               \
    "vmladav" with                                                                                           \
    ".s8 r8, q0, q4\n"                                                                                       \
    "vmladav" with                                                                                           \
    ".s8 r10, q1, q4\n"                                                                                      \
    "vmladav" with                                                                                           \
    ".s8 r12, q2, q4\n"                                                                                      \
    "vmladav" with ".s8 lr, q3, q4\n"

/* Two channels: eight sums, all even registers; r5 counts double pieces, an even depth enters in the middle.
 */
#define PAIR                                                                                                 \
    "ldrd r1, r5, [r11]\n" PIECE("") "lsrs r5, r5, #1\n"                                                     \
                                     "bcc 5f\n"                                                              \
                                     "4:\n" PIECE("a") "5:\n" PIECE("a") "subs r5, r5, #1\n"                 \
                                                                         "bne 4b\n"                          \
                                                                         "vmov q5[2], q5[0], r0, r4\n"       \
                                                                         "vmov q5[3], q5[1], r2, r6\n"       \
                                                                         "vmov q0[2], q0[0], r8, r12\n"      \
                                                                         "vmov q0[3], q0[1], r10, lr\n"

/* The same roundings with the entry in r0, r2, r4 (r6, r8), the table in r7, sums in q. */
#define P_ENTRY(q) "ldm r7!, {r0, r2, r4}\n vadd.i32 " q ", " q ", r0\n"
#define P_ENTRY_ANY(q) "ldm r7!, {r0, r2, r4, r6, r8}\n vadd.i32 " q ", " q ", r0\n vqshl.s32 " q ", r6\n"
#define P_SINGLE(q) P_ENTRY(q) "vqdmulh.s32 " q ", " q ", r2\n vrshl.s32 " q ", r4\n"
#define P_DOUBLE(q) P_ENTRY(q) "vqrdmulh.s32 " q ", " q ", r2\n vrshl.s32 " q ", r4\n"
#define P_AWAY(q)                                                                                            \
    P_ENTRY(q)                                                                                               \
    "vshr.s32 q1, " q ", #31\n vqrdmlah.s32 q1, " q ", r2\n vrshl.s32 q1, r4\n"
#define P_SINGLE_ANY(q) P_ENTRY_ANY(q) "vqdmulh.s32 " q ", " q ", r2\n vrshl.s32 " q ", r4\n"
#define P_DOUBLE_ANY(q)                                                                                      \
    P_ENTRY_ANY(q)                                                                                           \
    "vqrdmulh.s32 " q ", " q ", r2\n vpt.s32 lt, " q ", zr\n vaddt.i32 " q ", " q ", r8\n vrshl.s32 " q      \
    ", r4\n"

#define PANEL_LOOP(round, sum5, sum0)                                                                        \
    {                                                                                                        \
        register const struct bitship_mve_block *at __asm__("r0") = b;                                       \
        __asm__ volatile(                                                                                    \
            "mov r11, r0\n"                                                                                  \
            "ldrd r3, r7, [r0, #8]\n"                                                                        \
            "ldr r9, [r0, #16]\n"                                                                            \
            "1:\n" PAIR round("q5") "vqmovnb.s32 q6, " sum5                                                  \
                                    "\n" round("q0") "vqmovnb.s32 q7, " sum0 "\n" PAIR round(                \
                                        "q5") "vqmovnt.s32 q6, " sum5                                        \
                                              "\n" round("q0") "vqmovnt.s32 q7, " sum0                       \
                                                               "\n"                                          \
                                                               "ldrd r2, r5, [r11, #24]\n"                   \
                                                               "vqadd.s16 q6, q6, r2\n"                      \
                                                               "vqadd.s16 q7, q7, r2\n"                      \
                                                               "vqmovnb.s16 q6, q6\n"                        \
                                                               "vqmovnt.s16 q6, q7\n"                        \
                                                               "cbz r5, 3f\n"                                \
                                                               "vldrb.u8 q7, [r5]\n"                         \
                                                               "vmax.s8 q6, q6, q7\n"                        \
                                                               "vldrb.u8 q7, [r5, #16]\n"                    \
                                                               "vmin.s8 q6, q6, q7\n"                        \
                                                               "3:\n"                                        \
                                                               "vldrw.u32 q0, [r11, #32]\n"                  \
                                                               "ldr r2, [r11, #20]\n"                        \
                                                               "vstrw.32 q6, [r9, q0]\n"                     \
                                                               "add r9, r9, #4\n"                            \
                                                               "cmp r9, r2\n"                                \
                                                               "bne 1b\n"                                    \
            : "+r"(at)                                                                                       \
            :                                                                                                \
            : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0", "q1",   \
              "q2", "q3", "q4", "q5", "q6", "q7", "cc", "memory");                                           \
    }

/* Above: r5 was the piece counter and is free in between; the local labels of PAIR are nearest-match. */

void bitship_mve_block_short(const struct bitship_mve_block *b, int32_t rounding) {
    switch (rounding) {
    case BITSHIP_MVE_SINGLE:
        SHORT(SINGLE)
        break;
    case BITSHIP_MVE_DOUBLE_UP:
        SHORT(DOUBLE)
        break;
    case BITSHIP_MVE_DOUBLE:
        SHORT(AWAY)
        break;
    case BITSHIP_MVE_SINGLE_ANY:
        SHORT(SINGLE_ANY)
        break;
    default:
        SHORT(DOUBLE_ANY)
        break;
    }
}

void bitship_mve_block_panel(const struct bitship_mve_block *b, int32_t rounding) {
    switch (rounding) {
    case BITSHIP_MVE_SINGLE:
        PANEL_LOOP(P_SINGLE, "q5", "q0")
        break;
    case BITSHIP_MVE_DOUBLE_UP:
        PANEL_LOOP(P_DOUBLE, "q5", "q0")
        break;
    case BITSHIP_MVE_DOUBLE:
        PANEL_LOOP(P_AWAY, "q1", "q1")
        break;
    case BITSHIP_MVE_SINGLE_ANY:
        PANEL_LOOP(P_SINGLE_ANY, "q5", "q0")
        break;
    default:
        PANEL_LOOP(P_DOUBLE_ANY, "q5", "q0")
        break;
    }
}

#else

static int32_t sum_of(const int8_t *x, int32_t step, const int8_t *w, int32_t pieces) {
    int32_t sum = 0;
    for (int32_t k = 0; k < pieces; k++) {
        for (int32_t i = 0; i < BITSHIP_MVE_BYTES; i++) {
            sum += x[k * step + i] * w[k * 32 + i];
        }
    }
    return sum;
}

/* x[i] is pixel i's first piece, the next is `step` bytes on. */
static void block(const struct bitship_mve_block *b, const int8_t *const *x, int32_t step, int32_t pieces,
                  int32_t rounding) {
    const int32_t channels = (int32_t)(b->end - b->out);
    for (int32_t c = 0; c < channels; c++) {
        const int8_t *w = b->weights + (ptrdiff_t)(c / 2) * 32 * pieces + c % 2 * BITSHIP_MVE_BYTES;
        for (int i = 0; i < 4; i++) {
            const int32_t sum = sum_of(x[i], step, w, pieces);
            b->out[b->offset[i] + (uint32_t)c] = bitship_mve_narrow(
                bitship_mve_round(sum, b->table + c * BITSHIP_MVE_ENTRY(rounding), rounding), b->zero_point,
                b->clamp);
        }
    }
}

void bitship_mve_block_short(const struct bitship_mve_block *b, int32_t rounding) {
    int8_t padded[4][BITSHIP_MVE_BYTES] = {{0}};
    const int8_t *const x[4] = {padded[0], padded[1], padded[2], padded[3]};
    for (int i = 0; i < 4; i++) {
        memcpy(padded[i], b->x[i], (size_t)b->depth);
    }
    block(b, x, 0, 1, rounding);
}

void bitship_mve_block_panel(const struct bitship_mve_block *b, int32_t rounding) {
    const int8_t *const x[4] = {b->panel, b->panel + 16, b->panel + 32, b->panel + 48};
    block(b, x, 64, b->pieces, rounding);
}

#endif
