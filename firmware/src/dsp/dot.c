/* The dot products' loops: assembler for cores with the DSP extension, whose 14 registers a compiler spills,
 * and the same loops in C. */
#include "loops.h"

#if BITSHIP_DSP_ASM

KERNEL(four_bytes_floor, FOUR_PIXELS(BYTES_QUAD, BYTES_TWO, FLOOR))
KERNEL(four_bytes_double, FOUR_PIXELS(BYTES_QUAD, BYTES_TWO, DOUBLE))
KERNEL(four_bytes_raw, FOUR_PIXELS(BYTES_QUAD, BYTES_TWO, RAW))
KERNEL(four_halves_floor, FOUR_PIXELS(HALVES_QUAD, HALVES_TWO, FLOOR))
KERNEL(four_halves_double, FOUR_PIXELS(HALVES_QUAD, HALVES_TWO, DOUBLE))
KERNEL(four_halves_raw, FOUR_PIXELS(HALVES_QUAD, HALVES_TWO, RAW))
KERNEL(four_bytes_wide, FOUR_PIXELS(BYTES_QUAD, BYTES_TWO, WIDE))
KERNEL(four_halves_wide, FOUR_PIXELS(HALVES_QUAD, HALVES_TWO, WIDE))

KERNEL(one_bytes_floor, ONE_PIXEL(ALONE_BYTES, ALONE_BYTES_FOUR, ALONE_FLOOR))
KERNEL(one_bytes_double, ONE_PIXEL(ALONE_BYTES, ALONE_BYTES_FOUR, ALONE_DOUBLE))
KERNEL(one_bytes_raw, ONE_PIXEL(ALONE_BYTES, ALONE_BYTES_FOUR, ALONE_RAW))
KERNEL(one_halves_floor, ONE_PIXEL(ALONE_HALVES, ALONE_HALVES_TWO ALONE_HALVES_TWO, ALONE_FLOOR))
KERNEL(one_halves_double, ONE_PIXEL(ALONE_HALVES, ALONE_HALVES_TWO ALONE_HALVES_TWO, ALONE_DOUBLE))
KERNEL(one_halves_raw, ONE_PIXEL(ALONE_HALVES, ALONE_HALVES_TWO ALONE_HALVES_TWO, ALONE_RAW))
KERNEL(one_bytes_wide, ONE_PIXEL(ALONE_BYTES, ALONE_BYTES_FOUR, ALONE_WIDE))
KERNEL(one_halves_wide, ONE_PIXEL(ALONE_HALVES, ALONE_HALVES_TWO ALONE_HALVES_TWO, ALONE_WIDE))

/* A channel of a pixel of eight input channels, which stay in r4-r7: r2 sum, r3 r8-r10 weights, then factors.
 */
#define EIGHT_CHANNEL(finish)                                                                                \
    "ldm r1!, {r2, r3, r8-r10}\n\t"                                                                          \
    "smlad r2, r4, r3, r2\n\t"                                                                               \
    "smlad r2, r5, r8, r2\n\t"                                                                               \
    "smlad r2, r6, r9, r2\n\t"                                                                               \
    "smlad r2, r7, r10, r2\n\t"                                                                              \
    "ldm r1!, {r3, r8, r9}\n\t" finish                                                                       \
    "asr r2, r9\n\t"                                                                                         \
    "ssat r2, #8, r2\n\t"                                                                                    \
    "strb r2, [r11], #1\n\t"
#define EIGHT_FLOOR "smmla r2, r2, r3, r8\n\t"
#define EIGHT_DOUBLE                                                                                         \
    "add r8, r8, r2, asr #31\n\t"                                                                            \
    "lsl r2, #1\n\t"                                                                                         \
    "smmlar r2, r2, r3, r8\n\t"

/* r0 x, r1 weights, lr their end, r11 out, r12 pixels left. Two channels a round; an odd number enters at 3.
 */
#define EIGHT(finish)                                                                                        \
    "push {r4-r11, lr}\n\t"                                                                                  \
    "sub sp, #12\n\t"                                                                                        \
    "ldm r0, {r0-r5}\n\t"                                                                                    \
    "mov lr, r2\n\t"                                                                                         \
    "mov r11, r3\n\t"                                                                                        \
    "mov r12, r4\n\t"                                                                                        \
    "adr.w r4, 2f\n\t"                                                                                       \
    "tst r5, #1\n\t"                                                                                         \
    "it ne\n\t"                                                                                              \
    "adrne.w r4, 3f\n\t"                                                                                     \
    "orr r4, #1\n\t"                                                                                         \
    "strd r1, r4, [sp]\n\t"                                                                                  \
    "1:\n\t"                                                                                                 \
    "ldr r4, [r0], #4\n\t"                                                                                   \
    "ldr r6, [r0], #4\n\t"                                                                                   \
    "ldr r1, [sp]\n\t"                                                                                       \
    "sxtb16 r5, r4, ror #8\n\t"                                                                              \
    "sxtb16 r4, r4\n\t"                                                                                      \
    "sxtb16 r7, r6, ror #8\n\t"                                                                              \
    "sxtb16 r6, r6\n\t"                                                                                      \
    "ldr pc, [sp, #4]\n\t"                                                                                   \
    "2:\n\t" EIGHT_CHANNEL(finish) "3:\n\t" EIGHT_CHANNEL(finish) "cmp r1, lr\n\t"                         \
    "bne 2b\n\t"                                                                                             \
    "subs r12, #1\n\t"                                                                                       \
    "bne 1b\n\t"                                                                                             \
    "add sp, #12\n\t"                                                                                        \
    "pop {r4-r11, pc}\n\t"

__attribute__((naked)) static void eight_floor(const struct bitship_dsp_eight *run __attribute__((unused))) {
    __asm__ volatile(EIGHT(EIGHT_FLOOR));
}
__attribute__((naked)) static void eight_double(const struct bitship_dsp_eight *run __attribute__((unused))) {
    __asm__ volatile(EIGHT(EIGHT_DOUBLE));
}

#else

/* The same for any number of pixels that a patch has side by side. */
static inline void dot(const struct bitship_dsp_run *run, int32_t pixels, int32_t weights, int32_t epilogue) {
    const uint8_t *w = (const uint8_t *)run->weights;
    const int32_t size = weights == BITSHIP_DSP_HALVES ? 8 : 4; /* bytes of a quad */
    const int32_t bytes = bitship_dsp_channel_bytes(run->quads, weights, epilogue);
    for (int32_t channel = 0; w != (const uint8_t *)run->end; channel++, w += bytes) {
        int32_t at = 0;
        for (int32_t pixel = 0; pixel < pixels; pixel++, at = pixel == 3 ? run->last : at + run->step) {
            const uint32_t *x = run->patch + pixel;
            int32_t acc = (int32_t)bitship_word(w);
            for (int32_t quad = 0; quad < run->quads; quad++, x += 2 * pixels) {
                const uint8_t *from = w + 4 + size * quad;
                const uint32_t word = bitship_word(from);
                const int whole = weights == BITSHIP_DSP_HALVES;
                acc = bitship_smlad(x[0], whole ? word : bitship_sxtb16(word), acc);
                acc =
                    bitship_smlad(x[pixels], whole ? bitship_word(from + 4) : bitship_sxtb16_odd(word), acc);
            }
            int32_t factors[3] = {0, 0, 0};
            if (epilogue == BITSHIP_DSP_RAW) {
                memcpy((uint8_t *)run->out + at + 4 * channel, &acc, sizeof acc);
                continue;
            }
            memcpy(factors, w + 4 + size * run->quads, sizeof factors);
            if (epilogue == BITSHIP_DSP_WIDE) {
                const int16_t y = bitship_dsp_finish16(acc, factors);
                memcpy((uint8_t *)run->out + at + 2 * channel, &y, sizeof y);
            } else {
                ((int8_t *)run->out)[at + channel] = bitship_dsp_finish(epilogue, acc, factors);
            }
        }
    }
}

#define KERNEL(name, pixels, weights, epilogue)                                                              \
    static void name(const struct bitship_dsp_run *run) { dot(run, pixels, weights, epilogue); }

KERNEL(four_bytes_floor, 4, BITSHIP_DSP_BYTES, BITSHIP_DSP_FLOOR)
KERNEL(four_bytes_double, 4, BITSHIP_DSP_BYTES, BITSHIP_DSP_DOUBLE)
KERNEL(four_bytes_raw, 4, BITSHIP_DSP_BYTES, BITSHIP_DSP_RAW)
KERNEL(four_halves_floor, 4, BITSHIP_DSP_HALVES, BITSHIP_DSP_FLOOR)
KERNEL(four_halves_double, 4, BITSHIP_DSP_HALVES, BITSHIP_DSP_DOUBLE)
KERNEL(four_halves_raw, 4, BITSHIP_DSP_HALVES, BITSHIP_DSP_RAW)
KERNEL(one_bytes_floor, 1, BITSHIP_DSP_BYTES, BITSHIP_DSP_FLOOR)
KERNEL(one_bytes_double, 1, BITSHIP_DSP_BYTES, BITSHIP_DSP_DOUBLE)
KERNEL(one_bytes_raw, 1, BITSHIP_DSP_BYTES, BITSHIP_DSP_RAW)
KERNEL(one_halves_floor, 1, BITSHIP_DSP_HALVES, BITSHIP_DSP_FLOOR)
KERNEL(one_halves_double, 1, BITSHIP_DSP_HALVES, BITSHIP_DSP_DOUBLE)
KERNEL(one_halves_raw, 1, BITSHIP_DSP_HALVES, BITSHIP_DSP_RAW)
KERNEL(four_bytes_wide, 4, BITSHIP_DSP_BYTES, BITSHIP_DSP_WIDE)
KERNEL(four_halves_wide, 4, BITSHIP_DSP_HALVES, BITSHIP_DSP_WIDE)
KERNEL(one_bytes_wide, 1, BITSHIP_DSP_BYTES, BITSHIP_DSP_WIDE)
KERNEL(one_halves_wide, 1, BITSHIP_DSP_HALVES, BITSHIP_DSP_WIDE)

static inline void eight(const struct bitship_dsp_eight *run, int32_t epilogue) {
    uint8_t *out = (uint8_t *)run->out;
    for (int32_t pixel = 0; pixel < run->pixels; pixel++, out += run->channels) {
        const uint32_t a = bitship_word(run->x + 8 * pixel), b = bitship_word(run->x + 8 * pixel + 4);
        const uint32_t patch[4] = {bitship_sxtb16(a), bitship_sxtb16_odd(a), bitship_sxtb16(b),
                                   bitship_sxtb16_odd(b)};
        const struct bitship_dsp_run one = {patch, run->weights, run->end, out, 0, 0, 2, 0};
        dot(&one, 1, BITSHIP_DSP_HALVES, epilogue);
    }
}

static void eight_floor(const struct bitship_dsp_eight *run) { eight(run, BITSHIP_DSP_FLOOR); }
static void eight_double(const struct bitship_dsp_eight *run) { eight(run, BITSHIP_DSP_DOUBLE); }

#endif

bitship_dsp_dot *bitship_dsp_dot4(int32_t weights, int32_t epilogue) {
    static bitship_dsp_dot *const kernels[2][4] = {
        {four_bytes_floor, four_bytes_double, four_bytes_raw, four_bytes_wide},
        {four_halves_floor, four_halves_double, four_halves_raw, four_halves_wide}};
    return kernels[weights][epilogue];
}

bitship_dsp_dot *bitship_dsp_dot1(int32_t weights, int32_t epilogue) {
    static bitship_dsp_dot *const kernels[2][4] = {
        {one_bytes_floor, one_bytes_double, one_bytes_raw, one_bytes_wide},
        {one_halves_floor, one_halves_double, one_halves_raw, one_halves_wide}};
    return kernels[weights][epilogue];
}

void bitship_dsp_eight(const struct bitship_dsp_eight *run, int32_t epilogue) {
    if (epilogue == BITSHIP_DSP_FLOOR) {
        eight_floor(run);
    } else {
        eight_double(run);
    }
}
