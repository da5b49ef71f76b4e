/* The sums of a depthwise convolution's pixels; see depthwise.h. */
#include "depthwise.h"

#if BITSHIP_MVE

/* Two taps' products, added as int16. The second product takes the weights' register, so they are read twice.
 */
#define FIRST(ask, x, at)                                                                                    \
    ask "vldrb" x                                                                                            \
        "\n"                                                                                                 \
        "vldrb.u8 q5, [r9, #" at                                                                             \
        "]\n"                                                                                                \
        "vmullb.s8 q6, q4, q5\n"                                                                             \
        "vmullt.s8 q7, q4, q5\n"
#define SECOND(ask, x, at)                                                                                   \
    ask "vldrb" x                                                                                            \
        "\n"                                                                                                 \
        "vldrb.u8 q5, [r9, #" at                                                                             \
        "]\n"                                                                                                \
        "vmullt.s8 q5, q4, q5\n"                                                                             \
        "vadd.i16 q7, q7, q5\n"                                                                              \
        "vldrb.u8 q5, [r9, #" at                                                                             \
        "]\n"                                                                                                \
        "vmullb.s8 q4, q4, q5\n"                                                                             \
        "vadd.i16 q6, q6, q4\n"
/* Widened into the sums. */
#define WIDEN                                                                                                \
    "vmovlb.s16 q4, q6\n"                                                                                    \
    "vmovlt.s16 q6, q6\n"                                                                                    \
    "vmovlb.s16 q5, q7\n"                                                                                    \
    "vmovlt.s16 q7, q7\n"                                                                                    \
    "vadd.i32 q0, q0, q4\n"                                                                                  \
    "vadd.i32 q1, q1, q6\n"                                                                                  \
    "vadd.i32 q2, q2, q5\n"                                                                                  \
    "vadd.i32 q3, q3, q7\n"
#define BIAS                                                                                                 \
    "vldrw.u32 q0, [r9], #16\n"                                                                              \
    "vldrw.u32 q1, [r9], #16\n"                                                                              \
    "vldrw.u32 q2, [r9], #16\n"                                                                              \
    "vldrw.u32 q3, [r9], #16\n"

#define SCALE(multiply, q)                                                                                   \
    "vldrw.u32 q4, [r9], #16\n" multiply " " q ", " q                                                        \
    ", q4\n"                                                                                                 \
    "vldrw.u32 q4, [r9], #16\n"                                                                              \
    "vrshl.s32 " q ", " q ", q4\n"
/* VRSHL rounds half up; one less below zero is half away. */
#define SCALE_AWAY(q)                                                                                        \
    "vldrw.u32 q4, [r9], #16\n"                                                                              \
    "vqrdmulh.s32 " q ", " q                                                                                 \
    ", q4\n"                                                                                                 \
    "vldrw.u32 q4, [r9], #16\n"                                                                              \
    "vshr.s32 q5, " q                                                                                        \
    ", #31\n"                                                                                                \
    "vadd.i32 " q ", " q                                                                                     \
    ", q5\n"                                                                                                 \
    "vrshl.s32 " q ", " q ", q4\n"
/* The bytes of 16 channels in q6: r11 zero point, r12 rounding plus 8 for a clamp, [sp] the parameters. */
#define FINISH                                                                                               \
    "tst r12, #1\n"                                                                                          \
    "bne 61f\n"                                                                                              \
    "tst r12, #2\n"                                                                                          \
    "bne 62f\n" SCALE("vqdmulh.s32", "q0") SCALE("vqdmulh.s32", "q1") SCALE("vqdmulh.s32", "q2")             \
        SCALE("vqdmulh.s32", "q3") "b 63f\n"                                                                 \
    "62:\n" SCALE_AWAY("q0") SCALE_AWAY("q1") SCALE_AWAY("q2") SCALE_AWAY("q3") "b 63f\n"                    \
    "61:\n" SCALE("vqrdmulh.s32", "q0") SCALE("vqrdmulh.s32", "q1") SCALE("vqrdmulh.s32", "q2")              \
        SCALE("vqrdmulh.s32", "q3")                                                                          \
    "63:\n"                                                                                                  \
    "vqmovnb.s32 q6, q0\n"                                                                                   \
    "vqmovnt.s32 q6, q1\n"                                                                                   \
    "vqmovnb.s32 q7, q2\n"                                                                                   \
    "vqmovnt.s32 q7, q3\n"                                                                                   \
    "vqadd.s16 q6, q6, r11\n"                                                                                \
    "vqadd.s16 q7, q7, r11\n"                                                                                \
    "vqmovnb.s16 q6, q6\n"                                                                                   \
    "vqmovnt.s16 q6, q7\n"                                                                                   \
    "tst r12, #8\n"                                                                                          \
    "beq 64f\n"                                                                                              \
    "str lr, [sp, #4]\n"                                                                                     \
    "ldr lr, [sp]\n"                                                                                         \
    "ldr lr, [lr, #68]\n"                                                                                    \
    "vldrb.u8 q7, [lr]\n"                                                                                    \
    "vmax.s8 q6, q6, q7\n"                                                                                   \
    "vldrb.u8 q7, [lr, #16]\n"                                                                               \
    "vmin.s8 q6, q6, q7\n"                                                                                   \
    "ldr lr, [sp, #4]\n"                                                                                     \
    "64:\n"

/* ask and t: "vpst\n" and "t" for a block of fewer channels; step: how a tap moves on to the next block. */
#define BLOCK_3X3(ask, t, step)                                                                              \
    BIAS FIRST(ask, t ".u8 q4, [r0]" step, "0") SECOND(ask, t ".u8 q4, [r1]" step, "16")                     \
        WIDEN FIRST(ask, t ".u8 q4, [r2]" step, "32") SECOND(ask, t ".u8 q4, [r3]" step, "48")               \
            WIDEN FIRST(ask, t ".u8 q4, [r4]" step, "64") SECOND(ask, t ".u8 q4, [r5]" step, "80")           \
                WIDEN FIRST(ask, t ".u8 q4, [r6]" step, "96") SECOND(ask, t ".u8 q4, [r7]" step, "112")      \
                    WIDEN                                                                                    \
        "add r9, r9, #128\n" FIRST(ask, t ".u8 q4, [r8]" step, "0") "add r9, r9, #16\n" WIDEN FINISH

void bitship_mve_taps_3x3(struct bitship_mve_taps *t) {
    register struct bitship_mve_taps *at __asm__("r0") = t;
    __asm__ volatile("sub sp, sp, #8\n"
                     "str r0, [sp]\n"
                     "ldr r10, [r0, #40]\n"
                     "ldm r0, {r0-r8}\n"
                     "1:\n"
                     "ldr r12, [sp]\n"
                     "ldr r9, [r12, #36]\n"
                     "ldrd lr, r11, [r12, #44]\n"
                     "ldrd r11, r12, [r12, #60]\n"
                     "wls lr, lr, 3f\n"
                     "2:\n" BLOCK_3X3("", "", ", #16") "vstrb.8 q6, [r10], #16\n"
                     "le lr, 2b\n"
                     "3:\n"
                     "ldr lr, [sp]\n"
                     "ldr lr, [lr, #48]\n"
                     "cmp lr, #0\n"
                     "beq 4f\n"
                     "vctp.8 lr\n" BLOCK_3X3("vpst\n", "t", "") "ldr lr, [sp]\n"
                     "ldr lr, [lr, #48]\n"
                     "vpst\n"
                     "vstrbt.8 q6, [r10]\n"
                     "add r10, r10, lr\n"
                     "4:\n"
                     "ldr r12, [sp]\n"
                     "ldrd lr, r11, [r12, #52]\n"
                     "subs lr, lr, #1\n"
                     "str lr, [r12, #52]\n"
                     "beq 5f\n"
                     "cmp r11, #0\n"
                     "beq 1b\n"
                     "add r0, r0, r11\n"
                     "add r1, r1, r11\n"
                     "add r2, r2, r11\n"
                     "add r3, r3, r11\n"
                     "add r4, r4, r11\n"
                     "add r5, r5, r11\n"
                     "add r6, r6, r11\n"
                     "add r7, r7, r11\n"
                     "add r8, r8, r11\n"
                     "b 1b\n"
                     "5:\n"
                     "add sp, sp, #8\n"
                     : "+r"(at)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0",
                       "q1", "q2", "q3", "q4", "q5", "q6", "q7", "cc", "memory");
}

/* Runs of taps whose products fit int16 together, a count before each. r1 is where offsets of taps count
 * from. */
#define BLOCK_ANY(ask, t)                                                                                    \
    "mov r0, r3\n" BIAS                                                                                      \
    "71:\n"                                                                                                  \
    "ldr lr, [r9], #4\n"                                                                                     \
    "ldr r2, [r0], #4\n"                                                                                     \
    "add r2, r2, r1\n" FIRST(ask, t ".u8 q4, [r2]", "0") "add r9, r9, #16\n"                                 \
    "subs lr, lr, #1\n"                                                                                      \
    "wls lr, lr, 73f\n"                                                                                      \
    "72:\n"                                                                                                  \
    "ldr r2, [r0], #4\n"                                                                                     \
    "add r2, r2, r1\n" SECOND(ask, t ".u8 q4, [r2]", "0") "add r9, r9, #16\n"                                \
    "le lr, 72b\n"                                                                                           \
    "73:\n" WIDEN                                                                                            \
    "cmp r0, r4\n"                                                                                           \
    "bne 71b\n" FINISH

void bitship_mve_taps_any(struct bitship_mve_taps *t) {
    register struct bitship_mve_taps *at __asm__("r0") = t;
    __asm__ volatile("sub sp, sp, #8\n"
                     "str r0, [sp]\n"
                     "ldrd r9, r10, [r0, #36]\n"
                     "ldrd r8, r7, [r0, #44]\n"
                     "ldrd r11, r12, [r0, #60]\n"
                     "ldrd r3, r4, [r0, #72]\n"
                     "ldr r1, [r0, #80]\n"
                     "cmp r8, #0\n"
                     "beq 3f\n"
                     "1:\n" BLOCK_ANY("", "") "vstrb.8 q6, [r10], #16\n"
                     "add r1, r1, #16\n"
                     "subs r8, r8, #1\n"
                     "bne 1b\n"
                     "3:\n"
                     "cmp r7, #0\n"
                     "beq 4f\n"
                     "vctp.8 r7\n" BLOCK_ANY("vpst\n", "t") "vpst\n"
                     "vstrbt.8 q6, [r10]\n"
                     "4:\n"
                     "add sp, sp, #8\n"
                     : "+r"(at)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "q0",
                       "q1", "q2", "q3", "q4", "q5", "q6", "q7", "cc", "memory");
}

#else

/* Where channel c of a block lies among the lanes of its sums. */
static int lane(int c) { return (c % 2 * 2 + c / 2 % 2) * 4 + c / 4; }

static int32_t word(const int8_t *at) {
    int32_t value;
    memcpy(&value, at, 4);
    return value;
}

/* n channels of one pixel from the block's constants; returns what follows them. */
static const int8_t *finish(const struct bitship_mve_taps *t, const int8_t *m, const int32_t *sum, int32_t n,
                            int8_t *out) {
    for (int c = 0; c < n; c++) {
        const int at = lane(c), i = at / 4 * 8 + at % 4;
        const int32_t entry[5] = {0, word(m + i * 4), word(m + (i + 4) * 4)};
        out[c] = bitship_mve_narrow(bitship_mve_round(sum[c], entry, t->rounding & 7), t->zero_point,
                                    (t->rounding & 8) != 0 ? t->clamp : NULL);
    }
    return m + 128;
}

static const int8_t *found(const struct bitship_mve_taps *t, int32_t offset) {
    return offset == BITSHIP_MVE_OUTSIDE ? t->outside : t->base + offset;
}

/* One pixel; `counted`: the taps come in runs. A run's products must fit int16 together. */
static void pixel(const struct bitship_mve_taps *t, int32_t taps, int counted, int8_t *out) {
    const int8_t *w = t->stream;
    const int32_t channels = t->blocks * 16 + t->tail;
    for (int32_t first = 0; first < channels; first += 16) {
        const int32_t n = channels - first < 16 ? channels - first : 16;
        const int8_t *const bias = w;
        int32_t sum[16];
        w += 64;
        for (int c = 0; c < n; c++) {
            sum[c] = word(bias + lane(c) * 4);
        }
        for (int32_t i = 0; i < taps;) {
            int32_t run = counted ? word(w) : 2 < taps - i ? 2 : taps - i;
            int16_t products[16] = {0};
            for (w += counted ? 4 : 0; run > 0; run--, i++, w += 16) {
                const int8_t *tap = counted ? found(t, t->offset[i]) : t->tap[i];
                for (int c = 0; c < n; c++) {
                    products[c] = (int16_t)(products[c] + tap[first + c] * w[c]);
                }
            }
            for (int c = 0; c < n; c++) {
                sum[c] += products[c];
            }
        }
        w = finish(t, w, sum, n, out + first);
    }
}

void bitship_mve_taps_3x3(struct bitship_mve_taps *t) {
    struct bitship_mve_taps at = *t;
    int8_t *out = t->out;
    for (int32_t n = t->pixels; n > 0; n--, out += t->blocks * 16 + t->tail) {
        pixel(&at, 9, 0, out);
        for (int i = 0; i < 9; i++) {
            at.tap[i] += t->advance + t->blocks * 16;
        }
    }
}

void bitship_mve_taps_any(struct bitship_mve_taps *t) { pixel(t, (int32_t)(t->end - t->offset), 1, t->out); }

#endif
