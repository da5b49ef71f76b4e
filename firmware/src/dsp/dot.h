/* Dot products of gathered patches with packed weights, for four pixels or for one, and their epilogues.
 *
 * Elements come in quads: four consecutive elements k of a patch, or of a channel's weights, zeros behind the
 * last. A quad of a patch is two words, elements (0, 2) and (1, 3) as int16; those of four pixels lie side by
 * side: (0, 2) of pixels 0 to 3, then (1, 3) of pixels 0 to 3. A quad of weights is one word of four int8,
 * which SXTB16 takes apart in the same order. The packed weights of a channel are its bias (int32), its
 * quads, and unless the epilogue is RAW its multiplier, offset and shift (int32).
 */
#ifndef BITSHIP_DSP_DOT_H
#define BITSHIP_DSP_DOT_H

#include "../lanes.h"
#include "acle.h"

/* Channels [weights, end) of up to four pixels. Pixel 1 and 2 lie `step` and 2 * `step` bytes behind pixel 0,
 * pixel 3 `last` bytes; channels lie side by side. The assembler reads these fields by their place. */
struct bitship_dsp_run {
    const uint32_t *patch;
    const void *weights;
    const void *end;
    void *out;
    int32_t step;
    int32_t last;
    int32_t quads;
    int32_t group; /* quads of a group of four-bit weights */
};

/* `count` pixels of a row of a depthwise convolution, [weights, end) of their channels. Taps are distances
 * from x. Read by their place too. */
struct bitship_dsp_row {
    uintptr_t x;
    const void *weights;
    const void *end;
    void *out;
    const ptrdiff_t *taps;
    int32_t pairs;
    int32_t count;
    int32_t step; /* from behind a pixel's last channel to the next pixel's first */
};

typedef void bitship_dsp_dot(const struct bitship_dsp_run *run);

/* What a convolution is made of: dot products, the quads they read (of a patch of no more), those of a group,
 * and the bytes of a channel. */
struct bitship_dsp_dots {
    bitship_dsp_dot *dot4;
    bitship_dsp_dot *dot1;
    int32_t quads;
    int32_t group;
    int32_t channel_bytes;
};

/* bitship_dsp_conv2d by other dot products. */
int bitship_dsp_conv2d_by(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_dots *dots,
                          const int8_t *x, const void *weights, void *scratch, void *out);

/* By enum bitship_dsp_weights and enum bitship_dsp_epilogue: int8 out, int16 for WIDE, or int32 accumulators
 * for RAW. */
bitship_dsp_dot *bitship_dsp_dot4(int32_t weights, int32_t epilogue);
bitship_dsp_dot *bitship_dsp_dot1(int32_t weights, int32_t epilogue);

/* Pixels of eight input channels and nothing else, all [weights, end) channels of each from int16 weights.
 * Read by its fields' places too. */
struct bitship_dsp_eight {
    const int8_t *x;
    const void *weights;
    const void *end;
    void *out;
    int32_t pixels;
    int32_t channels;
};

/* FLOOR or DOUBLE: the elements stay in registers, so this takes fewer instructions than four pixels at a
 * time. */
void bitship_dsp_eight(const struct bitship_dsp_eight *run, int32_t epilogue);

/* Blocks [weights, end) of four channels of one row (dense.c). The assembly reads the fields by their place.
 */
struct bitship_dsp_blocks {
    const int8_t *x;
    const void *weights;
    const void *end;
    int8_t *out;
    int32_t quads;
};

/* Bytes of packed weights per channel. */
static inline int32_t bitship_dsp_channel_bytes(int32_t quads, int32_t weights, int32_t epilogue) {
    return 4 + (weights == BITSHIP_DSP_HALVES ? 8 : 4) * quads + (epilogue == BITSHIP_DSP_RAW ? 0 : 12);
}

/* One int8 output from its accumulator; w points to multiplier, offset and shift. What the epilogues mean and
 * when they are exact is proven when the weights are packed. */
static inline int8_t bitship_dsp_finish(int32_t epilogue, int32_t acc, const int32_t *w) {
    if (epilogue == BITSHIP_DSP_FLOOR) {
        return (int8_t)bitship_ssat8(bitship_smmla(acc, w[0], w[1]) >> w[2]);
    }
    return (int8_t)bitship_ssat8(bitship_smmlar((int32_t)((uint32_t)acc << 1), w[0], w[1] - (acc < 0)) >>
                                 w[2]);
}

/* The same to int16: WIDE, whose third word has the shift left in its second byte. */
static inline int16_t bitship_dsp_finish16(int32_t acc, const int32_t *w) {
    const int32_t v = (int32_t)((uint32_t)acc << (w[2] >> 8));
    return (int16_t)bitship_ssat16(bitship_smmla(v, w[0], w[1]) >> (w[2] & 0xff));
}

#endif
