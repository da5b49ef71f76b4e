/* The assembler that the dot products are made of (dot.c, int4.c), for cores with the DSP extension.
 */
#ifndef BITSHIP_DSP_LOOPS_H
#define BITSHIP_DSP_LOOPS_H

#include "dot.h"

#if BITSHIP_DSP_ASM

/* r0 patch, r1 weights, lr end of the patch's whole loops, r8-r11 sums, r4-r7 elements, r2 r3 r12 weights.
 * Stack: where things are when a channel begins and ends. */
#define FRAME "28"
#define PATCH "[sp, #0]"
#define ENTRY "[sp, #4]"
#define TAIL "[sp, #8]"
#define OUT "[sp, #12]" /* then the step */
#define END "[sp, #20]"
#define LAST "[sp, #24]"

/* Fill the frame. A channel starts at ENTRY: the loop (label 2), or for less than four quads its tail; from
 * the loop it goes on at TAIL: label 40 + quads left. `shift`: log2 of a quad's bytes in the patch. */
#define BEGIN(shift)                                                                                         \
    "push {r4-r11, lr}\n\t"                                                                                  \
    "sub sp, #" FRAME                                                                                        \
    "\n\t"                                                                                                   \
    "ldm r0, {r0-r6}\n\t"                                                                                    \
    "bic r7, r6, #3\n\t"                                                                                     \
    "add lr, r0, r7, lsl #" shift                                                                            \
    "\n\t"                                                                                                   \
    "and r6, #3\n\t"                                                                                         \
    "adr.w r8, 40f\n\t"                                                                                      \
    "cmp r6, #1\n\t"                                                                                         \
    "it eq\n\t"                                                                                              \
    "adreq.w r8, 41f\n\t"                                                                                    \
    "cmp r6, #2\n\t"                                                                                         \
    "it eq\n\t"                                                                                              \
    "adreq.w r8, 42f\n\t"                                                                                    \
    "cmp r6, #3\n\t"                                                                                         \
    "it eq\n\t"                                                                                              \
    "adreq.w r8, 43f\n\t"                                                                                    \
    "orr r8, #1\n\t"                                                                                         \
    "adr.w r9, 2f\n\t"                                                                                       \
    "orr r9, #1\n\t"                                                                                         \
    "cmp r7, #0\n\t"                                                                                         \
    "it eq\n\t"                                                                                              \
    "moveq r9, r8\n\t"                                                                                       \
    "strd r0, r9, [sp]\n\t"                                                                                  \
    "str r8, " TAIL                                                                                          \
    "\n\t"                                                                                                   \
    "strd r3, r4, " OUT                                                                                      \
    "\n\t"                                                                                                   \
    "strd r2, r5, " END "\n\t"

/* Next channel, if there is one. */
#define NEXT                                                                                                 \
    "ldr r2, " END                                                                                           \
    "\n\t"                                                                                                   \
    "cmp r1, r2\n\t"                                                                                         \
    "bne 1b\n\t"                                                                                             \
    "add sp, #" FRAME                                                                                        \
    "\n\t"                                                                                                   \
    "pop {r4-r11, pc}\n\t"

/* Half a quad of four pixels times a word of weights. */
#define HALF(weights)                                                                                        \
    "smlad r8, r4, " weights                                                                                 \
    ", r8\n\t"                                                                                               \
    "smlad r9, r5, " weights                                                                                 \
    ", r9\n\t"                                                                                               \
    "smlad r10, r6, " weights                                                                                \
    ", r10\n\t"                                                                                              \
    "smlad r11, r7, " weights ", r11\n\t"

/* A quad of four pixels; the word of weights is gone afterwards. */
#define QUAD(word)                                                                                           \
    "ldm r0!, {r4-r7}\n\t"                                                                                   \
    "sxtb16 r12, " word "\n\t" HALF("r12") "ldm r0!, {r4-r7}\n\t"                                            \
    "sxtb16 " word ", " word ", ror #8\n\t" HALF(word)

/* int8 weights: one word a quad. */
#define BYTES_QUAD "ldr r2, [r1], #4\n\t" QUAD("r2")
#define BYTES_TWO "ldrd r2, r3, [r1], #8\n\t" QUAD("r2") QUAD("r3")

/* int16 weights: two words a quad, elements (0, 2) and (1, 3). */
#define HALVES_QUAD                                                                                          \
    "ldrd r2, r3, [r1], #8\n\t"                                                                              \
    "ldm r0!, {r4-r7}\n\t" HALF("r2") "ldm r0!, {r4-r7}\n\t" HALF("r3")
#define HALVES_TWO HALVES_QUAD HALVES_QUAD

#define FOUR_PIXELS(one, two, epilogue)                                                                      \
    BEGIN("5")                                                                                               \
    "1:\n\t"                                                                                                 \
    "ldr r8, [r1], #4\n\t"                                                                                   \
    "ldr r0, " PATCH                                                                                         \
    "\n\t"                                                                                                   \
    "mov r9, r8\n\t"                                                                                         \
    "mov r10, r8\n\t"                                                                                        \
    "mov r11, r8\n\t"                                                                                        \
    "ldr pc, " ENTRY                                                                                         \
    "\n\t"                                                                                                   \
    "2:\n\t" two two                                                                                         \
    "cmp r0, lr\n\t"                                                                                         \
    "bne 2b\n\t"                                                                                             \
    "ldr pc, " TAIL                                                                                          \
    "\n\t"                                                                                                   \
    "43:\n\t" one "42:\n\t" two "40:\n\t" epilogue NEXT "41:\n\t" one "b 40b\n\t"

/* One instruction on each of the four sums; `rest` follows "rN, rN, " or "rN, ". */
#define EACH(op, rest)                                                                                       \
    op " r8, r8, " rest "\n\t" op " r9, r9, " rest "\n\t" op " r10, r10, " rest "\n\t" op " r11, r11, " rest \
       "\n\t"
#define SATURATE "ssat r8, #8, r8\n\tssat r9, #8, r9\n\tssat r10, #8, r10\n\tssat r11, #8, r11\n\t"

#define FACTORS "ldm r1!, {r2, r3, r12}\n\t" /* multiplier, offset, shift */
#define STORE(op, bytes)                                                                                     \
    "ldrd r4, r5, " OUT                                                                                      \
    "\n\t"                                                                                                   \
    "ldr r6, " LAST "\n\t" op " r9, [r4, r5]\n\t" op " r10, [r4, r5, lsl #1]\n\t" op " r11, [r4, r6]\n\t" op \
    " r8, [r4], #" bytes                                                                                     \
    "\n\t"                                                                                                   \
    "str r4, " OUT "\n\t"

#define FLOOR FACTORS EACH("smmla", "r2, r3") EACH("asr", "r12") SATURATE STORE("strb", "1")
#define TWICE(sum)                                                                                           \
    "add r4, r3, " sum                                                                                       \
    ", asr #31\n\t"                                                                                          \
    "lsl " sum                                                                                               \
    ", #1\n\t"                                                                                               \
    "smmlar " sum ", " sum ", r2, r4\n\t"
#define DOUBLE                                                                                               \
    FACTORS TWICE("r8") TWICE("r9") TWICE("r10") TWICE("r11") EACH("asr", "r12") SATURATE STORE("strb", "1")
#define RAW STORE("str", "4")
#define WIDE                                                                                                 \
    FACTORS "lsr r4, r12, #8\n\t" EACH("lsl", "r4") EACH("smmla", "r2, r3") EACH("asr", "r12")               \
        "ssat r8, #16, r8\n\t"                                                                               \
        "ssat r9, #16, r9\n\t"                                                                               \
        "ssat r10, #16, r10\n\t"                                                                             \
        "ssat r11, #16, r11\n\t" STORE("strh", "2")

#define KERNEL(name, body)                                                                                   \
    __attribute__((naked)) static void name(const struct bitship_dsp_run *run __attribute__((unused))) {     \
        __asm__ volatile(body);                                                                              \
    }

/* A quad of one pixel from two words of its patch. */
#define ALONE(word, even, odd)                                                                               \
    "sxtb16 r12, " word                                                                                      \
    "\n\t"                                                                                                   \
    "smlad r8, " even                                                                                        \
    ", r12, r8\n\t"                                                                                          \
    "sxtb16 " word ", " word                                                                                 \
    ", ror #8\n\t"                                                                                           \
    "smlad r8, " odd ", " word ", r8\n\t"
#define ALONE_BYTES                                                                                          \
    "ldr r2, [r1], #4\n\t"                                                                                   \
    "ldrd r4, r5, [r0], #8\n\t" ALONE("r2", "r4", "r5")
#define ALONE_BYTES_FOUR                                                                                     \
    "ldm r1!, {r2, r3, r9, r10}\n\t"                                                                         \
    "ldm r0!, {r4-r7}\n\t" ALONE("r2", "r4", "r5")                                                           \
        ALONE("r3", "r6", "r7") "ldm r0!, {r4-r7}\n\t" ALONE("r9", "r4", "r5") ALONE("r10", "r6", "r7")

#define ALONE_HALVES                                                                                         \
    "ldrd r2, r3, [r1], #8\n\t"                                                                              \
    "ldrd r4, r5, [r0], #8\n\t"                                                                              \
    "smlad r8, r4, r2, r8\n\t"                                                                               \
    "smlad r8, r5, r3, r8\n\t"
#define ALONE_HALVES_TWO                                                                                     \
    "ldm r1!, {r2, r3, r9, r10}\n\t"                                                                         \
    "ldm r0!, {r4-r7}\n\t"                                                                                   \
    "smlad r8, r4, r2, r8\n\t"                                                                               \
    "smlad r8, r5, r3, r8\n\t"                                                                               \
    "smlad r8, r6, r9, r8\n\t"                                                                               \
    "smlad r8, r7, r10, r8\n\t"

#define ONE_PIXEL(one, four, epilogue)                                                                       \
    BEGIN("3")                                                                                               \
    "mov r11, r3\n\t" /* out */                                                                              \
    "1:\n\t"                                                                                                 \
    "ldr r8, [r1], #4\n\t"                                                                                   \
    "ldr r0, " PATCH                                                                                         \
    "\n\t"                                                                                                   \
    "ldr pc, " ENTRY                                                                                         \
    "\n\t"                                                                                                   \
    "2:\n\t" four                                                                                            \
    "cmp r0, lr\n\t"                                                                                         \
    "bne 2b\n\t"                                                                                             \
    "ldr pc, " TAIL                                                                                          \
    "\n\t"                                                                                                   \
    "43:\n\t" one "42:\n\t" one "41:\n\t" one "40:\n\t" epilogue NEXT

#define ALONE_FLOOR                                                                                          \
    FACTORS                                                                                                  \
    "smmla r8, r8, r2, r3\n\t"                                                                               \
    "asr r8, r12\n\t"                                                                                        \
    "ssat r8, #8, r8\n\t"                                                                                    \
    "strb r8, [r11], #1\n\t"
#define ALONE_DOUBLE                                                                                         \
    FACTORS TWICE("r8") "asr r8, r12\n\t"                                                                    \
                        "ssat r8, #8, r8\n\t"                                                                \
                        "strb r8, [r11], #1\n\t"
#define ALONE_RAW "str r8, [r11], #4\n\t"
#define ALONE_WIDE                                                                                           \
    FACTORS                                                                                                  \
    "lsr r4, r12, #8\n\t"                                                                                    \
    "lsl r8, r4\n\t"                                                                                         \
    "smmla r8, r8, r2, r3\n\t"                                                                               \
    "asr r8, r12\n\t"                                                                                        \
    "ssat r8, #16, r8\n\t"                                                                                   \
    "strh r8, [r11], #2\n\t"

#endif
#endif
