/* depthwise_conv2d on int8: four channels at a time, pairs of taps as int16, two multiply-accumulates an
 * instruction.
 *
 * A tap's word is four channels. PKHBT and PKHTB put channels 0, 1 (2, 3) of two taps side by side, SXTB16
 * makes them pairs of the same channel. The taps of a window are a table of distances from its first byte;
 * what lies outside the image is read from a row of zero points, so the loop has no border case.
 *
 * Packed weights of four channels: their biases (int32), for every pair of taps four words (both taps of a
 * channel as int16), two words of the last tap (channels 0, 2 and 1, 3), and unless the epilogue is RAW every
 * channel's multiplier, offset and shift (int32). With 2 pairs or 4 to a round the taps are filled up with
 * zeros to 4n + 1. The last four channels overlap the ones before where channels are no multiple of four.
 */
#include "../window.h"
#include "dot.h"

#define GROUP 4
#define CHUNK 16
#define MOST_TAPS 81

typedef void depthwise_dot(const struct bitship_dsp_row *run);

#if BITSHIP_DSP_ASM

/* r0 x, r1 weights, lr taps, r8-r11 sums, r2 r3 r12 elements, r4-r7 weights. */
#define FRAME "36"
#define TAPS "[sp, #0]"
#define ENTRY "[sp, #4]"
#define TAPS_END "[sp, #8]"
#define OUT "[sp, #12]"
#define END "[sp, #16]"
#define WEIGHTS "[sp, #20]"
#define STEP "[sp, #24]" /* then the count */

#define PAIR                                                                                                 \
    "ldrd r2, r3, [lr], #8\n\t"                                                                              \
    "ldm r1!, {r4-r7}\n\t"                                                                                   \
    "ldr r2, [r0, r2]\n\t"                                                                                   \
    "ldr r3, [r0, r3]\n\t"                                                                                   \
    "pkhbt r12, r2, r3, lsl #16\n\t"                                                                         \
    "pkhtb r3, r3, r2, asr #16\n\t"                                                                          \
    "sxtb16 r2, r12\n\t"                                                                                     \
    "sxtb16 r12, r12, ror #8\n\t"                                                                            \
    "smlad r8, r2, r4, r8\n\t"                                                                               \
    "smlad r9, r12, r5, r9\n\t"                                                                              \
    "sxtb16 r2, r3\n\t"                                                                                      \
    "sxtb16 r3, r3, ror #8\n\t"                                                                              \
    "smlad r10, r2, r6, r10\n\t"                                                                             \
    "smlad r11, r3, r7, r11\n\t"

#define LAST_TAP                                                                                             \
    "ldr r2, [lr]\n\t"                                                                                       \
    "ldrd r4, r5, [r1], #8\n\t"                                                                              \
    "ldr r2, [r0, r2]\n\t"                                                                                   \
    "sxtb16 r3, r2\n\t"                                                                                      \
    "sxtb16 r2, r2, ror #8\n\t"                                                                              \
    "smlabb r8, r3, r4, r8\n\t"                                                                              \
    "smlatt r10, r3, r4, r10\n\t"                                                                            \
    "smlabb r9, r2, r5, r9\n\t"                                                                              \
    "smlatt r11, r2, r5, r11\n\t"

/* A group starts at ENTRY: four pairs (2), two pairs (3) or the last tap (4). */
#define DEPTHWISE(taps, epilogue)                                                                            \
    "push {r4-r11, lr}\n\t"                                                                                  \
    "sub sp, #" FRAME                                                                                        \
    "\n\t"                                                                                                   \
    "ldm r0, {r0-r7}\n\t"                                                                                    \
    "add r8, r4, r5, lsl #2\n\t"                                                                             \
    "add r8, r8, r5, lsl #2\n\t"                                                                             \
    "adr.w r9, 2f\n\t"                                                                                       \
    "tst r5, #2\n\t"                                                                                         \
    "it ne\n\t"                                                                                              \
    "adrne.w r9, 3f\n\t"                                                                                     \
    "cmp r5, #0\n\t"                                                                                         \
    "it eq\n\t"                                                                                              \
    "adreq.w r9, 4f\n\t"                                                                                     \
    "orr r9, #1\n\t"                                                                                         \
    "strd r4, r9, " TAPS                                                                                     \
    "\n\t"                                                                                                   \
    "strd r8, r3, " TAPS_END                                                                                 \
    "\n\t"                                                                                                   \
    "strd r2, r1, " END                                                                                      \
    "\n\t"                                                                                                   \
    "strd r7, r6, " STEP                                                                                     \
    "\n\t"                                                                                                   \
    "1:\n\t"                                                                                                 \
    "ldm r1!, {r8-r11}\n\t"                                                                                  \
    "ldr lr, " TAPS "\n\t" taps LAST_TAP "ldr lr, " OUT "\n\t" epilogue "str lr, " OUT                       \
    "\n\t"                                                                                                   \
    "ldr r2, " END                                                                                           \
    "\n\t"                                                                                                   \
    "add r0, #4\n\t"                                                                                         \
    "cmp r1, r2\n\t"                                                                                         \
    "bne 1b\n\t"                                                                                             \
    "ldrd r2, r3, " STEP                                                                                     \
    "\n\t"                                                                                                   \
    "add r0, r2\n\t"                                                                                         \
    "ldr r1, " WEIGHTS                                                                                       \
    "\n\t"                                                                                                   \
    "subs r3, #1\n\t"                                                                                        \
    "str r3, [sp, #28]\n\t"                                                                                  \
    "bne 1b\n\t"                                                                                             \
    "add sp, #" FRAME                                                                                        \
    "\n\t"                                                                                                   \
    "pop {r4-r11, pc}\n\t"

/* Any number of pairs, and the four of a 3x3 window, which need no loop. */
#define ANY                                                                                                  \
    "ldr pc, " ENTRY                                                                                         \
    "\n\t"                                                                                                   \
    "2:\n\t" PAIR PAIR "3:\n\t" PAIR PAIR "ldr r2, " TAPS_END                                                \
    "\n\t"                                                                                                   \
    "cmp lr, r2\n\t"                                                                                         \
    "bne 2b\n\t"                                                                                             \
    "4:\n\t"
#define NINE "2: 3: 4:\n\t" PAIR PAIR PAIR PAIR

#define FLOOR(sum, m, c, s)                                                                                  \
    "smmla " sum ", " sum ", " m ", " c                                                                      \
    "\n\t"                                                                                                   \
    "asr " sum ", " s                                                                                        \
    "\n\t"                                                                                                   \
    "ssat " sum ", #8, " sum                                                                                 \
    "\n\t"                                                                                                   \
    "strb " sum ", [lr], #1\n\t"
#define DOUBLE(sum, m, c, s)                                                                                 \
    "add " c ", " c ", " sum                                                                                 \
    ", asr #31\n\t"                                                                                          \
    "lsl " sum                                                                                               \
    ", #1\n\t"                                                                                               \
    "smmlar " sum ", " sum ", " m ", " c                                                                     \
    "\n\t"                                                                                                   \
    "asr " sum ", " s                                                                                        \
    "\n\t"                                                                                                   \
    "ssat " sum ", #8, " sum                                                                                 \
    "\n\t"                                                                                                   \
    "strb " sum ", [lr], #1\n\t"
#define FOUR(form)                                                                                           \
    "ldm r1!, {r2-r7}\n\t" form("r8", "r2", "r3", "r4")                                                      \
        form("r9", "r5", "r6", "r7") "ldm r1!, {r2-r7}\n\t" form("r10", "r2", "r3", "r4")                    \
            form("r11", "r5", "r6", "r7")

__attribute__((naked)) static void run_floor(const struct bitship_dsp_row *run __attribute__((unused))) {
    __asm__ volatile(DEPTHWISE(ANY, FOUR(FLOOR)));
}
__attribute__((naked)) static void run_double(const struct bitship_dsp_row *run __attribute__((unused))) {
    __asm__ volatile(DEPTHWISE(ANY, FOUR(DOUBLE)));
}
__attribute__((naked)) static void nine_floor(const struct bitship_dsp_row *run __attribute__((unused))) {
    __asm__ volatile(DEPTHWISE(NINE, FOUR(FLOOR)));
}
__attribute__((naked)) static void nine_double(const struct bitship_dsp_row *run __attribute__((unused))) {
    __asm__ volatile(DEPTHWISE(NINE, FOUR(DOUBLE)));
}
__attribute__((naked)) static void run_raw(const struct bitship_dsp_row *run __attribute__((unused))) {
    __asm__ volatile(DEPTHWISE(ANY, "stm lr!, {r8-r11}\n\t"));
}

#else

/* Four channels of a pixel; returns what follows their packed weights. */
static inline const uint8_t *group(const struct bitship_dsp_row *run, uintptr_t x, const uint8_t *w,
                                   int32_t epilogue, uint8_t *out) {
    int32_t acc[GROUP], factors[3];
    memcpy(acc, w, sizeof acc);
    w += sizeof acc;
    for (int32_t pair = 0; pair < run->pairs; pair++, w += 16) {
        const uint32_t a = bitship_word((const void *)(x + (uintptr_t)run->taps[2 * pair])),
                       b = bitship_word((const void *)(x + (uintptr_t)run->taps[2 * pair + 1]));
        const uint32_t low = (a & 0xffffu) | b << 16, high = a >> 16 | (b & 0xffff0000u);
        acc[0] = bitship_smlad(bitship_sxtb16(low), bitship_word(w), acc[0]);
        acc[1] = bitship_smlad(bitship_sxtb16_odd(low), bitship_word(w + 4), acc[1]);
        acc[2] = bitship_smlad(bitship_sxtb16(high), bitship_word(w + 8), acc[2]);
        acc[3] = bitship_smlad(bitship_sxtb16_odd(high), bitship_word(w + 12), acc[3]);
    }
    const uint32_t last = bitship_word((const void *)(x + (uintptr_t)run->taps[2 * run->pairs]));
    const uint32_t even = bitship_sxtb16(last), odd = bitship_sxtb16_odd(last);
    acc[0] = bitship_smlad(even & 0xffffu, bitship_word(w), acc[0]);
    acc[1] = bitship_smlad(odd & 0xffffu, bitship_word(w + 4), acc[1]);
    acc[2] = bitship_smlad(even & 0xffff0000u, bitship_word(w), acc[2]);
    acc[3] = bitship_smlad(odd & 0xffff0000u, bitship_word(w + 4), acc[3]);
    w += 8;
    if (epilogue == BITSHIP_DSP_RAW) {
        memcpy(out, acc, sizeof acc);
        return w;
    }
    for (int32_t c = 0; c < GROUP; c++, w += sizeof factors) {
        memcpy(factors, w, sizeof factors);
        out[c] = (uint8_t)bitship_dsp_finish(epilogue, acc[c], factors);
    }
    return w;
}

static inline void dot(const struct bitship_dsp_row *run, int32_t epilogue) {
    uintptr_t x = run->x;
    uint8_t *out = (uint8_t *)run->out;
    for (int32_t i = 0; i < run->count; i++, x += (uintptr_t)(ptrdiff_t)run->step) {
        for (const uint8_t *w = (const uint8_t *)run->weights; w != (const uint8_t *)run->end; x += GROUP) {
            w = group(run, x, w, epilogue, out);
            out += epilogue == BITSHIP_DSP_RAW ? 4 * GROUP : GROUP;
        }
    }
}

static void run_floor(const struct bitship_dsp_row *run) { dot(run, BITSHIP_DSP_FLOOR); }
static void run_double(const struct bitship_dsp_row *run) { dot(run, BITSHIP_DSP_DOUBLE); }
static void nine_floor(const struct bitship_dsp_row *run) { dot(run, BITSHIP_DSP_FLOOR); }
static void nine_double(const struct bitship_dsp_row *run) { dot(run, BITSHIP_DSP_DOUBLE); }
static void run_raw(const struct bitship_dsp_row *run) { dot(run, BITSHIP_DSP_RAW); }

#endif

/* What does not change between pixels. */
struct layer {
    const struct bitship_dsp_conv2d *p;
    const uint8_t *weights;
    const int8_t *zeros; /* a row of zero points, where there is padding */
    depthwise_dot *dot;
    int32_t whole;  /* groups of four channels that overlap no others */
    int32_t bytes;  /* packed weights of a group */
    int32_t filled; /* taps with those that fill up */
};

/* The table of taps of a window at (top, left), distances from `base`. */
static void place(const struct layer *layer, const int8_t *image, int32_t top, int32_t left, uintptr_t base,
                  ptrdiff_t *taps) {
    const struct bitship_dsp_conv2d *p = layer->p;
    const ptrdiff_t outside = (ptrdiff_t)((uintptr_t)layer->zeros - base);
    ptrdiff_t *tap = taps;
    for (int32_t i = 0, y = top; i < p->kernel_h; i++, y += p->dilation_h) {
        const int inside = y >= 0 && y < p->in_h;
        ptrdiff_t at = (ptrdiff_t)((uintptr_t)image - base) + ((ptrdiff_t)y * p->in_w + left) * p->in_c;
        for (int32_t j = 0, x = left; j < p->kernel_w; j++, x += p->dilation_w) {
            *tap++ = inside && x >= 0 && x < p->in_w ? at : outside;
            at += (ptrdiff_t)p->dilation_w * p->in_c;
        }
    }
    for (; tap != taps + layer->filled; tap++) {
        *tap = taps[0];
    }
}

/* One pixel's channels by way of accumulators. */
static void pixel_raw(const struct layer *layer, struct bitship_dsp_row *run, uint8_t *out) {
    int32_t acc[CHUNK];
    const struct bitship_dsp_conv2d *p = layer->p;
    const int32_t item = bitship_item_bytes(bitship_finish_dtype(p->requant));
    const uintptr_t x = run->x;
    for (int32_t first = 0; first < p->in_c;) {
        const int32_t rest = layer->whole * GROUP - first, n = rest > 0 ? bitship_min(rest, CHUNK) : GROUP,
                      from = rest > 0 ? first : p->in_c - GROUP;
        run->x = x + (uintptr_t)from;
        run->out = acc;
        run->end = (const uint8_t *)run->weights + (ptrdiff_t)(n / GROUP) * layer->bytes;
        layer->dot(run);
        bitship_finish(p->requant, from, n, acc, out + (ptrdiff_t)from * item);
        run->weights = run->end;
        first = from + n;
    }
}

/* `count` pixels of a row that share a table of taps; only a single one where groups overlap. */
static void pixels(const struct layer *layer, uintptr_t x, const ptrdiff_t *taps, int32_t count,
                   uint8_t *out) {
    const struct bitship_dsp_conv2d *p = layer->p;
    const uint8_t *end = layer->weights + (ptrdiff_t)layer->whole * layer->bytes;
    struct bitship_dsp_row run = {x,    layer->weights,    end,   out,
                                  taps, layer->filled / 2, count, (p->stride_w - 1) * p->in_c};
    if (p->epilogue == BITSHIP_DSP_RAW) {
        pixel_raw(layer, &run, out);
        return;
    }
    layer->dot(&run);
    if (layer->whole * GROUP != p->in_c) {
        run.x = x + (uintptr_t)(p->in_c - GROUP);
        run.out = out + p->in_c - GROUP;
        run.weights = end;
        run.end = end + layer->bytes;
        layer->dot(&run);
    }
}

/* Output row y of an image; [first, last) are the pixels whose columns of taps all lie inside. */
static void row(const struct layer *layer, const int8_t *image, int32_t y, int32_t first, int32_t last,
                uint8_t *out) {
    const struct bitship_dsp_conv2d *p = layer->p;
    const int32_t item = bitship_item_bytes(p->epilogue == BITSHIP_DSP_RAW ? bitship_finish_dtype(p->requant)
                                                                           : (int32_t)BITSHIP_INT8);
    const int32_t top = y * p->stride_h - p->pad_top;
    const int inside = top >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h;
    const int together = p->epilogue != BITSHIP_DSP_RAW && layer->whole * GROUP == p->in_c;
    const uintptr_t line = (uintptr_t)image + (uintptr_t)((ptrdiff_t)top * p->in_w * p->in_c);
    ptrdiff_t taps[MOST_TAPS];
    int known = 0; /* whether taps are those of a window inside the image */
    for (int32_t x = 0; x < p->out_w;) {
        const int32_t left = x * p->stride_w - p->pad_left;
        const uintptr_t base = line + (uintptr_t)((ptrdiff_t)left * p->in_c);
        const int whole = inside && x >= first && x < last;
        if (!whole || !known) {
            place(layer, image, top, left, base, taps);
        }
        known = whole;
        const int32_t count = whole && together ? last - x : 1;
        pixels(layer, base, taps, count, out);
        out += (ptrdiff_t)count * p->in_c * item;
        x += count;
    }
}

static depthwise_dot *kernel(int32_t epilogue, int nine) {
    if (epilogue == BITSHIP_DSP_RAW) {
        return run_raw;
    }
    if (epilogue == BITSHIP_DSP_FLOOR) {
        return nine ? nine_floor : run_floor;
    }
    return nine ? nine_double : run_double;
}

int bitship_dsp_depthwise_conv2d(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                                 void *scratch, int32_t scratch_bytes, void *out) {
    const int32_t taps = p->kernel_h * p->kernel_w, filled = (taps + 2) / 4 * 4 + 1;
    const int raw = p->epilogue == BITSHIP_DSP_RAW;
    const struct layer layer = {p,
                                (const uint8_t *)weights,
                                (const int8_t *)scratch,
                                kernel(p->epilogue, taps == 9),
                                p->in_c / GROUP,
                                GROUP * 4 + filled / 2 * 16 + 8 + (raw ? 0 : GROUP * 12),
                                filled};
    const int32_t item = raw ? bitship_item_bytes(bitship_finish_dtype(p->requant)) : 1;
    const int32_t room = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w + p->pad_left;
    const int32_t first = (p->pad_left + p->stride_w - 1) / p->stride_w,
                  last = room < 0 ? 0 : bitship_min(p->out_w, room / p->stride_w + 1);
    uint8_t *to = (uint8_t *)out;
    memset(scratch, p->input_zero_point, (size_t)scratch_bytes);
    for (int32_t b = 0; b < p->batch; b++) {
        for (int32_t y = 0; y < p->out_h; y++) {
            row(&layer, x + (ptrdiff_t)b * p->in_h * p->in_w * p->in_c, y, first, last, to);
            to += (ptrdiff_t)p->out_w * p->in_c * item;
        }
    }
    return BITSHIP_OK;
}
