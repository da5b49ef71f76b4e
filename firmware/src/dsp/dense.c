/* A fully connected layer of one row: x is read as it is, four channels at a time, so no scratch is needed.
 *
 * Packed weights of four channels: their biases, a word of each for every quad of x, their multipliers,
 * offsets and shifts. Channels are filled up to a multiple of four.
 */
#include "dot.h"

#include <string.h>

#define CHANNELS 4

/* Blocks [weights, end) of four channels. The assembly reads the fields by their place. */
struct run {
    const int8_t *x;
    const void *weights;
    const void *end;
    int8_t *out;
    int32_t quads;
};

#if BITSHIP_DSP_ASM

/* r8-r11 sums, r12 and r6 the quad's elements (0, 2) and (1, 3), r2-r5 weights. */
#define PRODUCT(weights, sum)                                                                                \
    "sxtb16 r7, " weights                                                                                    \
    "\n\t"                                                                                                   \
    "smlad " sum ", r12, r7, " sum                                                                           \
    "\n\t"                                                                                                   \
    "sxtb16 " weights ", " weights                                                                           \
    ", ror #8\n\t"                                                                                           \
    "smlad " sum ", r6, " weights ", " sum "\n\t"
#define QUAD                                                                                                 \
    "ldr r6, [r0], #4\n\t"                                                                                   \
    "ldm r1!, {r2-r5}\n\t"                                                                                   \
    "sxtb16 r12, r6\n\t"                                                                                     \
    "sxtb16 r6, r6, ror #8\n\t" PRODUCT("r2", "r8") PRODUCT("r3", "r9") PRODUCT("r4", "r10")                 \
        PRODUCT("r5", "r11")

#define FLOOR(sum) "smmla " sum ", " sum ", r2, r3\n\t"
#define DOUBLE(sum)                                                                                          \
    "add r3, r3, " sum                                                                                       \
    ", asr #31\n\t"                                                                                          \
    "lsl " sum                                                                                               \
    ", #1\n\t"                                                                                               \
    "smmlar " sum ", " sum ", r2, r3\n\t"
#define FINISH(scale, sum)                                                                                   \
    "ldm r1!, {r2, r3, r12}\n\t" scale(sum) "asr " sum                                                       \
                                            ", r12\n\t"                                                      \
                                            "ssat " sum ", #8, " sum                                         \
                                            "\n\t"                                                           \
                                            "strb " sum ", [r6], #1\n\t"

/* lr is x's end; an odd number of quads enters the loop in its middle. */
#define BODY(scale)                                                                                          \
    "push {r4-r11, lr}\n\t"                                                                                  \
    "sub sp, #12\n\t"                                                                                        \
    "ldm r0, {r0-r4}\n\t"                                                                                    \
    "add lr, r0, r4, lsl #2\n\t"                                                                             \
    "strd r0, r2, [sp]\n\t"                                                                                  \
    "str r3, [sp, #8]\n\t"                                                                                   \
    "1:\n\t"                                                                                                 \
    "ldm r1!, {r8-r11}\n\t"                                                                                  \
    "ldr r0, [sp]\n\t"                                                                                       \
    "sub r2, lr, r0\n\t"                                                                                     \
    "tst r2, #4\n\t"                                                                                         \
    "bne 3f\n\t"                                                                                             \
    "2:\n\t" QUAD "3:\n\t" QUAD "cmp r0, lr\n\t"                                                             \
    "bne 2b\n\t"                                                                                             \
    "ldr r6, [sp, #8]\n\t" FINISH(scale, "r8") FINISH(scale, "r9") FINISH(scale, "r10") FINISH(scale, "r11") \
    "str r6, [sp, #8]\n\t"                                                                                   \
    "ldr r2, [sp, #4]\n\t"                                                                                   \
    "cmp r1, r2\n\t"                                                                                         \
    "bne 1b\n\t"                                                                                             \
    "add sp, #12\n\t"                                                                                        \
    "pop {r4-r11, pc}\n\t"

__attribute__((naked)) static void run_floor(const struct run *run __attribute__((unused))) {
    __asm__ volatile(BODY(FLOOR));
}
__attribute__((naked)) static void run_double(const struct run *run __attribute__((unused))) {
    __asm__ volatile(BODY(DOUBLE));
}

#else

static inline void blocks(const struct run *run, int32_t epilogue) {
    const uint8_t *w = (const uint8_t *)run->weights;
    int8_t *out = run->out;
    while (w != (const uint8_t *)run->end) {
        int32_t acc[CHANNELS];
        memcpy(acc, w, sizeof acc);
        w += sizeof acc;
        for (int32_t quad = 0; quad < run->quads; quad++) {
            const uint32_t x = bitship_word(run->x + 4 * quad);
            for (int32_t i = 0; i < CHANNELS; i++, w += 4) {
                const uint32_t word = bitship_word(w);
                acc[i] = bitship_smlad(bitship_sxtb16(x), bitship_sxtb16(word), acc[i]);
                acc[i] = bitship_smlad(bitship_sxtb16_odd(x), bitship_sxtb16_odd(word), acc[i]);
            }
        }
        for (int32_t i = 0; i < CHANNELS; i++, w += 12) {
            int32_t factors[3];
            memcpy(factors, w, sizeof factors);
            *out++ = bitship_dsp_finish(epilogue, acc[i], factors);
        }
    }
}

static void run_floor(const struct run *run) { blocks(run, BITSHIP_DSP_FLOOR); }
static void run_double(const struct run *run) { blocks(run, BITSHIP_DSP_DOUBLE); }

#endif

int bitship_dsp_fully_connected(const struct bitship_dsp_dense *p, const int8_t *x, const void *weights,
                                int8_t *out) {
    void (*const kernel)(const struct run *) = p->epilogue == BITSHIP_DSP_FLOOR ? run_floor : run_double;
    const int32_t block = CHANNELS * 4 * (1 + p->quads + 3), whole = p->channels / CHANNELS;
    const uint8_t *const end = (const uint8_t *)weights + (ptrdiff_t)whole * block;
    if (whole > 0) {
        const struct run run = {x, weights, end, out, p->quads};
        kernel(&run);
    }
    if (p->channels % CHANNELS != 0) {
        int8_t last[CHANNELS];
        const struct run run = {x, end, end + block, last, p->quads};
        kernel(&run);
        memcpy(out + (ptrdiff_t)whole * CHANNELS, last, (size_t)(p->channels % CHANNELS));
    }
    return BITSHIP_OK;
}
