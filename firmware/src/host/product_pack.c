/* Both operands of a product as the dot products read them. */
#include "product.h"

#if BITSHIP_X86

struct parts bitship_host_split(const struct packed *h, void *scratch) {
    const ptrdiff_t row = (ptrdiff_t)h->step * (h->quads ? 1 : 2);
    struct parts s;
    s.panels = (int8_t *)(((uintptr_t)scratch + ALIGN - 1) / ALIGN * ALIGN);
    s.columns = (int32_t *)(s.panels + h->channels * row);
    s.added = s.columns + h->channels;
    s.inverses = (struct bitship_inverse *)(s.added + PRODUCT_BLOCK);
    s.rows = (uint8_t *)(s.inverses + PRODUCT_BLOCK);
    return s;
}

/* b [depth, columns] as panels of 16 columns by 4 rows, and -(128 + a_zero_point) * (sum of a column). */
BITSHIP_VNNI void bitship_host_pack_quads(const struct product *p, const struct packed *h, const int8_t *b,
                                          const struct parts *s) {
    const int32_t offset = p->softmax ? 0 : 128 + p->a_zero_point;
    int8_t *to = s->panels;
    for (int32_t c = 0; c < h->channels; c += PANEL) {
        const __mmask16 some = (__mmask16)(0xFFFFu >> (PANEL - bitship_min(PANEL, p->columns - c)));
        __m512i sum = _mm512_setzero_si512();
        for (int32_t k = 0; k < h->step; k += 4, to += 4 * PANEL) {
            __m128i row[4];
            BITSHIP_UNROLL for (int32_t i = 0; i < 4; i++) {
                row[i] = k + i < p->depth
                             ? _mm_maskz_loadu_epi8(some, b + (ptrdiff_t)(k + i) * p->columns + c)
                             : _mm_setzero_si128();
            }
            const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]),
                          low23 = _mm_unpacklo_epi8(row[2], row[3]),
                          high01 = _mm_unpackhi_epi8(row[0], row[1]),
                          high23 = _mm_unpackhi_epi8(row[2], row[3]);
            __m512i four = _mm512_castsi128_si512(_mm_unpacklo_epi16(low01, low23));
            four = _mm512_inserti32x4(four, _mm_unpackhi_epi16(low01, low23), 1);
            four = _mm512_inserti32x4(four, _mm_unpacklo_epi16(high01, high23), 2);
            four = _mm512_inserti32x4(four, _mm_unpackhi_epi16(high01, high23), 3);
            _mm512_storeu_si512(to, four);
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), four);
        }
        _mm512_storeu_si512(s->columns + c, _mm512_mullo_epi32(sum, _mm512_set1_epi32(-offset)));
    }
}

/* The same as int16 pairs, b's zero point taken off. */
BITSHIP_AVX2 void bitship_host_pack_pairs(const struct product *p, const struct packed *h, const int8_t *b,
                                          const struct parts *s) {
    int16_t *to = (int16_t *)s->panels;
    memset(s->columns, 0, (size_t)h->channels * 4);
    for (int32_t c = 0; c < h->channels; c += PANEL) {
        const int32_t n = bitship_min(PANEL, p->columns - c);
        for (int32_t k = 0; k < h->step; k += 2, to += 2 * PANEL) {
            const int8_t *from = b + (ptrdiff_t)k * p->columns + c;
            const int second = k + 1 < p->depth;
            for (int32_t j = 0; j < n; j++) {
                to[2 * j] = (int16_t)(from[j] - p->b_zero_point);
                to[2 * j + 1] = second ? (int16_t)(from[p->columns + j] - p->b_zero_point) : (int16_t)0;
            }
            for (int32_t j = n; j < PANEL; j++) {
                to[2 * j] = 0;
                to[2 * j + 1] = 0;
            }
        }
    }
}

/* `rows` rows of a as quads read them, with what b's zero point adds to a row's sums. */
BITSHIP_VNNI void bitship_host_rows_of_quads(const struct product *p, const struct packed *h, const void *a,
                                             const uint8_t *exp_table, int32_t rows, const struct parts *s) {
    uint8_t *to = s->rows;
    const int8_t *from = (const int8_t *)a;
    for (int32_t i = 0; i < rows; i++, to += h->step, from += p->depth) {
        uint32_t sum = 0;
        if (p->softmax) {
            sum = bitship_codes(from, exp_table, p->depth, p->masked, to);
            s->inverses[i] = bitship_reciprocal(sum);
        } else {
            for (int32_t k = 0; k < p->depth; k++) {
                to[k] = (uint8_t)(from[k] ^ -128);
            }
            for (int32_t k = 0; p->b_zero_point != 0 && k < p->depth; k++) {
                sum += to[k];
            }
            sum -= (uint32_t)p->depth * (uint32_t)(128 + p->a_zero_point);
        }
        for (int32_t k = p->depth; k < h->step; k++) {
            to[k] = 0;
        }
        s->added[i] = (int32_t)(0u - sum * (uint32_t)p->b_zero_point);
    }
}

BITSHIP_AVX2 void bitship_host_rows_of_pairs(const struct product *p, const struct packed *h, const void *a,
                                             const uint8_t *exp_table, int32_t rows, const struct parts *s) {
    int16_t *to = (int16_t *)s->rows;
    for (int32_t i = 0; i < rows; i++, to += h->step) {
        const ptrdiff_t at = (ptrdiff_t)i * p->depth;
        if (p->softmax) {
            uint8_t *const codes =
                (uint8_t *)to + p->depth; /* the row's upper half, read before it is written */
            const uint32_t sum = bitship_codes((const int8_t *)a + at, exp_table, p->depth, p->masked, codes);
            s->inverses[i] = bitship_reciprocal(sum);
            for (int32_t k = 0; k < p->depth; k++) {
                to[k] = codes[k];
            }
        } else if (p->a_dtype == BITSHIP_INT16) {
            memcpy(to, (const int16_t *)a + at, (size_t)p->depth * 2);
        } else {
            for (int32_t k = 0; k < p->depth; k++) {
                to[k] = (int16_t)(((const int8_t *)a)[at + k] - p->a_zero_point);
            }
        }
        if (h->step > p->depth) {
            to[p->depth] = 0;
        }
    }
}

#endif
