/* Gathering patches: by words inside the image, with zero points for what lies outside. */
#include "patch.h"

#define REST 16 /* bytes of segments' ends that are expanded together, a multiple of four */

/* `rows` runs of `quads` quads of four pixels; behind a run the next begins `skip` bytes on. */
#if BITSHIP_DSP_ASM
__attribute__((naked)) static void expand4(const int8_t *const *from __attribute__((unused)),
                                           uint32_t *patch __attribute__((unused)),
                                           int32_t quads __attribute__((unused)),
                                           int32_t rows __attribute__((unused)),
                                           int32_t skip __attribute__((unused))) {
    /* r4-r7 where the pixels are read, r8-r11 a word of each, lr quads left */
    __asm__ volatile(
        "push {r4-r11, lr}\n\t"
        "sub sp, #12\n\t"
        "ldr r12, [sp, #48]\n\t"
        "ldm r0, {r4-r7}\n\t"
        "stm sp, {r2, r3, r12}\n\t" /* quads, rows, skip */
        "mov r0, r1\n\t"
        "1:\n\t"
        "ldr lr, [sp]\n\t"
        "2:\n\t"
        "ldr r8, [r4], #4\n\t"
        "ldr r9, [r5], #4\n\t"
        "ldr r10, [r6], #4\n\t"
        "ldr r11, [r7], #4\n\t"
        "sxtb16 r1, r8\n\t"
        "sxtb16 r2, r9\n\t"
        "sxtb16 r3, r10\n\t"
        "sxtb16 r12, r11\n\t"
        "stm r0!, {r1, r2, r3, r12}\n\t"
        "sxtb16 r8, r8, ror #8\n\t"
        "sxtb16 r9, r9, ror #8\n\t"
        "sxtb16 r10, r10, ror #8\n\t"
        "sxtb16 r11, r11, ror #8\n\t"
        "stm r0!, {r8-r11}\n\t"
        "subs lr, #1\n\t"
        "bne 2b\n\t"
        "ldrd r1, r2, [sp, #4]\n\t"
        "subs r1, #1\n\t"
        "str r1, [sp, #4]\n\t"
        "add r4, r2\n\t"
        "add r5, r2\n\t"
        "add r6, r2\n\t"
        "add r7, r2\n\t"
        "bne 1b\n\t"
        "add sp, #12\n\t"
        "pop {r4-r11, pc}\n\t");
}
#else
static void expand4(const int8_t *const *from, uint32_t *patch, int32_t quads, int32_t rows, int32_t skip) {
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t quad = 0; quad < quads; quad++, patch += 8) {
            for (int32_t pixel = 0; pixel < 4; pixel++) {
                const uint32_t word = bitship_word(from[pixel] + row * (4 * quads + skip) + 4 * quad);
                patch[pixel] = bitship_sxtb16(word);
                patch[4 + pixel] = bitship_sxtb16_odd(word);
            }
        }
    }
}
#endif

/* Element k of a patch. */
static inline void put(uint32_t *patch, int32_t pixels, int32_t k, int32_t value) {
    const int16_t element = (int16_t)value;
    memcpy((uint8_t *)(patch + ((k >> 2) * 2 + (k & 1)) * pixels) + (k & 2), &element, sizeof element);
}

static void expand1(const int8_t *from, int32_t quads, int32_t pixels, uint32_t *patch) {
    for (; quads > 0; quads--, from += 4, patch += 2 * pixels) {
        const uint32_t word = bitship_word(from);
        patch[0] = bitship_sxtb16(word);
        patch[pixels] = bitship_sxtb16_odd(word);
    }
}

/* Bytes [first, last) of segment `index`, whose byte 0 is at `from` (which may lie outside). */
static void segment(const struct bitship_dsp_order *order, const int8_t *from, int32_t index, int32_t first,
                    int32_t last, int32_t pixels, uint32_t *patch) {
    const int32_t base = index * order->quads * 4, whole = order->quads * 4;
    int32_t k = first;
    if (first % 4 == 0) {
        const int32_t quads = (bitship_min(last, whole) - first) / 4;
        expand1(from + first, quads, pixels, patch + (base + first) / 2 * pixels);
        k += bitship_max(quads, 0) * 4;
    }
    for (; k < last; k++) {
        put(patch, pixels, k < whole ? base + k : order->tail * 4 + index * order->rest + k - whole, from[k]);
    }
}

/* The same for at most four bytes in all, as of three channels' 3x3 windows: a quad straight from its bytes.
 */
static void gather_quad(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                        const int8_t *const *from, uint32_t *patch) {
    ptrdiff_t at[4] = {0, 0, 0, 0}; /* where there are fewer the weight is 0 */
    int32_t k = 0;
    for (int32_t i = 0; i < p->kernel_h; i++) {
        for (int32_t j = 0; j < order->across * order->rest; j++) {
            const int32_t tap = j / order->rest, c = j % order->rest;
            at[k++] = ((ptrdiff_t)i * p->dilation_h * p->in_w + tap * p->dilation_w) * p->in_c +
                      order->quads * 4 + c;
        }
    }
    patch += order->tail * 8;
    for (int32_t pixel = 0; pixel < 4; pixel++, patch++) {
        const int8_t *x = from[pixel];
        patch[0] = bitship_pair(x[at[0]], x[at[2]]);
        patch[4] = bitship_pair(x[at[1]], x[at[3]]);
    }
}

/* The bytes left of every segment, through a small buffer for each pixel. */
static void gather_rest(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                        const int8_t *const *from, uint32_t *patch) {
    int8_t bytes[4][REST];
    const int8_t *const at[4] = {bytes[0], bytes[1], bytes[2], bytes[3]};
    const int32_t row = p->in_w * p->in_c * p->dilation_h, tap = p->dilation_w * p->in_c, rest = order->rest;
    int32_t k = 0;
    patch += order->tail * 8;
    for (int32_t i = 0; i < p->kernel_h; i++) {
        for (int32_t j = 0; j < order->across; j++) {
            const ptrdiff_t start = i * row + j * tap + order->quads * 4;
            for (int32_t c = 0; c < rest; c++, k++) {
                bytes[0][k] = from[0][start + c];
                bytes[1][k] = from[1][start + c];
                bytes[2][k] = from[2][start + c];
                bytes[3][k] = from[3][start + c];
            }
            if (k + rest > REST) { /* whole quads now; what is left moves to the front */
                const int32_t quads = k / 4;
                expand4(at, patch, quads, 1, 0);
                patch += quads * 8;
                for (int32_t pixel = 0; pixel < 4; pixel++) {
                    memmove(bytes[pixel], bytes[pixel] + quads * 4, 4);
                }
                k -= quads * 4;
            }
        }
    }
    if (k > 0) {
        expand4(at, patch, (k + 3) / 4, 1, 0);
    }
}

void bitship_dsp_gather4(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                         const int8_t *const *from, uint32_t *patch) {
    const int32_t row = p->in_w * p->in_c * p->dilation_h;
    if (order->across == 1 && order->quads > 0) {
        expand4(from, patch, order->quads, p->kernel_h, row - order->quads * 4);
    } else if (order->quads > 0) {
        for (int32_t i = 0; i < p->kernel_h; i++) {
            const int8_t *at[4] = {from[0] + i * row, from[1] + i * row, from[2] + i * row,
                                   from[3] + i * row};
            expand4(at, patch + i * order->across * order->quads * 8, order->quads, order->across,
                    p->dilation_w * p->in_c - order->quads * 4);
        }
    }
    if (order->rest * order->across * p->kernel_h <= 4 && order->rest > 0) {
        gather_quad(p, order, from, patch);
    } else if (order->rest > 0) {
        gather_rest(p, order, from, patch);
    }
}

void bitship_dsp_gather1(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                         const int8_t *image, int32_t top, int32_t left, int32_t pixels, uint32_t *patch) {
    const struct bitship_taps rows = bitship_taps(top, p->dilation_h, p->kernel_h, p->in_h);
    const struct bitship_taps cols = bitship_taps(left, p->dilation_w, p->kernel_w, p->in_w);
    if (rows.first > 0 || rows.last < p->kernel_h || cols.first > 0 || cols.last < p->kernel_w) {
        const uint32_t zero = bitship_pair(p->input_zero_point, p->input_zero_point);
        for (int32_t i = 0; i < 2 * order->total; i++) {
            patch[i * pixels] = zero;
        }
    }
    const int together = order->across == 1;
    for (int32_t i = rows.first; i < rows.last; i++) {
        const ptrdiff_t line = (ptrdiff_t)(top + i * p->dilation_h) * p->in_w + left;
        if (together) {
            segment(order, image + line * p->in_c, i, cols.first * p->in_c, cols.last * p->in_c, pixels,
                    patch);
            continue;
        }
        for (int32_t j = cols.first; j < cols.last; j++) {
            segment(order, image + (line + j * p->dilation_w) * p->in_c, i * order->across + j, 0, p->in_c,
                    pixels, patch);
        }
    }
}

void bitship_dsp_gather_flat(const struct bitship_dsp_order *order, const int8_t *from, uint32_t *patch) {
    segment(order, from, 0, 0, order->segment, 1, patch);
}
