/* conv2d and fully_connected on int8: patches of four pixels, then all channels of them from packed weights.
 */
#include "dot.h"
#include "patch.h"

#define PIXELS 4
#define CHUNK 16 /* channels whose accumulators are held at once where another kernel rescales them */

/* Where a block of pixels goes. */
struct block {
    int32_t pixels; /* how many are stored, at most as many as the patch has */
    int32_t quads;
    const uint32_t *patch;
    const uint8_t *weights;
    uint8_t *out;
};

/* All channels of a block by a kernel that leaves accumulators, rescaled one pixel at a time. */
static void finish_raw(const struct bitship_dsp_conv2d *p, const struct block *block, bitship_dsp_dot *dot) {
    int32_t acc[PIXELS * CHUNK];
    const int32_t bytes = bitship_dsp_channel_bytes(block->quads, p->weights, BITSHIP_DSP_RAW);
    const int32_t item = bitship_item_bytes(bitship_finish_dtype(p->requant));
    for (int32_t first = 0; first < p->out_c; first += CHUNK) {
        const int32_t n = bitship_min(CHUNK, p->out_c - first);
        const struct bitship_dsp_run run = {block->patch,
                                            block->weights + (ptrdiff_t)first * bytes,
                                            block->weights + (ptrdiff_t)(first + n) * bytes,
                                            acc,
                                            CHUNK * 4,
                                            3 * CHUNK * 4,
                                            block->quads};
        dot(&run);
        for (int32_t i = 0; i < block->pixels; i++) {
            bitship_finish(p->requant, first, n, acc + i * CHUNK, block->out + (i * p->out_c + first) * item);
        }
    }
}

/* All channels of a block of one, three or four pixels. */
static void finish(const struct bitship_dsp_conv2d *p, const struct block *block) {
    bitship_dsp_dot *dot = block->pixels == 1 ? bitship_dsp_dot1(p->weights, p->epilogue)
                                              : bitship_dsp_dot4(p->weights, p->epilogue);
    if (p->epilogue == BITSHIP_DSP_RAW) {
        finish_raw(p, block, dot);
        return;
    }
    const ptrdiff_t bytes =
        (ptrdiff_t)bitship_dsp_channel_bytes(block->quads, p->weights, p->epilogue) * p->out_c;
    const struct bitship_dsp_run run = {block->patch, block->weights, block->weights + bytes,
                                        block->out,   p->out_c,       (block->pixels - 1) * p->out_c,
                                        block->quads};
    dot(&run);
}

/* Every window is one pixel of the image and none is left out: patches need no coordinates. */
static int flat(const struct bitship_dsp_conv2d *p) {
    return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 &&
           p->pad_left == 0 && p->in_h == p->out_h && p->in_w == p->out_w;
}

/* `count` pixels from output pixel `first` on, patches gathered by coordinates. */
static void gather(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                   const int8_t *image, int32_t count, int32_t lanes, int32_t y, int32_t x, uint32_t *patch) {
    const int8_t *from[PIXELS];
    int32_t tops[PIXELS], lefts[PIXELS];
    const int32_t low = p->in_h - (p->kernel_h - 1) * p->dilation_h,
                  right = p->in_w - (p->kernel_w - 1) * p->dilation_w;
    int inside = lanes == PIXELS;
    for (int32_t i = 0; i < lanes; i++) {
        const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
        tops[i] = top;
        lefts[i] = left;
        inside = inside && top >= 0 && top < low && left >= 0 && left < right;
        if (inside) {
            from[i] = image + ((ptrdiff_t)top * p->in_w + left) * p->in_c;
        }
        if (i + 1 < count && ++x == p->out_w) {
            x = 0;
            y++;
        }
    }
    if (inside) {
        bitship_dsp_gather4(p, order, from, patch);
        return;
    }
    for (int32_t i = 0; i < lanes; i++) {
        bitship_dsp_gather1(p, order, image, tops[i], lefts[i], lanes, patch + i);
    }
}

int bitship_dsp_conv2d(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                       void *scratch, int32_t scratch_bytes, void *out) {
    (void)scratch_bytes;
    const struct bitship_dsp_order order = bitship_dsp_order(p);
    const int as_is = flat(p);
    const int32_t images = as_is ? 1 : p->batch, pixels = p->out_h * p->out_w * (as_is ? p->batch : 1),
                  bytes = p->out_c * bitship_item_bytes(p->epilogue == BITSHIP_DSP_RAW
                                                            ? bitship_finish_dtype(p->requant)
                                                            : (int32_t)BITSHIP_INT8);
    struct block block = {0, order.total, (uint32_t *)scratch, (const uint8_t *)weights, (uint8_t *)out};
    for (int32_t b = 0; b < images; b++) {
        const int8_t *image = x + (ptrdiff_t)b * p->in_h * p->in_w * p->in_c;
        int32_t oy = 0, ox = 0;
        for (int32_t left = pixels; left > 0; left -= block.pixels) {
            block.pixels = left >= PIXELS ? PIXELS : left == 3 ? 3 : 1; /* three repeat the last one */
            const int32_t lanes = block.pixels == 1 ? 1 : PIXELS;
            if (as_is && lanes == PIXELS) {
                const int8_t *from[PIXELS] = {image, image + p->in_c, image + 2 * p->in_c,
                                              image + (block.pixels - 1) * p->in_c};
                bitship_dsp_gather4(p, &order, from, (uint32_t *)scratch);
            } else if (as_is) {
                bitship_dsp_gather1(p, &order, image, 0, 0, 1, (uint32_t *)scratch);
            } else {
                gather(p, &order, image, block.pixels, lanes, oy, ox, (uint32_t *)scratch);
            }
            finish(p, &block);
            block.out += (ptrdiff_t)block.pixels * bytes;
            if (as_is) {
                image += (ptrdiff_t)block.pixels * p->in_c;
                continue;
            }
            ox += block.pixels;
            while (ox >= p->out_w) {
                ox -= p->out_w;
                oy++;
            }
        }
    }
    return BITSHIP_OK;
}
