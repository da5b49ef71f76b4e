/* Geometry of the window ops: convolutions and pools. */
#ifndef BITSHIP_WINDOW_H
#define BITSHIP_WINDOW_H

#include "lanes.h"

/* Kernel taps [first, last) of one axis that read inside the input. */
struct bitship_taps {
    int32_t first;
    int32_t last;
};

/* Taps t with 0 <= start + t * dilation < extent; start may be negative (padding). */
static inline struct bitship_taps bitship_taps(int32_t start, int32_t dilation, int32_t kernel,
                                               int32_t extent) {
    struct bitship_taps taps = {0, kernel};
    while (taps.first < kernel && start + taps.first * dilation < 0) {
        taps.first++;
    }
    while (taps.last > taps.first && start + (taps.last - 1) * dilation >= extent) {
        taps.last--;
    }
    return taps;
}

/* BITSHIP_OK when extents are positive, strides too, and x is int8 or int16. */
static inline int bitship_check_window(const struct bitship_window *p) {
    if (p->batch < 1 || p->in_h < 1 || p->in_w < 1 || p->in_c < 1 || p->out_h < 1 || p->out_w < 1 ||
        p->out_c < 1) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    if (p->kernel_h < 1 || p->kernel_w < 1 || p->stride_h < 1 || p->stride_w < 1 || p->dilation_h < 1 ||
        p->dilation_w < 1 || p->pad_top < 0 || p->pad_left < 0) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    return p->x_dtype == BITSHIP_INT8 || p->x_dtype == BITSHIP_INT16 ? BITSHIP_OK : BITSHIP_ERROR_UNSUPPORTED;
}

#endif
