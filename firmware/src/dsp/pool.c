/* avg_pool2d, max_pool2d and reduce_sum of int8: four channels in a word; sums as pairs of int16, maxima as
 * bytes. */
#include "../window.h"
#include "dot.h"

#define GROUP 4
#define MOST 256 /* taps whose sum of int8 fits int16 */

/* total / count to nearest; ties away from zero, or up. */
static inline int32_t divide(int32_t total, int32_t count, int half_up) {
    const int32_t half = count / 2;
    if (!half_up) {
        return total < 0 ? -((-total + half) / count) : (total + half) / count;
    }
    const int32_t shifted = total + half; /* floor division */
    return shifted < 0 ? -((-shifted + count - 1) / count) : shifted / count;
}

static inline int32_t clamp(const struct bitship_window *p, int32_t y) {
    return bitship_min(bitship_max(y, p->qmin), p->qmax);
}

/* Sums of four channels over `rows` by `cols` taps, which lie `line` and `right` bytes apart. */
static void sum4(const int8_t *from, ptrdiff_t line, ptrdiff_t right, int32_t rows, int32_t cols,
                 int32_t *sum) {
    uint32_t even = 0, odd = 0;
    int32_t room = MOST;
    sum[0] = sum[1] = sum[2] = sum[3] = 0;
    for (; rows > 0; rows--, from += line) {
        const int8_t *x = from;
        for (int32_t left = cols; left > 0;) {
            const int32_t n = bitship_min(left, room);
            for (const int8_t *const end = x + n * right; x != end; x += right) {
                const uint32_t word = bitship_word(x);
                even = bitship_sxtab16(even, word);
                odd = bitship_sxtab16_odd(odd, word);
            }
            left -= n;
            room -= n;
            if (room == 0 || (rows == 1 && left == 0)) {
                sum[0] += bitship_low(even);
                sum[1] += bitship_low(odd);
                sum[2] += bitship_high(even);
                sum[3] += bitship_high(odd);
                even = odd = 0;
                room = MOST;
            }
        }
    }
}

static void average(const struct bitship_window *p, const int8_t *from, int32_t rows, int32_t cols,
                    int8_t *out) {
    const int32_t count = rows * cols;
    const int half_up = p->division == BITSHIP_HALF_UP;
    int32_t sum[GROUP];
    int32_t c = 0;
    for (; c + GROUP <= p->in_c; c += GROUP) {
        sum4(from + c, (ptrdiff_t)p->in_w * p->in_c, p->in_c, rows, cols, sum);
        for (int32_t i = 0; i < GROUP; i++) {
            out[c + i] = (int8_t)clamp(p, divide(sum[i], count, half_up));
        }
    }
    for (; c < p->in_c; c++) {
        int32_t total = 0;
        for (int32_t i = 0; i < rows; i++) {
            for (int32_t j = 0; j < cols; j++) {
                total += from[((ptrdiff_t)i * p->in_w + j) * p->in_c + c];
            }
        }
        out[c] = (int8_t)clamp(p, divide(total, count, half_up));
    }
}

static void maximum(const struct bitship_window *p, const int8_t *from, int32_t rows, int32_t cols,
                    int8_t *out) {
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    const int narrow = p->qmin > -128 || p->qmax < 127;
    int32_t c = 0;
    for (; c + GROUP <= p->in_c; c += GROUP) {
        uint32_t most = 0x80808080u;
        const int8_t *at = from + c;
        for (int32_t i = rows; i > 0; i--, at += line) {
            const int8_t *x = at;
            for (int32_t j = cols; j > 0; j--, x += p->in_c) {
                most = bitship_max8(most, bitship_word(x));
            }
        }
        memcpy(out + c, &most, sizeof most);
        for (int32_t i = 0; narrow && i < GROUP; i++) {
            out[c + i] = (int8_t)clamp(p, out[c + i]);
        }
    }
    for (; c < p->in_c; c++) {
        int32_t most = INT8_MIN;
        for (int32_t i = 0; i < rows; i++) {
            for (int32_t j = 0; j < cols; j++) {
                most = bitship_max(most, from[((ptrdiff_t)i * p->in_w + j) * p->in_c + c]);
            }
        }
        out[c] = (int8_t)clamp(p, most);
    }
}

static int pool(const struct bitship_window *p, const int8_t *x, int highest, int8_t *out) {
    for (int32_t b = 0; b < p->batch; b++, x += (ptrdiff_t)p->in_h * p->in_w * p->in_c) {
        for (int32_t oy = 0; oy < p->out_h; oy++) {
            const int32_t top = oy * p->stride_h - p->pad_top;
            const struct bitship_taps rows = bitship_taps(top, 1, p->kernel_h, p->in_h);
            for (int32_t ox = 0; ox < p->out_w; ox++, out += p->in_c) {
                const int32_t left = ox * p->stride_w - p->pad_left;
                const struct bitship_taps cols = bitship_taps(left, 1, p->kernel_w, p->in_w);
                const int8_t *from =
                    x + ((ptrdiff_t)(top + rows.first) * p->in_w + left + cols.first) * p->in_c;
                if (highest) {
                    maximum(p, from, rows.last - rows.first, cols.last - cols.first, out);
                } else {
                    average(p, from, rows.last - rows.first, cols.last - cols.first, out);
                }
            }
        }
    }
    return BITSHIP_OK;
}

int bitship_dsp_avg_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out) {
    return pool(p, x, 0, out);
}

int bitship_dsp_max_pool2d(const struct bitship_window *p, const int8_t *x, int8_t *out) {
    return pool(p, x, 1, out);
}

int bitship_dsp_reduce_sum(const struct bitship_dsp_sums *p, const int8_t *x, int8_t *out) {
    const struct bitship_dsp_sums q = *p;
    const int32_t factors[3] = {q.multiplier, q.offset, q.shift};
    int32_t sum[GROUP];
    for (int32_t row = 0; row < q.outer; row++, x += (ptrdiff_t)q.count * q.inner) {
        int32_t c = 0;
        for (; c + GROUP <= q.inner; c += GROUP) {
            sum4(x + c, 0, q.inner, 1, q.count, sum);
            for (int32_t i = 0; i < GROUP; i++) {
                *out++ = bitship_dsp_finish(q.epilogue, sum[i] + q.added, factors);
            }
        }
        for (; c < q.inner; c++) {
            const int8_t *from = x + c;
            int32_t total = q.added;
            for (int32_t i = q.count; i > 0; i--, from += q.inner) {
                total += *from;
            }
            *out++ = bitship_dsp_finish(q.epilogue, total, factors);
        }
    }
    return BITSHIP_OK;
}
