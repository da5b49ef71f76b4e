/* conv2d and fully_connected on int8: patches of four pixels, then all channels of them from packed weights.
 */
#include "dot.h"
#include "patch.h"

#define PIXELS 4
#define CHUNK 16 /* channels whose accumulators are held at once where another kernel rescales them */

/* What does not change between blocks of pixels, and the run that does. */
struct job {
    const struct bitship_dsp_conv2d *p;
    struct bitship_dsp_order order;
    struct bitship_dsp_run run;
    bitship_dsp_dot *dot4;
    bitship_dsp_dot *dot1;
    int32_t channel_bytes;
    int32_t pixel_bytes;
    int32_t first; /* output columns [first, last) whose windows' columns lie inside the image */
    int32_t last;
};

/* All channels of a block by a kernel that leaves accumulators, rescaled one pixel at a time. */
static void finish_raw(struct job *job, bitship_dsp_dot *dot, int32_t pixels) {
    int32_t acc[PIXELS * CHUNK];
    const struct bitship_dsp_conv2d *p = job->p;
    const int32_t item = job->pixel_bytes / p->out_c;
    struct bitship_dsp_run run = job->run;
    run.out = acc;
    run.step = CHUNK * 4;
    run.last = 3 * CHUNK * 4;
    for (int32_t first = 0; first < p->out_c; first += CHUNK) {
        const int32_t n = bitship_min(CHUNK, p->out_c - first);
        run.end = (const uint8_t *)run.weights + (ptrdiff_t)n * job->channel_bytes;
        dot(&run);
        run.weights = run.end;
        for (int32_t i = 0; i < pixels; i++) {
            uint8_t *to = (uint8_t *)job->run.out + (ptrdiff_t)i * job->pixel_bytes + (ptrdiff_t)first * item;
            bitship_finish(p->requant, first, n, acc + i * CHUNK, to);
        }
    }
}

/* All channels of a gathered block of one, three or four pixels. */
static inline void finish(struct job *job, int32_t pixels) {
    bitship_dsp_dot *dot = pixels == 1 ? job->dot1 : job->dot4;
    if (job->p->epilogue == BITSHIP_DSP_RAW) {
        finish_raw(job, dot, pixels);
    } else {
        job->run.last = (pixels - 1) * job->pixel_bytes; /* three repeat the last one */
        dot(&job->run);
    }
    job->run.out = (uint8_t *)job->run.out + (ptrdiff_t)pixels * job->pixel_bytes;
}

/* Pixels that a block takes of those left. */
static inline int32_t block(int32_t left) { return left >= PIXELS ? PIXELS : left == 3 ? 3 : 1; }

/* Every window is one pixel of the image and none is left out: patches need no coordinates. */
static int flat(const struct bitship_dsp_conv2d *p) {
    return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 &&
           p->pad_left == 0 && p->in_h == p->out_h && p->in_w == p->out_w;
}

static void run_flat(struct job *job, const int8_t *x, uint32_t *patch) {
    const int32_t c = job->p->in_c;
    if (c == 8 && job->p->weights == BITSHIP_DSP_HALVES && job->p->epilogue <= BITSHIP_DSP_DOUBLE) {
        const struct bitship_dsp_eight run = {x,
                                              job->run.weights,
                                              job->run.end,
                                              job->run.out,
                                              job->p->batch * job->p->out_h * job->p->out_w,
                                              job->p->out_c};
        bitship_dsp_eight(&run, job->p->epilogue);
        return;
    }
    int32_t pixels;
    for (int32_t left = job->p->batch * job->p->out_h * job->p->out_w; left > 0; left -= pixels) {
        pixels = block(left);
        if (pixels == 1) {
            bitship_dsp_gather_flat(&job->order, x, patch);
        } else {
            const int8_t *from[PIXELS] = {x, x + c, x + 2 * c, x + (pixels - 1) * c};
            bitship_dsp_gather4(job->p, &job->order, from, patch);
        }
        finish(job, pixels);
        x += (ptrdiff_t)pixels * c;
    }
}

/* Whether the window at (top, left) lies inside the image. */
static inline int inside(const struct bitship_dsp_conv2d *p, int32_t top, int32_t left) {
    return top >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h && left >= 0 &&
           left + (p->kernel_w - 1) * p->dilation_w < p->in_w;
}

/* Patches of `pixels` output pixels from (y, x) on, at the border or across the end of a row: together where
 * most lie inside the image, then the others over what was gathered in their places. */
static void gather(const struct job *job, const int8_t *image, int32_t pixels, int32_t y, int32_t x,
                   uint32_t *patch) {
    const struct bitship_dsp_conv2d *p = job->p;
    const int32_t lanes = pixels == 1 ? 1 : PIXELS;
    const int8_t *from[PIXELS], *some = NULL;
    int32_t tops[PIXELS], lefts[PIXELS], alone = 0;
    for (int32_t i = 0; i < lanes; i++) {
        const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
        tops[i] = top;
        lefts[i] = left;
        from[i] = NULL;
        if (inside(p, top, left)) {
            some = from[i] = image + ((ptrdiff_t)top * p->in_w + left) * p->in_c;
        } else {
            alone++;
        }
        if (i + 1 < pixels && ++x == p->out_w) {
            x = 0;
            y++;
        }
    }
    const int together = lanes == PIXELS && alone <= 2;
    if (together) {
        const int8_t *at[PIXELS];
        for (int32_t i = 0; i < PIXELS; i++) {
            at[i] = from[i] != NULL ? from[i] : some;
        }
        bitship_dsp_gather4(p, &job->order, at, patch);
    }
    for (int32_t i = 0; i < lanes; i++) {
        if (!together || from[i] == NULL) {
            bitship_dsp_gather1(p, &job->order, image, tops[i], lefts[i], lanes, patch + i);
        }
    }
}

static void run_image(struct job *job, const int8_t *image, uint32_t *patch) {
    const struct bitship_dsp_conv2d *p = job->p;
    const int32_t low = p->in_h - (p->kernel_h - 1) * p->dilation_h, step = p->stride_w * p->in_c;
    int32_t y = 0, x = 0, pixels;
    for (int32_t left = p->out_h * p->out_w; left > 0; left -= pixels) {
        const int32_t top = y * p->stride_h - p->pad_top;
        pixels = block(left);
        if (pixels == PIXELS && x >= job->first && x + PIXELS <= job->last && top >= 0 && top < low) {
            const int8_t *at = image + ((ptrdiff_t)top * p->in_w - p->pad_left) * p->in_c + x * step;
            const int8_t *from[PIXELS] = {at, at + step, at + 2 * step, at + 3 * step};
            bitship_dsp_gather4(p, &job->order, from, patch);
        } else {
            gather(job, image, pixels, y, x, patch);
        }
        finish(job, pixels);
        for (x += pixels; x >= p->out_w; x -= p->out_w) {
            y++;
        }
    }
}

int bitship_dsp_conv2d_by(const struct bitship_dsp_conv2d *p, const struct bitship_dsp_dots *dots,
                          const int8_t *x, const void *weights, void *scratch, void *out) {
    const struct bitship_dsp_order order = bitship_dsp_order(p);
    const int32_t channel_bytes = dots->channel_bytes;
    int32_t pixel_bytes = p->out_c;
    if (p->epilogue == BITSHIP_DSP_RAW) {
        pixel_bytes *= bitship_item_bytes(bitship_finish_dtype(p->requant));
    } else if (p->epilogue == BITSHIP_DSP_WIDE) {
        pixel_bytes *= 2;
    }
    struct job job = {
        .p = p,
        .order = order,
        .run = {(const uint32_t *)scratch, weights,
                (const uint8_t *)weights + (ptrdiff_t)p->out_c * channel_bytes, out, pixel_bytes, 0,
                dots->quads, dots->group},
        .dot4 = dots->dot4,
        .dot1 = dots->dot1,
        .channel_bytes = channel_bytes,
        .pixel_bytes = pixel_bytes,
        .first = 0,
        .last = 0,
    };
    if (flat(p)) {
        run_flat(&job, x, (uint32_t *)scratch);
        return BITSHIP_OK;
    }
    const int32_t room = p->in_w - 1 - (p->kernel_w - 1) * p->dilation_w + p->pad_left;
    job.first = (p->pad_left + p->stride_w - 1) / p->stride_w;
    job.last = room < 0 ? 0 : bitship_min(p->out_w, room / p->stride_w + 1);
    for (int32_t b = 0; b < p->batch; b++) {
        run_image(&job, x, (uint32_t *)scratch);
        x += (ptrdiff_t)p->in_h * p->in_w * p->in_c;
    }
    return BITSHIP_OK;
}

int bitship_dsp_conv2d(const struct bitship_dsp_conv2d *p, const int8_t *x, const void *weights,
                       void *scratch, int32_t scratch_bytes, void *out) {
    const int32_t quads = bitship_dsp_order(p).total;
    const struct bitship_dsp_dots dots = {bitship_dsp_dot4(p->weights, p->epilogue),
                                          bitship_dsp_dot1(p->weights, p->epilogue), quads, 0,
                                          bitship_dsp_channel_bytes(quads, p->weights, p->epilogue)};
    (void)scratch_bytes;
    return bitship_dsp_conv2d_by(p, &dots, x, weights, scratch, out);
}
