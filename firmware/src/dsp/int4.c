/* conv2d and fully_connected on weights of four bits: the loops of dot.c with another way to read weights.
 *
 * A word holds two quads, the first in the low halves of its bytes, the second in the high ones. Masked, a
 * byte is sixteen times its code, which SXTB16 takes apart as it does int8; so sums are sixteen times too
 * large, which costs nothing: the bias is stored so, and the epilogue's shift takes it off. Quads are even in
 * number, the last one zeros. In groups, each begins with its multiplier (int32); a group's sums are added to
 * the channel's times that.
 */
#include "loops.h"
#include "patch.h"

#if BITSHIP_DSP_ASM

#define NIBBLES_TWO                                                                                          \
    "ldr r2, [r1], #4\n\t"                                                                                   \
    "lsl r3, r2, #4\n\t"                                                                                     \
    "and r3, r3, #0xf0f0f0f0\n\t"                                                                            \
    "and r2, r2, #0xf0f0f0f0\n\t" QUAD("r3") QUAD("r2")

KERNEL(four_floor, FOUR_PIXELS("", NIBBLES_TWO, FLOOR))
KERNEL(four_raw, FOUR_PIXELS("", NIBBLES_TWO, RAW))
KERNEL(four_wide, FOUR_PIXELS("", NIBBLES_TWO, WIDE))

#define ALONE_NIBBLES_TWO                                                                                    \
    "ldr r2, [r1], #4\n\t"                                                                                   \
    "ldm r0!, {r4-r7}\n\t"                                                                                   \
    "lsl r3, r2, #4\n\t"                                                                                     \
    "and r3, r3, #0xf0f0f0f0\n\t"                                                                            \
    "and r2, r2, #0xf0f0f0f0\n\t" ALONE("r3", "r4", "r5") ALONE("r2", "r6", "r7")

#define ONE_NIBBLES(epilogue)                                                                                \
    BEGIN("3")                                                                                               \
    "mov r11, r3\n\t" /* out */                                                                              \
    "1:\n\t"                                                                                                 \
    "ldr r8, [r1], #4\n\t"                                                                                   \
    "ldr r0, " PATCH                                                                                         \
    "\n\t"                                                                                                   \
    "ldr pc, " ENTRY                                                                                         \
    "\n\t"                                                                                                   \
    "2:\n\t" ALONE_NIBBLES_TWO ALONE_NIBBLES_TWO                                                             \
    "cmp r0, lr\n\t"                                                                                         \
    "bne 2b\n\t"                                                                                             \
    "ldr pc, " TAIL                                                                                          \
    "\n\t"                                                                                                   \
    "43:\n\t42:\n\t" ALONE_NIBBLES_TWO "41:\n\t40:\n\t" epilogue NEXT

KERNEL(one_floor, ONE_NIBBLES(ALONE_FLOOR))
KERNEL(one_raw, ONE_NIBBLES(ALONE_RAW))
KERNEL(one_wide, ONE_NIBBLES(ALONE_WIDE))

/* In groups. Stack beyond the frame above: quads left, the channel's sums, quads of a group. r2 quads left,
 * lr of this group. */
#define GROUPED_FRAME "56"
#define LEFT "[sp, #28]"
#define GROUP "[sp, #48]"
#define GROUPED_BEGIN                                                                                        \
    "push {r4-r11, lr}\n\t"                                                                                  \
    "sub sp, #" GROUPED_FRAME                                                                                \
    "\n\t"                                                                                                   \
    "ldm r0, {r0-r7}\n\t"                                                                                    \
    "strd r0, r6, [sp]\n\t"                                                                                  \
    "strd r3, r4, " OUT                                                                                      \
    "\n\t"                                                                                                   \
    "strd r2, r5, " END                                                                                      \
    "\n\t"                                                                                                   \
    "str r7, " GROUP "\n\t"

#define GROUPED_NEXT                                                                                         \
    "ldr r2, " END                                                                                           \
    "\n\t"                                                                                                   \
    "cmp r1, r2\n\t"                                                                                         \
    "bne 1b\n\t"                                                                                             \
    "add sp, #" GROUPED_FRAME                                                                                \
    "\n\t"                                                                                                   \
    "pop {r4-r11, pc}\n\t"

/* Quads of this group to lr, those behind it to LEFT. */
#define GROUPED_COUNT                                                                                        \
    "ldr r3, " GROUP                                                                                         \
    "\n\t"                                                                                                   \
    "cmp r2, r3\n\t"                                                                                         \
    "it lt\n\t"                                                                                              \
    "movlt r3, r2\n\t"                                                                                       \
    "sub r2, r2, r3\n\t"                                                                                     \
    "str r2, " LEFT                                                                                          \
    "\n\t"                                                                                                   \
    "mov lr, r3\n\t"                                                                                         \
    "mov r8, #0\n\t"

#define GROUPED_FOUR(epilogue)                                                                               \
    GROUPED_BEGIN                                                                                            \
    "1:\n\t"                                                                                                 \
    "ldr r4, [r1], #4\n\t"                                                                                   \
    "ldrd r0, r2, [sp]\n\t"                                                                                  \
    "strd r4, r4, [sp, #32]\n\t"                                                                             \
    "strd r4, r4, [sp, #40]\n\t"                                                                             \
    "2:\n\t" GROUPED_COUNT                                                                                   \
    "mov r9, r8\n\t"                                                                                         \
    "mov r10, r8\n\t"                                                                                        \
    "mov r11, r8\n\t"                                                                                        \
    "push {r8}\n\t"                                                                                          \
    "ldr r12, [r1], #4\n\t"                                                                                  \
    "str r12, [sp]\n\t"                                                                                      \
    "3:\n\t" NIBBLES_TWO                                                                                     \
    "subs lr, #2\n\t"                                                                                        \
    "bne 3b\n\t"                                                                                             \
    "pop {r12}\n\t"                                                                                          \
    "add r3, sp, #32\n\t"                                                                                    \
    "ldm r3, {r4-r7}\n\t"                                                                                    \
    "mla r8, r8, r12, r4\n\t"                                                                                \
    "mla r9, r9, r12, r5\n\t"                                                                                \
    "mla r10, r10, r12, r6\n\t"                                                                              \
    "mla r11, r11, r12, r7\n\t"                                                                              \
    "stm r3, {r8-r11}\n\t"                                                                                   \
    "ldr r2, " LEFT                                                                                          \
    "\n\t"                                                                                                   \
    "cmp r2, #0\n\t"                                                                                         \
    "bne 2b\n\t" epilogue GROUPED_NEXT

KERNEL(four_grouped_floor, GROUPED_FOUR(FLOOR))
KERNEL(four_grouped_raw, GROUPED_FOUR(RAW))
KERNEL(four_grouped_wide, GROUPED_FOUR(WIDE))

/* r9 the channel's sum, r10 the multiplier, r11 out. */
#define GROUPED_ONE(epilogue)                                                                                \
    GROUPED_BEGIN                                                                                            \
    "mov r11, r3\n\t"                                                                                        \
    "1:\n\t"                                                                                                 \
    "ldr r9, [r1], #4\n\t"                                                                                   \
    "ldrd r0, r2, [sp]\n\t"                                                                                  \
    "2:\n\t" GROUPED_COUNT                                                                                   \
    "ldr r10, [r1], #4\n\t"                                                                                  \
    "3:\n\t" ALONE_NIBBLES_TWO                                                                               \
    "subs lr, #2\n\t"                                                                                        \
    "bne 3b\n\t"                                                                                             \
    "mla r9, r8, r10, r9\n\t"                                                                                \
    "ldr r2, " LEFT                                                                                          \
    "\n\t"                                                                                                   \
    "cmp r2, #0\n\t"                                                                                         \
    "bne 2b\n\t"                                                                                             \
    "mov r8, r9\n\t" epilogue GROUPED_NEXT

KERNEL(one_grouped_floor, GROUPED_ONE(ALONE_FLOOR))
KERNEL(one_grouped_raw, GROUPED_ONE(ALONE_RAW))
KERNEL(one_grouped_wide, GROUPED_ONE(ALONE_WIDE))

#else

static inline void dot(const struct bitship_dsp_run *run, int32_t pixels, int32_t epilogue) {
    const uint8_t *w = (const uint8_t *)run->weights;
    for (int32_t channel = 0; w != (const uint8_t *)run->end; channel++) {
        const int32_t bias = (int32_t)bitship_word(w);
        int32_t sums[4] = {bias, bias, bias, bias}, at = 0;
        w += 4;
        for (int32_t quad = 0; quad < run->quads;) {
            const int32_t end = run->group == 0 ? run->quads : bitship_min(quad + run->group, run->quads);
            int32_t multiplier = 1, some[4] = {0, 0, 0, 0};
            if (run->group != 0) {
                multiplier = (int32_t)bitship_word(w);
                w += 4;
            }
            for (; quad < end; quad += 2, w += 4) {
                const uint32_t word = bitship_word(w), low = word << 4 & 0xf0f0f0f0u,
                               high = word & 0xf0f0f0f0u;
                const uint32_t *x = run->patch + 2 * pixels * quad;
                for (int32_t pixel = 0; pixel < pixels; pixel++, x++) {
                    some[pixel] = bitship_smlad(x[0], bitship_sxtb16(low), some[pixel]);
                    some[pixel] = bitship_smlad(x[pixels], bitship_sxtb16_odd(low), some[pixel]);
                    some[pixel] = bitship_smlad(x[2 * pixels], bitship_sxtb16(high), some[pixel]);
                    some[pixel] = bitship_smlad(x[3 * pixels], bitship_sxtb16_odd(high), some[pixel]);
                }
            }
            for (int32_t pixel = 0; pixel < pixels; pixel++) {
                sums[pixel] = (int32_t)((uint32_t)sums[pixel] + (uint32_t)some[pixel] * (uint32_t)multiplier);
            }
        }
        int32_t factors[3] = {0, 0, 0};
        if (epilogue != BITSHIP_DSP_RAW) {
            memcpy(factors, w, sizeof factors);
            w += sizeof factors;
        }
        for (int32_t pixel = 0; pixel < pixels; pixel++, at = pixel == 3 ? run->last : at + run->step) {
            if (epilogue == BITSHIP_DSP_RAW) {
                memcpy((uint8_t *)run->out + at + 4 * channel, &sums[pixel], 4);
            } else if (epilogue == BITSHIP_DSP_WIDE) {
                const int16_t y = bitship_dsp_finish16(sums[pixel], factors);
                memcpy((uint8_t *)run->out + at + 2 * channel, &y, sizeof y);
            } else {
                ((int8_t *)run->out)[at + channel] = bitship_dsp_finish(epilogue, sums[pixel], factors);
            }
        }
    }
}

#define KERNEL(name, pixels, epilogue)                                                                       \
    static void name(const struct bitship_dsp_run *run) { dot(run, pixels, epilogue); }

KERNEL(four_floor, 4, BITSHIP_DSP_FLOOR)
KERNEL(four_raw, 4, BITSHIP_DSP_RAW)
KERNEL(four_wide, 4, BITSHIP_DSP_WIDE)
KERNEL(one_floor, 1, BITSHIP_DSP_FLOOR)
KERNEL(one_raw, 1, BITSHIP_DSP_RAW)
KERNEL(one_wide, 1, BITSHIP_DSP_WIDE)
KERNEL(four_grouped_floor, 4, BITSHIP_DSP_FLOOR)
KERNEL(four_grouped_raw, 4, BITSHIP_DSP_RAW)
KERNEL(four_grouped_wide, 4, BITSHIP_DSP_WIDE)
KERNEL(one_grouped_floor, 1, BITSHIP_DSP_FLOOR)
KERNEL(one_grouped_raw, 1, BITSHIP_DSP_RAW)
KERNEL(one_grouped_wide, 1, BITSHIP_DSP_WIDE)

#endif

int bitship_dsp_conv2d_int4(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                            void *scratch, int32_t scratch_bytes, void *out) {
    /* two roundings have no such form: they are never packed so */
    static bitship_dsp_dot *const four[2][4] = {
        {four_floor, four_raw, four_raw, four_wide},
        {four_grouped_floor, four_grouped_raw, four_grouped_raw, four_grouped_wide}};
    static bitship_dsp_dot *const one[2][4] = {
        {one_floor, one_raw, one_raw, one_wide},
        {one_grouped_floor, one_grouped_raw, one_grouped_raw, one_grouped_wide}};
    const int32_t quads = (bitship_dsp_order(p).total + 1) / 2 * 2, group = p->group / 4;
    const int32_t groups = group == 0 ? 0 : (quads + group - 1) / group;
    const struct bitship_dsp_dots dots = {
        four[group != 0][p->epilogue], one[group != 0][p->epilogue], quads, group,
        4 + 2 * quads + 4 * groups + (p->epilogue == BITSHIP_DSP_RAW ? 0 : 12)};
    (void)scratch_bytes;
    return bitship_dsp_conv2d_by(p, &dots, x, weights, scratch, out);
}
