/* The instructions of the products of four pixels and of single rows, but for how weights are read (block.c,
 * dense.c, int4.c).
 */
#ifndef BITSHIP_MVE_LOOPS_H
#define BITSHIP_MVE_LOOPS_H

#include "block.h"
#include "dense.h"

#if BITSHIP_MVE

/* Bytes of four channels, pixels in the words: narrow, clamp. r5 clamp. */
#define NARROW(zero_point)                                                                                   \
    "vqadd.s16 q6, q6, " zero_point                                                                          \
    "\n"                                                                                                     \
    "vqadd.s16 q7, q7, " zero_point                                                                          \
    "\n"                                                                                                     \
    "vqmovnb.s16 q6, q6\n"                                                                                   \
    "vqmovnt.s16 q6, q7\n"                                                                                   \
    "cbz r5, 3f\n"                                                                                           \
    "vldrb.u8 q7, [r5]\n"                                                                                    \
    "vmax.s8 q6, q6, q7\n"                                                                                   \
    "vldrb.u8 q7, [r5, #16]\n"                                                                               \
    "vmin.s8 q6, q6, q7\n"                                                                                   \
    "3:\n"

#define CLOBBERED                                                                                            \
    "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0", "q1", "q2", "q3", \
        "q4", "q5", "q6", "q7", "cc", "memory"

/* Two channels: eight sums, all even registers; r5 counts double pieces, an even depth enters in the middle.
 */
#define PAIR(PIECE)                                                                                          \
    "ldrd r1, r5, [r11]\n"                                                                                   \
    PIECE("")                                                                                                \
    "lsrs r5, r5, #1\n"                                                                                      \
    "bcc 5f\n"                                                                                               \
    "4:\n"                                                                                                   \
    PIECE("a")                                                                                               \
    "5:\n"                                                                                                   \
    PIECE("a")                                                                                               \
    "subs r5, r5, #1\n"                                                                                      \
    "bne 4b\n"                                                                                               \
    "vmov q5[2], q5[0], r0, r4\n"                                                                            \
    "vmov q5[3], q5[1], r2, r6\n"                                                                            \
    "vmov q0[2], q0[0], r8, r12\n"                                                                           \
    "vmov q0[3], q0[1], r10, lr\n"

/* The same roundings with sums in q, the table in r7; P_AWAY's result is in q1. */
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
    "vqrdmulh.s32 " q ", " q ", r2\n vpt.s32 lt, " q ", zr\n vaddt.i32 " q ", " q                            \
    ", r8\n"                                                                                                 \
    "vrshl.s32 " q ", r4\n"

/* Two channels into even (b) or odd (t) halves of the 16-bit vectors. */
#define PANEL_PAIR(pair, round, half, sum5, sum0)                                                            \
    pair round("q5") "vqmovn" half ".s32 q6, " sum5 "\n" round("q0") "vqmovn" half ".s32 q7, " sum0 "\n"

#define PANEL(pair, round, sum5, sum0)                                                                       \
    {                                                                                                        \
        register const struct bitship_mve_block *at __asm__("r0") = b;                                       \
        __asm__ volatile(                                                                                    \
            "mov r11, r0\n"                                                                                  \
            "ldrd r3, r7, [r0, #8]\n"                                                                        \
            "ldrd r9, r2, [r0, #16]\n"                                                                       \
            "add r2, r2, r9\n"                                                                               \
            "str r2, [sp, #-16]!\n"                                                                          \
            "1:\n" PANEL_PAIR(pair, round, "b", sum5, sum0) PANEL_PAIR(pair, round, "t", sum5, sum0) /**/    \
            "ldrd r2, r5, [r11, #24]\n" NARROW("r2")                                                 /**/    \
            "vldrw.u32 q0, [r11, #32]\n"                                                                     \
            "ldr r2, [sp]\n"                                                                                 \
            "vstrw.32 q6, [r9, q0]\n"                                                                        \
            "add r9, r9, #4\n"                                                                               \
            "cmp r9, r2\n"                                                                                   \
            "bne 1b\n"                                                                                       \
            "add sp, sp, #16\n"                                                                              \
            : "+r"(at)                                                                                       \
            :                                                                                                \
            : CLOBBERED);                                                                                    \
    }

#define PANELS(pair)                                                                                         \
    switch (rounding) {                                                                                      \
    case BITSHIP_MVE_SINGLE:                                                                                 \
        PANEL(pair, P_SINGLE, "q5", "q0")                                                                    \
        break;                                                                                               \
    case BITSHIP_MVE_DOUBLE_UP:                                                                              \
        PANEL(pair, P_DOUBLE, "q5", "q0")                                                                    \
        break;                                                                                               \
    case BITSHIP_MVE_DOUBLE:                                                                                 \
        PANEL(pair, P_AWAY, "q1", "q1")                                                                      \
        break;                                                                                               \
    case BITSHIP_MVE_SINGLE_ANY:                                                                             \
        PANEL(pair, P_SINGLE_ANY, "q5", "q0")                                                                \
        break;                                                                                               \
    default:                                                                                                 \
        PANEL(pair, P_DOUBLE_ANY, "q5", "q0")                                                                \
        break;                                                                                               \
    }

/* One row: `loop` adds 16 products of x at r1 with four channels' weights at r3 and r5 to r0, r2, r4 and r6;
 * `again` follows it. */
#define ROW(loop, again)                                                                                     \
    register const struct bitship_mve_row *at __asm__("r0") = d;                                             \
    __asm__ volatile(                                                                                        \
        "mov r11, r0\n"                                                                                      \
        "ldr r10, [r0, #44]\n"                                                                               \
        "movs r2, #0\n"                                                                                      \
        "vidup.u32 q7, r2, #1\n"                                                                             \
        "vmul.i32 q7, q7, r10\n"                                                                             \
        "add r10, r10, r10, lsl #1\n"                                                                        \
        "ldrd r3, r9, [r0, #8]\n"                                                                            \
        "ldrd r7, r8, [r0, #16]\n"                                                                           \
        "ldr r12, [r0, #24]\n"                                                                               \
        "ldrd r2, r6, [r0, #36]\n"                                                                           \
        "vdup.32 q5, r2\n"                                                                                   \
        "vdup.32 q6, r6\n"                                                                                   \
        "add r5, r3, r12\n"                                                                                  \
        "1:\n"                                                                                               \
        "ldrd r1, r0, [r11]\n"                                                                               \
        "dlstp.8 lr, r0\n"                                                                                   \
        "movs r0, #0\n"                                                                                      \
        "movs r2, #0\n"                                                                                      \
        "movs r4, #0\n"                                                                                      \
        "movs r6, #0\n"                                                                                      \
        "2:\n" loop "letp lr, 2b\n" again                                                                    \
        "mov r3, r5\n"                                                                                       \
        "add r5, r5, r12\n"                                                                                  \
        "vmov q0[2], q0[0], r0, r4\n"                                                                        \
        "vmov q0[3], q0[1], r2, r6\n"                                                                        \
        "ldrd r0, r1, [r11, #28]\n"                                                                          \
        "vldrw.u32 q1, [r9, q7]\n"                                                                           \
        "add r9, r9, #4\n"                                                                                   \
        "vldrw.u32 q2, [r9, q7]\n"                                                                           \
        "add r9, r9, #4\n"                                                                                   \
        "vldrw.u32 q3, [r9, q7]\n"                                                                           \
        "add r9, r9, #4\n"                                                                                   \
        "vadd.i32 q0, q0, q1\n"                                                                              \
        "tst r1, #4\n"                                                                                       \
        "bne 5f\n"                                                                                           \
        "lsrs r1, r1, #1\n"                                                                                  \
        "bcs 3f\n"                                                                                           \
        "bne 4f\n"                                                                                           \
        "vqdmulh.s32 q0, q0, q2\n"                                                                           \
        "b 6f\n"                                                                                             \
        "4:\n"                                                                                               \
        "vqrdmulh.s32 q0, q0, q2\n"                                                                          \
        "vshr.s32 q1, q0, #31\n"                                                                             \
        "vadd.i32 q0, q0, q1\n"                                                                              \
        "b 6f\n"                                                                                             \
        "5:\n"                                                                                               \
        "vldrw.u32 q1, [r9, q7]\n"                                                                           \
        "add r9, r9, #4\n"                                                                                   \
        "vqshl.s32 q0, q0, q1\n"                                                                             \
        "vldrw.u32 q1, [r9, q7]\n"                                                                           \
        "add r9, r9, #4\n"                                                                                   \
        "lsrs r1, r1, #1\n"                                                                                  \
        "bcs 7f\n"                                                                                           \
        "vqdmulh.s32 q0, q0, q2\n"                                                                           \
        "b 6f\n"                                                                                             \
        "7:\n"                                                                                               \
        "vqrdmulh.s32 q0, q0, q2\n"                                                                          \
        "vpt.s32 lt, q0, zr\n"                                                                               \
        "vaddt.i32 q0, q0, q1\n"                                                                             \
        "b 6f\n"                                                                                             \
        "3:\n"                                                                                               \
        "vqrdmulh.s32 q0, q0, q2\n"                                                                          \
        "6:\n"                                                                                               \
        "add r9, r9, r10\n"                                                                                  \
        "vrshl.s32 q0, q0, q3\n"                                                                             \
        "vqadd.s32 q0, q0, r0\n"                                                                             \
        "vmax.s32 q0, q0, q5\n"                                                                              \
        "vmin.s32 q0, q0, q6\n"                                                                              \
        "vctp.32 r8\n"                                                                                       \
        "subs r8, r8, #4\n"                                                                                  \
        "vpst\n"                                                                                             \
        "vstrbt.32 q0, [r7], #4\n"                                                                           \
        "bgt 1b\n"                                                                                           \
        : "+r"(at)                                                                                           \
        :                                                                                                    \
        : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0", "q1", "q2", \
          "q3", "q4", "q5", "q6", "cc", "memory");

#endif
#endif
