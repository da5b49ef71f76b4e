/* matmul and softmax_matmul with a computed second operand: it is packed at run time, a column as a channel
 * of int16 weights (dot.h), and the rows of the first are pixels. */
#include "../product.h"
#include "dot.h"

#define ROWS 4
#define CHUNK 16 /* columns whose sums are held at once */

static inline int32_t quads_of(int32_t depth) { return (depth + 3) / 4; }

/* Column j of b [depth, columns], centred, in the order of patches; returns its sum. */
static int32_t pack_column(const int8_t *b, int32_t depth, int32_t columns, int32_t zero_point, int16_t *to) {
    int32_t sum = 0, k = 0;
    for (; k + 4 <= depth; k += 4, b += 4 * columns, to += 4) {
        const int32_t w0 = b[0] - zero_point, w1 = b[columns] - zero_point, w2 = b[2 * columns] - zero_point,
                      w3 = b[3 * columns] - zero_point;
        to[0] = (int16_t)w0;
        to[1] = (int16_t)w2;
        to[2] = (int16_t)w1;
        to[3] = (int16_t)w3;
        sum += w0 + w1 + w2 + w3;
    }
    if (k < depth) {
        static const uint8_t place[4] = {0, 2, 1, 3};
        memset(to, 0, 4 * sizeof *to);
        for (int32_t i = 0; k < depth; k++, i++, b += columns) {
            const int32_t w = *b - zero_point;
            to[place[i]] = (int16_t)w;
            sum += w;
        }
    }
    return sum;
}

int bitship_dsp_matmul(const struct bitship_dsp_matmul *p, const int8_t *a, const int8_t *b, void *scratch,
                       int32_t scratch_bytes, void *out) {
    const int32_t quads = quads_of(p->depth), raw = p->epilogue == BITSHIP_DSP_RAW;
    const int32_t bytes = bitship_dsp_channel_bytes(quads, BITSHIP_DSP_HALVES, p->epilogue);
    const int32_t item = raw ? bitship_item_bytes(bitship_finish_dtype(p->requant)) : 1;
    const int32_t factors[3] = {p->multiplier, p->offset, p->shift};
    uint8_t *const packed = (uint8_t *)scratch, *const patch = packed + (ptrdiff_t)bytes * p->columns;
    const struct bitship_dsp_conv2d rows = {
        .batch = 1,
        .in_h = 1,
        .in_w = p->rows,
        .in_c = p->depth,
        .out_h = 1,
        .out_w = p->rows,
        .out_c = p->columns,
        .kernel_h = 1,
        .kernel_w = 1,
        .stride_h = 1,
        .stride_w = 1,
        .dilation_h = 1,
        .dilation_w = 1,
        .epilogue = p->epilogue,
        .weights = BITSHIP_DSP_HALVES,
        .requant = p->requant,
    };
    for (int32_t image = 0; image < p->batch; image++) {
        for (int32_t j = 0; j < p->columns; j++) {
            uint8_t *const column = packed + (ptrdiff_t)j * bytes;
            const int32_t sum =
                pack_column(b + j, p->depth, p->columns, p->b_zero_point, (int16_t *)(column + 4));
            const uint32_t bias = (uint32_t)p->added - (uint32_t)p->a_zero_point * (uint32_t)sum;
            memcpy(column, &bias, sizeof bias);
            if (!raw) {
                memcpy(column + 4 + 8 * quads, factors, sizeof factors);
            }
        }
        bitship_dsp_conv2d(&rows, a, packed, patch, scratch_bytes, out);
        a += (ptrdiff_t)p->rows * p->depth;
        b += (ptrdiff_t)p->depth * p->columns;
        out = (uint8_t *)out + (ptrdiff_t)p->rows * p->columns * item;
    }
    return BITSHIP_OK;
}

/* Codes of a row as int16 in the order of patches, `ROWS` rows side by side. */
static void put_codes(const uint8_t *e, int32_t depth, uint32_t *patch) {
    int32_t k = 0;
    for (; k + 4 <= depth; k += 4, patch += 2 * ROWS) {
        const uint32_t word = bitship_word(e + k);
        patch[0] = word & 0x00ff00ffu;
        patch[ROWS] = word >> 8 & 0x00ff00ffu;
    }
    if (k < depth) {
        uint32_t word = 0;
        memcpy(&word, e + k, (size_t)(depth - k));
        patch[0] = word & 0x00ff00ffu;
        patch[ROWS] = word >> 8 & 0x00ff00ffu;
    }
}

/* A row's sums: its reciprocal joins the multiplier, and one rounding at 2^33 or above needs no more than the
 * upper word of the product. */
static void finish_row(const struct bitship_rescale *r, struct bitship_inverse inverse, int32_t first,
                       int32_t n, int32_t *acc, uint8_t *out) {
    const int32_t far = 31 - r->shift[0] + inverse.bits - 32;
    if (r->count != 1 || r->dtype != BITSHIP_INT8 || r->qmin != -128 || r->qmax != 127 || far < 1 ||
        far > 20) {
        bitship_finish_row(r, inverse, first, n, acc, out);
        return;
    }
    const int32_t m = (int32_t)(((int64_t)r->multiplier[0] * inverse.factor + ((int32_t)1 << 29)) >> 30);
    const int32_t offset = (int32_t)((uint32_t)r->output_zero_point << far) + ((int32_t)1 << (far - 1));
    for (int32_t i = 0; i < n; i++) {
        out[i] = (uint8_t)bitship_ssat8(bitship_smmla(acc[i], m, offset) >> far);
    }
}

int bitship_dsp_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                               const uint8_t *exp_table, void *scratch, int32_t scratch_bytes, void *out) {
    const int32_t quads = quads_of(p->depth), item = bitship_item_bytes(p->requant->dtype);
    const int32_t bytes = bitship_dsp_channel_bytes(quads, BITSHIP_DSP_HALVES, BITSHIP_DSP_RAW);
    uint8_t *const packed = (uint8_t *)scratch;
    uint32_t *const patch = (uint32_t *)(void *)(packed + (ptrdiff_t)bytes * p->columns);
    uint8_t *const codes = (uint8_t *)(patch + (ptrdiff_t)quads * 2 * ROWS);
    bitship_dsp_dot *const dot = bitship_dsp_dot4(BITSHIP_DSP_HALVES, BITSHIP_DSP_RAW);
    uint8_t *to = (uint8_t *)out;
    (void)scratch_bytes;
    memset(patch, 0, (size_t)quads * 2 * ROWS * sizeof *patch); /* rows that a last block does not have */
    for (int32_t image = 0; image < p->batch; image++, v += (ptrdiff_t)p->depth * p->columns) {
        for (int32_t j = 0; j < p->columns; j++) {
            memset(packed + (ptrdiff_t)j * bytes, 0, 4);
            (void)pack_column(v + j, p->depth, p->columns, p->v_zero_point,
                              (int16_t *)(void *)(packed + (ptrdiff_t)j * bytes + 4));
        }
        for (int32_t i = 0; i < p->rows; i += ROWS) {
            const int32_t rows = bitship_min(ROWS, p->rows - i);
            struct bitship_inverse inverse[ROWS];
            int32_t acc[ROWS * CHUNK];
            for (int32_t r = 0; r < rows; r++, x += p->depth) {
                inverse[r] = bitship_reciprocal(bitship_codes(x, exp_table, p->depth, p->masked, codes));
                put_codes(codes, p->depth, patch + r);
            }
            for (int32_t j = 0; j < p->columns; j += CHUNK) {
                const int32_t n = bitship_min(CHUNK, p->columns - j);
                const struct bitship_dsp_run run = {patch,
                                                    packed + (ptrdiff_t)j * bytes,
                                                    packed + (ptrdiff_t)(j + n) * bytes,
                                                    acc,
                                                    CHUNK * 4,
                                                    3 * CHUNK * 4,
                                                    quads,
                                                    0};
                dot(&run);
                for (int32_t r = 0; r < rows; r++) {
                    finish_row(p->requant, inverse[r], j, n, acc + r * CHUNK,
                               to + ((ptrdiff_t)r * p->columns + j) * item);
                }
            }
            to += (ptrdiff_t)rows * p->columns * item;
        }
    }
    return BITSHIP_OK;
}
