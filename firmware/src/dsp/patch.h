/* Patches of a convolution's output pixels in the order of the dot products (dot.h). */
#ifndef BITSHIP_DSP_PATCH_H
#define BITSHIP_DSP_PATCH_H

#include "../window.h"
#include "acle.h"

/* The order of a patch's elements. Its bytes come in `across` * kernel_h segments that are contiguous in the
 * image: a row of taps, or with dilation a tap. First the whole quads of every segment, then, from quad
 * `tail` on, the `rest` bytes left of every segment. */
struct bitship_dsp_order {
    int32_t across;
    int32_t segment;
    int32_t quads;
    int32_t rest;
    int32_t tail;
    int32_t total; /* quads */
};

static inline struct bitship_dsp_order bitship_dsp_order(const struct bitship_dsp_conv2d *p) {
    struct bitship_dsp_order order;
    order.across = p->dilation_w == 1 ? 1 : p->kernel_w;
    order.segment = p->dilation_w == 1 ? p->kernel_w * p->in_c : p->in_c;
    order.quads = order.segment / 4;
    order.rest = order.segment % 4;
    order.tail = order.quads * order.across * p->kernel_h;
    order.total = order.tail + (order.rest * order.across * p->kernel_h + 3) / 4;
    return order;
}

/* Gather the patches of four pixels whose windows lie inside the image; from[i] is pixel i's first byte. */
void bitship_dsp_gather4(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                         const int8_t *const *from, uint32_t *patch);

/* Gather the patch of one pixel whose window begins at (top, left), anywhere; `patch` is its first word and a
 * quad's words lie `pixels` apart. */
void bitship_dsp_gather1(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_order *order,
                         const int8_t *image, int32_t top, int32_t left, int32_t pixels, uint32_t *patch);

/* Gather the patch of one pixel that is a pixel of the image. */
void bitship_dsp_gather_flat(const struct bitship_dsp_order *order, const int8_t *from, uint32_t *patch);

#endif
