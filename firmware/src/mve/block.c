/* Four pixels times every output channel; see block.h. */
#include "loops.h"

#if BITSHIP_MVE

/* q5 = q5 + bias, times multiplier, shifted: the channel's entry takes the sums' registers. */
#define ENTRY "ldm r3!, {r0, r2, r4}\n vadd.i32 q5, q5, r0\n"
#define ENTRY_ANY "ldm r3!, {r0, r2, r4, r6, r8}\n vadd.i32 q5, q5, r0\n vqshl.s32 q5, r6\n"
#define SINGLE ENTRY "vqdmulh.s32 q5, q5, r2\n vrshl.s32 q5, r4\n"
#define DOUBLE ENTRY "vqrdmulh.s32 q5, q5, r2\n vrshl.s32 q5, r4\n"
/* VRSHL rounds half up; one less below zero is half away. r11 is 1. */
#define AWAY ENTRY "vqrdmulh.s32 q5, q5, r2\n vpt.s32 lt, q5, zr\n vsubt.i32 q5, q5, r11\n vrshl.s32 q5, r4\n"
#define SINGLE_ANY ENTRY_ANY "vqdmulh.s32 q5, q5, r2\n vrshl.s32 q5, r4\n"
#define DOUBLE_ANY                                                                                           \
    ENTRY_ANY "vqrdmulh.s32 q5, q5, r2\n vpt.s32 lt, q5, zr\n vaddt.i32 q5, q5, r8\n vrshl.s32 q5, r4\n"

/* One channel of four pixels in q0 to q3. */
#define SHORT_CHANNEL(rounding, narrow)                                                                      \
    "vldrb.u8 q5, [r1], #16\n"                                                                               \
    "vmladav.s8 r0, q0, q5\n"                                                                                \
    "vmladav.s8 r2, q1, q5\n"                                                                                \
    "vmladav.s8 r4, q2, q5\n"                                                                                \
    "vmladav.s8 r6, q3, q5\n"                                                                                \
    "vmov q5[2], q5[0], r0, r4\n"                                                                            \
    "vmov q5[3], q5[1], r2, r6\n" rounding narrow "\n"

#define SHORT_GROUP(rounding)                                                                                \
    SHORT_CHANNEL(rounding, "vqmovnb.s32 q6, q5")                                                            \
    SHORT_CHANNEL(rounding, "vqmovnb.s32 q7, q5")                                                            \
    SHORT_CHANNEL(rounding, "vqmovnt.s32 q6, q5")                                                            \
    SHORT_CHANNEL(rounding, "vqmovnt.s32 q7, q5")

#define SHORT(rounding)                                                                                      \
    {                                                                                                        \
        register const struct bitship_mve_block *at __asm__("r0") = b;                                       \
        __asm__ volatile(                                                                                    \
            "mov r12, r0\n"                                                                                  \
            "ldr r9, [r12, #16]\n"                                                                           \
            "subs r9, r9, #4\n"                                                                              \
            "ldrd r7, r5, [r12, #24]\n"                                                                      \
            "ldr r10, [r12, #48]\n"                                                                          \
            "ldr lr, [r12, #60]\n"                                                                           \
            "str lr, [sp, #-8]!\n"                                                                           \
            "mov r11, #1\n"                                                                                  \
            "2:\n"                                                                                           \
            "ldrd r8, r2, [r12, #52]\n"                                                                      \
            "add r4, r10, r8\n"                                                                              \
            "add r6, r4, r8\n"                                                                               \
            "add r1, r6, r8\n"                                                                               \
            "vctp.8 r2\n"                                                                                    \
            "vpstttt\n"                                                                                      \
            "vldrbt.u8 q0, [r10]\n"                                                                          \
            "vldrbt.u8 q1, [r4]\n"                                                                           \
            "vldrbt.u8 q2, [r6]\n"                                                                           \
            "vldrbt.u8 q3, [r1]\n"                                                                           \
            "add r10, r1, r8\n"                                                                              \
            "ldrd r1, r3, [r12, #8]\n"                                                                       \
            "vldrw.u32 q4, [r12, #32]\n"                                                                     \
            "ldr lr, [r12, #20]\n"                                                                           \
            "vadd.i32 q4, q4, r9\n"                                                                          \
            "add r9, r9, lr, lsl #2\n"                                                                       \
            "lsr lr, lr, #2\n"                                                                               \
            "dls lr, lr\n"                                                                                   \
            "1:\n" SHORT_GROUP(rounding) NARROW("r7") /**/                                                   \
            "vstrw.32 q6, [q4, #4]!\n"                                                                       \
            "le lr, 1b\n"                                                                                    \
            "ldr r0, [sp]\n"                                                                                 \
            "subs r0, r0, #1\n"                                                                              \
            "str r0, [sp]\n"                                                                                 \
            "bne 2b\n"                                                                                       \
            "add sp, sp, #8\n"                                                                               \
            : "+r"(at)                                                                                       \
            :                                                                                                \
            : CLOBBERED);                                                                                    \
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

void bitship_mve_block_panel(const struct bitship_mve_block *b, int32_t rounding) { PANELS(PAIR(PIECE)) }

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
                  int32_t rounding, int8_t *out) {
    for (int32_t c = 0; c < b->channels; c++) {
        const int8_t *w = b->weights + (ptrdiff_t)(c / 2) * 32 * pieces + c % 2 * BITSHIP_MVE_BYTES;
        for (int i = 0; i < 4; i++) {
            const int32_t sum = sum_of(x[i], step, w, pieces);
            out[b->offset[i] + (uint32_t)c] = bitship_mve_narrow(
                bitship_mve_round(sum, b->table + c * BITSHIP_MVE_ENTRY(rounding), rounding), b->zero_point,
                b->clamp);
        }
    }
}

void bitship_mve_block_short(const struct bitship_mve_block *b, int32_t rounding) {
    int8_t padded[4][BITSHIP_MVE_BYTES] = {{0}};
    const int8_t *const x[4] = {padded[0], padded[1], padded[2], padded[3]};
    for (int32_t first = 0; first < b->blocks; first++) {
        for (int i = 0; i < 4; i++) {
            memcpy(padded[i], b->x + (first * 4 + i) * b->step, (size_t)b->depth);
        }
        block(b, x, 0, 1, rounding, b->out + first * 4 * b->channels);
    }
}

void bitship_mve_block_panel(const struct bitship_mve_block *b, int32_t rounding) {
    const int8_t *const x[4] = {b->panel, b->panel + 16, b->panel + 32, b->panel + 48};
    block(b, x, 64, b->pieces, rounding, b->out);
}

#endif
