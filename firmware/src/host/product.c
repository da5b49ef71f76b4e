/* matmul and softmax_matmul with b packed at run time into scratch: the same panels as packed weights.
 *
 * Quads (AVX512-VNNI) take rows of uint8: a + 128, or the codes of a softmax. Per column a's offset and per
 * row b's zero point are taken off: sum (a - za)(b - zb) = sum (a + 128) b - (128 + za) sum b - zb sum (a -
 * za). Pairs (AVX2) take both operands centred, as int16. */
#include "product.h"

#include "dot.h"

static struct product of_matmul(const struct bitship_matmul *p) {
    const struct product found = {p->batch,        p->rows,         p->depth, p->columns, p->a_dtype,
                                  p->a_zero_point, p->b_zero_point, 0,        0,          p->requant};
    return found;
}

static struct product of_softmax(const struct bitship_softmax_matmul *p) {
    const struct product found = {p->batch, p->rows,         p->depth,  p->columns, BITSHIP_UINT8,
                                  0,        p->v_zero_point, p->masked, 1,          p->requant};
    return found;
}

static int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

static int32_t quads(int32_t level, const struct product *p) {
    return level >= 2 && p->a_dtype != BITSHIP_INT16;
}

static int usable(int32_t level, const struct product *p) {
    const struct bitship_rescale *r = p->requant;
    return level >= 1 && level <= bitship_host_level() && p->batch >= 1 && p->rows >= 1 && p->depth >= 1 &&
           p->columns >= 1 && p->depth < 1 << 20 && p->columns < 1 << 20 &&
           (p->a_dtype == BITSHIP_INT16 ? p->a_zero_point == 0
                                        : p->a_zero_point >= -128 && p->a_zero_point <= 127) &&
           p->b_zero_point >= -128 && p->b_zero_point <= 127 &&
           bitship_check_rescale(r, p->columns) == BITSHIP_OK &&
           (!p->softmax ||
            (r != NULL && r->rounding == BITSHIP_SINGLE && r->pre_shift == 0 && r->input_zero_point == 0));
}

static int32_t packed_bytes(int32_t level, const struct product *p) {
    if (!usable(level, p)) {
        return 0;
    }
    return (int32_t)sizeof(struct packed) + round_up(p->columns, PANEL) * 4 * TABLES;
}

/* b's panels, the columns' offsets, the rows' offsets, a block of rows. */
static int32_t scratch_bytes_of(int32_t level, const struct product *p) {
    if (!usable(level, p)) {
        return 0;
    }
    const int64_t columns = round_up(p->columns, PANEL);
    const int64_t row = quads(level, p) ? (p->depth + 3) / 4 * 4 : (p->depth + 1) / 2 * 4;
    const int64_t bytes = ALIGN + columns * row + columns * 4 + PRODUCT_BLOCK * (12 + row);
    return bytes > INT32_MAX ? 0 : (int32_t)bytes;
}

static int pack(int32_t level, const struct product *p, void *out) {
    if (out == NULL || packed_bytes(level, p) == 0) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    struct packed *h = (struct packed *)out;
    memset(h, 0, (size_t)packed_bytes(level, p));
    h->quads = quads(level, p);
    h->step = round_up(p->depth, h->quads ? 4 : 2);
    h->channels = round_up(p->columns, PANEL);
    /* A sum of codes that is not 0 is at least 128, so a right shift is 7 more than the shift says. */
    bitship_host_tables(p->requant, p->columns, p->softmax ? 7 : 0, h);
    return BITSHIP_OK;
}

int32_t bitship_host_matmul_packed_bytes(int32_t level, const struct bitship_matmul *p) {
    const struct product product = of_matmul(p);
    return packed_bytes(level, &product);
}

int32_t bitship_host_matmul_scratch_bytes(int32_t level, const struct bitship_matmul *p) {
    const struct product product = of_matmul(p);
    return scratch_bytes_of(level, &product);
}

int bitship_host_matmul_pack(int32_t level, const struct bitship_matmul *p, void *out) {
    const struct product product = of_matmul(p);
    return pack(level, &product, out);
}

int32_t bitship_host_softmax_matmul_packed_bytes(int32_t level, const struct bitship_softmax_matmul *p) {
    const struct product product = of_softmax(p);
    return packed_bytes(level, &product);
}

int32_t bitship_host_softmax_matmul_scratch_bytes(int32_t level, const struct bitship_softmax_matmul *p) {
    const struct product product = of_softmax(p);
    return scratch_bytes_of(level, &product);
}

int bitship_host_softmax_matmul_pack(int32_t level, const struct bitship_softmax_matmul *p, void *out) {
    const struct product product = of_softmax(p);
    return pack(level, &product, out);
}

#if BITSHIP_X86

/* finish_any for rows with a reciprocal of their own. */
static void finish_rows(const struct product *p, int32_t first, int32_t n, int32_t count, int32_t *lanes,
                        int32_t step, const struct bitship_inverse *inverses, void *out, ptrdiff_t out_step) {
    int8_t *to = (int8_t *)out;
    for (int32_t i = 0; i < count; i++, lanes += step, to += out_step) {
        bitship_finish_row(p->requant, inverses[i], first, n, lanes, to);
    }
}

static BITSHIP_VNNI void finish_rows_512(const struct product *p, const struct packed *h, int32_t first,
                                         int32_t n, int32_t count, int32_t *lanes, int32_t step,
                                         const struct bitship_inverse *inverses, void *out,
                                         ptrdiff_t out_step) {
    if (h->epilogue == FINISH) {
        finish_rows(p, first, n, count, lanes, step, inverses, out, out_step);
        return;
    }
    const __m512i m = _mm512_loadu_si512(packed_table(h, MULTIPLIER) + first),
                  right = _mm512_loadu_si512(packed_table(h, RIGHT) + first), thirty = _mm512_set1_epi32(30);
    const __m512i lo = _mm512_set1_epi32(h->lowest), hi = _mm512_set1_epi32(h->highest),
                  zero_point = _mm512_set1_epi32(p->requant->output_zero_point);
    const __mmask16 some = (__mmask16)(0xFFFFu >> (PANEL - n));
    int8_t *to = (int8_t *)out;
    for (int32_t i = 0; i < count; i++, lanes += step, to += out_step) {
        const __m512i inverse = _mm512_set1_epi32(inverses[i].factor);
        __m512i y = single_512(_mm512_loadu_si512(lanes), single_512(m, inverse, thirty),
                               _mm512_add_epi32(right, _mm512_set1_epi32(inverses[i].bits)));
        y = _mm512_add_epi32(_mm512_min_epi32(_mm512_max_epi32(y, lo), hi), zero_point);
        store_512(y, h->item, some, to);
    }
}

static BITSHIP_AVX2 void finish_rows_256(const struct product *p, const struct packed *h, int32_t first,
                                         int32_t n, int32_t count, int32_t *lanes, int32_t step,
                                         const struct bitship_inverse *inverses, void *out,
                                         ptrdiff_t out_step) {
    if (h->epilogue == FINISH) {
        finish_rows(p, first, n, count, lanes, step, inverses, out, out_step);
        return;
    }
    const __m256i thirty = _mm256_set1_epi32(30), lo = _mm256_set1_epi32(h->lowest),
                  hi = _mm256_set1_epi32(h->highest),
                  zero_point = _mm256_set1_epi32(p->requant->output_zero_point);
    int8_t *to = (int8_t *)out;
    for (int32_t i = 0; i < count; i++, lanes += step, to += out_step) {
        const __m256i inverse = _mm256_set1_epi32(inverses[i].factor);
        __m256i y[2];
        BITSHIP_UNROLL for (int32_t j = 0; j < 2; j++) {
            const int32_t at = first + 8 * j;
            const __m256i m = _mm256_loadu_si256((const __m256i *)(packed_table(h, MULTIPLIER) + at)),
                          right = _mm256_loadu_si256((const __m256i *)(packed_table(h, RIGHT) + at));
            y[j] = single_256(_mm256_loadu_si256((const __m256i *)(lanes + 8 * j)),
                              single_256(m, inverse, thirty),
                              _mm256_add_epi32(right, _mm256_set1_epi32(inverses[i].bits)));
            y[j] = _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(y[j], lo), hi), zero_point);
        }
        store_256(y[0], y[1], h->item, n, to);
    }
}

static BITSHIP_VNNI void block_quads(const struct product *p, const struct packed *h, const struct parts *s,
                                     int32_t rows, void *out) {
    const ptrdiff_t line = (ptrdiff_t)p->columns * bitship_item_bytes(bitship_finish_dtype(p->requant));
    int32_t acc[TILE * 2 * PANEL];
    for (int32_t c = 0; c < p->columns; c += 2 * PANEL) {
        const int8_t *w = s->panels + (ptrdiff_t)c * h->step;
        const int two = h->channels - c > PANEL;
        for (int32_t i = 0; i < rows;) {
            const int32_t n = rows - i >= TILE ? TILE : 1;
            const uint8_t *x = s->rows + (ptrdiff_t)i * h->step;
            if (n == TILE && two) {
                dot_quads(x, h->step, w, s->columns + c, TILE, 2, acc);
            } else if (n == TILE) {
                dot_quads(x, h->step, w, s->columns + c, TILE, 1, acc);
            } else if (two) {
                dot_quads(x, h->step, w, s->columns + c, 1, 2, acc);
            } else {
                dot_quads(x, h->step, w, s->columns + c, 1, 1, acc);
            }
            for (int32_t j = 0; p->b_zero_point != 0 && j < n * 2 * PANEL; j++) {
                acc[j] = (int32_t)((uint32_t)acc[j] + (uint32_t)s->added[i + j / (2 * PANEL)]);
            }
            for (int32_t j = 0; j < 1 + two; j++) {
                const int32_t from = c + j * PANEL, some = bitship_min(PANEL, p->columns - from);
                void *to = (int8_t *)out + i * line + line / p->columns * from;
                if (p->softmax) {
                    finish_rows_512(p, h, from, some, n, acc + j * PANEL, 2 * PANEL, s->inverses + i, to,
                                    line);
                } else {
                    finish_panel_512(p->requant, h, from, some, n, acc + j * PANEL, 2 * PANEL, to, line);
                }
            }
            i += n;
        }
    }
}

static BITSHIP_AVX2 void block_pairs(const struct product *p, const struct packed *h, const struct parts *s,
                                     int32_t rows, void *out) {
    const ptrdiff_t line = (ptrdiff_t)p->columns * bitship_item_bytes(bitship_finish_dtype(p->requant));
    int32_t acc[4 * PANEL];
    for (int32_t c = 0; c < p->columns; c += PANEL) {
        const int16_t *w = (const int16_t *)s->panels + (ptrdiff_t)c * h->step;
        const int32_t some = bitship_min(PANEL, p->columns - c);
        for (int32_t i = 0; i < rows;) {
            const int32_t n = rows - i >= 4 ? 4 : 1;
            const int16_t *x = (const int16_t *)s->rows + (ptrdiff_t)i * h->step;
            void *to = (int8_t *)out + i * line + line / p->columns * c;
            if (n == 4) {
                dot_pairs(x, h->step, w, s->columns + c, 4, acc);
            } else {
                dot_pairs(x, h->step, w, s->columns + c, 1, acc);
            }
            if (p->softmax) {
                finish_rows_256(p, h, c, some, n, acc, PANEL, s->inverses + i, to, line);
            } else {
                finish_panel_256(p->requant, h, c, some, n, acc, PANEL, to, line);
            }
            i += n;
        }
    }
}

static int run(const struct product *p, const void *a, const int8_t *b, const uint8_t *exp_table,
               const void *packed, void *scratch, int32_t scratch_bytes, void *out) {
    const struct packed *h = (const struct packed *)packed;
    const int32_t level = h->quads ? 2 : 1, needed = scratch_bytes_of(level, p);
    if (needed == 0 || h->quads != quads(level, p)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    if (scratch_bytes < needed) {
        return BITSHIP_ERROR_SCRATCH;
    }
    const struct parts s = bitship_host_split(h, scratch);
    const int32_t dtype = bitship_finish_dtype(p->requant);
    for (int32_t image = 0; image < p->batch; image++, b += (ptrdiff_t)p->depth * p->columns) {
        if (h->quads) {
            bitship_host_pack_quads(p, h, b, &s);
        } else {
            bitship_host_pack_pairs(p, h, b, &s);
        }
        for (int32_t i = 0; i < p->rows; i += PRODUCT_BLOCK) {
            const int32_t rows = bitship_min(PRODUCT_BLOCK, p->rows - i);
            const ptrdiff_t row = (ptrdiff_t)image * p->rows + i;
            const void *from = bitship_at(a, p->a_dtype, row * p->depth);
            void *to = bitship_at_out(out, dtype, row * p->columns);
            if (h->quads) {
                bitship_host_rows_of_quads(p, h, from, exp_table, rows, &s);
                block_quads(p, h, &s, rows, to);
            } else {
                bitship_host_rows_of_pairs(p, h, from, exp_table, rows, &s);
                block_pairs(p, h, &s, rows, to);
            }
        }
    }
    return BITSHIP_OK;
}

#else

static int run(const struct product *p, const void *a, const int8_t *b, const uint8_t *exp_table,
               const void *packed, void *scratch, int32_t scratch_bytes, void *out) {
    (void)p, (void)a, (void)b, (void)exp_table, (void)packed, (void)scratch, (void)scratch_bytes, (void)out;
    return BITSHIP_ERROR_UNSUPPORTED;
}

#endif

int bitship_host_matmul(const struct bitship_matmul *p, const void *a, const int8_t *b, const void *packed,
                        void *scratch, int32_t scratch_bytes, void *out) {
    if (p == NULL || a == NULL || b == NULL || packed == NULL || scratch == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const struct product product = of_matmul(p);
    return run(&product, a, b, NULL, packed, scratch, scratch_bytes, out);
}

int bitship_host_softmax_matmul(const struct bitship_softmax_matmul *p, const int8_t *x, const int8_t *v,
                                const uint8_t *exp_table, const void *packed, void *scratch,
                                int32_t scratch_bytes, void *out) {
    if (p == NULL || x == NULL || v == NULL || exp_table == NULL || packed == NULL || scratch == NULL ||
        out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const struct product product = of_softmax(p);
    return run(&product, x, v, exp_table, packed, scratch, scratch_bytes, out);
}
