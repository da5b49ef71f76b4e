/* avg_pool2d and max_pool2d of int8: 16 channels of one output pixel at a time. */
#include "mve.h"

/* The part of a window that lies inside the input, for a block of channels. */
struct view {
    const int8_t *x;
    int32_t rows;
    int32_t columns;
    int32_t step;  /* bytes from a pixel to the next */
    int32_t pitch; /* bytes from the last pixel of a row to the first of the next, less a step */
    int32_t n;     /* channels, at most 16 */
};

/* Largest count of int8 whose sum fits int16. */
#define SHORT_SUM 256

#if BITSHIP_MVE

static void largest(const struct view *v, int8_t *out) {
    const int8_t *x = v->x;
    int32_t rows = v->rows;
    __asm__ volatile(
        "vctp.8 %[n]\n"
        "mvn lr, #127\n"
        "vdup.8 q0, lr\n"
        "1:\n"
        "dls lr, %[columns]\n"
        "2:\n"
        "vpst\n"
        "vldrbt.u8 q1, [%[x]]\n"
        "add %[x], %[x], %[step]\n"
        "vmax.s8 q0, q0, q1\n"
        "le lr, 2b\n"
        "add %[x], %[x], %[pitch]\n"
        "subs %[rows], %[rows], #1\n"
        "bne 1b\n"
        "vpst\n"
        "vstrbt.8 q0, [%[out]]\n"
        : [x] "+r"(x), [rows] "+r"(rows)
        : [n] "r"(v->n), [columns] "r"(v->columns), [step] "r"(v->step), [pitch] "r"(v->pitch), [out] "r"(out)
        : "lr", "q0", "q1", "cc", "memory");
}

/* At most SHORT_SUM pixels. */
static void total(const struct view *v, int16_t *sum) {
    const int8_t *x = v->x;
    int32_t rows = v->rows;
    __asm__ volatile(
        "vctp.8 %[n]\n"
        "vmov.i32 q0, #0\n"
        "vmov.i32 q1, #0\n"
        "1:\n"
        "dls lr, %[columns]\n"
        "2:\n"
        "vpst\n"
        "vldrbt.u8 q2, [%[x]]\n"
        "add %[x], %[x], %[step]\n"
        "vmovlb.s8 q3, q2\n"
        "vadd.i16 q0, q0, q3\n"
        "vmovlt.s8 q2, q2\n"
        "vadd.i16 q1, q1, q2\n"
        "le lr, 2b\n"
        "add %[x], %[x], %[pitch]\n"
        "subs %[rows], %[rows], #1\n"
        "bne 1b\n"
        "vst20.16 {q0, q1}, [%[sum]]\n"
        "vst21.16 {q0, q1}, [%[sum]]\n"
        : [x] "+r"(x), [rows] "+r"(rows)
        : [n] "r"(v->n), [columns] "r"(v->columns), [step] "r"(v->step), [pitch] "r"(v->pitch), [sum] "r"(sum)
        : "lr", "q0", "q1", "q2", "q3", "cc", "memory");
}

#else

static void largest(const struct view *v, int8_t *out) {
    for (int32_t c = 0; c < v->n; c++) {
        const int8_t *x = v->x + c;
        int8_t most = -128;
        for (int32_t i = 0; i < v->rows; i++, x += v->pitch) {
            for (int32_t j = 0; j < v->columns; j++, x += v->step) {
                most = *x > most ? *x : most;
            }
        }
        out[c] = most;
    }
}

static void total(const struct view *v, int16_t *sum) {
    for (int32_t c = 0; c < v->n; c++) {
        const int8_t *x = v->x + c;
        sum[c] = 0;
        for (int32_t i = 0; i < v->rows; i++, x += v->pitch) {
            for (int32_t j = 0; j < v->columns; j++, x += v->step) {
                sum[c] = (int16_t)(sum[c] + *x);
            }
        }
    }
}

#endif

static inline int32_t limited(int32_t y, int32_t qmin, int32_t qmax) {
    return y < qmin ? qmin : y > qmax ? qmax : y;
}

/* total / count to nearest; ties away from zero, or up. */
static inline int32_t divided(int32_t sum, int32_t count, int32_t half, int half_up) {
    if (half_up) {
        const int32_t shifted = sum + half; /* floor division */
        return shifted < 0 ? -((count - 1 - shifted) / count) : shifted / count;
    }
    return (sum < 0 ? sum - half : sum + half) / count;
}

static void average(const struct bitship_window *p, const struct view *v, int8_t *out) {
    const int32_t count = v->rows * v->columns, half = count / 2;
    int32_t sums[16] = {0};
    int16_t sum[16];
    struct view part = *v;
    part.rows = SHORT_SUM / v->columns;
    for (int32_t left = v->rows; left > 0; left -= part.rows) {
        part.rows = left < part.rows ? left : part.rows;
        total(&part, sum);
        part.x += part.rows * (v->columns * v->step + v->pitch);
        for (int32_t c = 0; c < v->n; c++) {
            sums[c] += sum[c];
        }
    }
    for (int32_t c = 0; c < v->n; c++) {
        const int32_t y = divided(sums[c], count, half, p->division == BITSHIP_HALF_UP);
        out[c] = (int8_t)limited(y, p->qmin, p->qmax);
    }
}

/* Taps [from, to) of a window that starts at `start` and of `kernel` taps that lie inside `extent`. */
static inline int32_t inside(int32_t start, int32_t kernel, int32_t extent, int32_t *from) {
    const int32_t last = start + kernel < extent ? start + kernel : extent;
    *from = start < 0 ? 0 : start;
    return last - *from;
}

static void pool(const struct bitship_window *p, const int8_t *x, int maximum, int8_t *out) {
    const int plain = p->qmin == -128 && p->qmax == 127;
    for (int32_t b = 0; b < p->batch; b++, x += (ptrdiff_t)p->in_h * p->in_w * p->in_c) {
        for (int32_t oy = 0; oy < p->out_h; oy++) {
            for (int32_t ox = 0; ox < p->out_w; ox++) {
                struct view v = {.step = p->in_c};
                int32_t top = 0, left = 0;
                v.rows = inside(oy * p->stride_h - p->pad_top, p->kernel_h, p->in_h, &top);
                v.columns = inside(ox * p->stride_w - p->pad_left, p->kernel_w, p->in_w, &left);
                v.pitch = (p->in_w - v.columns) * p->in_c;
                v.x = x + ((ptrdiff_t)top * p->in_w + left) * p->in_c;
                for (int32_t c = 0; c < p->in_c; c += v.n, v.x += v.n, out += v.n) {
                    v.n = p->in_c - c < 16 ? p->in_c - c : 16;
                    if (!maximum) {
                        average(p, &v, out);
                        continue;
                    }
                    largest(&v, out);
                    for (int32_t i = 0; !plain && i < v.n; i++) {
                        out[i] = (int8_t)limited(out[i], p->qmin, p->qmax);
                    }
                }
            }
        }
    }
}

int bitship_mve_avg_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out) {
    pool(p, x, 0, out);
    return BITSHIP_OK;
}

int bitship_mve_max_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out) {
    pool(p, x, 1, out);
    return BITSHIP_OK;
}
