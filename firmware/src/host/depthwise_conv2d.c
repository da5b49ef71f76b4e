/* depthwise_conv2d with packed weights: the taps of 64 (or 16) channels, interleaved in registers, are dotted
 * with their weights; a tap in the padding reads a row of zero points, so there is no border case. */
#include "packed.h"

#define MOST_TAPS 64

static int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

static int usable(int32_t level, const struct bitship_window *p) {
    return p != NULL && level >= 1 && level <= bitship_host_level() &&
           bitship_check_window(p) == BITSHIP_OK &&
           bitship_check_rescale(p->requant, p->out_c) == BITSHIP_OK && p->x_dtype == BITSHIP_INT8 &&
           p->in_c == p->out_c && p->kernel_h <= MOST_TAPS && p->kernel_h * p->kernel_w <= MOST_TAPS &&
           p->input_zero_point >= -128 && p->input_zero_point <= 127 && p->weight_zero_point >= -128 &&
           p->weight_zero_point <= 127;
}

int32_t bitship_host_depthwise_conv2d_packed_bytes(int32_t level, const struct bitship_window *p) {
    if (!usable(level, p)) {
        return 0;
    }
    const int64_t taps = (int64_t)p->kernel_h * p->kernel_w;
    const int64_t channels = round_up(p->out_c, packed_quads(level, p) ? 4 * PANEL : PANEL);
    const int64_t weights = packed_quads(level, p) ? (taps + 3) / 4 * 4 : (taps + 1) / 2 * 4;
    const int64_t bytes = (int64_t)sizeof(struct packed) + channels * (4 * TABLES + weights);
    return bytes > INT32_MAX ? 0 : (int32_t)bytes;
}

int32_t bitship_host_depthwise_conv2d_scratch_bytes(int32_t level, const struct bitship_window *p) {
    return usable(level, p) ? p->in_c : 0;
}

/* Where interleaving puts channel c of its chunk: unpacking works within lanes of 16 bytes. */
static int32_t slot(int quads, int32_t c) {
    if (quads) { /* registers of channels 0-3, 4-7, 8-11 and 12-15 of every 16 */
        return c % 16 / 4 * 16 + c / 16 * 4 + c % 4;
    }
    return c % 8 / 4 * 8 + c / 8 * 4 + c % 4; /* registers of channels 0-3, 8-11 and 4-7, 12-15 */
}

int bitship_host_depthwise_conv2d_pack(int32_t level, const struct bitship_window *p, const int8_t *w,
                                       const int32_t *bias, void *out) {
    if (w == NULL || bias == NULL || out == NULL ||
        bitship_host_depthwise_conv2d_packed_bytes(level, p) == 0) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    struct packed *h = (struct packed *)out;
    const int32_t taps = p->kernel_h * p->kernel_w;
    memset(h, 0, (size_t)bitship_host_depthwise_conv2d_packed_bytes(level, p));
    h->quads = packed_quads(level, p);
    const int32_t together = h->quads ? 4 : 2, chunk = h->quads ? 4 * PANEL : PANEL;
    h->channels = round_up(p->out_c, chunk);
    h->step = round_up(taps, together);
    bitship_host_tables(p->requant, p->out_c, 0, h);
    int32_t *sums = (int32_t *)(h + 1);
    int8_t *quads = (int8_t *)(sums + TABLES * (ptrdiff_t)h->channels);
    int16_t *pairs = (int16_t *)quads;
    for (int32_t c = 0; c < p->out_c; c++) {
        uint32_t total = 0;
        const ptrdiff_t start =
            (ptrdiff_t)(c / chunk) * chunk * h->step + slot(h->quads, c % chunk) * together;
        for (int32_t t = 0; t < taps; t++) {
            const ptrdiff_t to = start + (ptrdiff_t)(t / together) * chunk * together + t % together;
            const int32_t v = w[(ptrdiff_t)t * p->out_c + c] - p->weight_zero_point;
            total += (uint32_t)v;
            if (h->quads) {
                quads[to] = (int8_t)v;
            } else {
                pairs[to] = (int16_t)v;
            }
        }
        const uint32_t off = total * (uint32_t)(p->input_zero_point + (h->quads ? 128 : 0));
        sums[c] = (int32_t)((uint32_t)bias[c] - off);
    }
    return BITSHIP_OK;
}

#if BITSHIP_X86

/* Address of every tap of output pixel (y, x); those in the padding and those that only fill up read `row`.
 */
BITSHIP_INLINE void point(const struct bitship_window *p, const int8_t *image, int32_t y, int32_t x,
                          int32_t step, const int8_t *row, const int8_t **tap) {
    const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    int32_t t = 0;
    for (int32_t i = 0, iy = top; i < p->kernel_h; i++, iy += p->dilation_h) {
        const int inside = iy >= 0 && iy < p->in_h;
        const int8_t *line = image + (inside ? (ptrdiff_t)iy * p->in_w * p->in_c : 0);
        for (int32_t j = 0, ix = left; j < p->kernel_w; j++, ix += p->dilation_w) {
            tap[t++] = inside && ix >= 0 && ix < p->in_w ? line + (ptrdiff_t)ix * p->in_c : row;
        }
    }
    for (; t < step; t++) {
        tap[t] = row;
    }
}

/* Whether every tap of output pixel (y, x) and of its left neighbour lies inside: the taps move by a
 * constant. */
BITSHIP_INLINE int moves(const struct bitship_window *p, int32_t y, int32_t x) {
    const int32_t top = y * p->stride_h - p->pad_top, left = (x - 1) * p->stride_w - p->pad_left;
    return x > 0 && top >= 0 && top + (p->kernel_h - 1) * p->dilation_h < p->in_h && left >= 0 &&
           left + p->stride_w + (p->kernel_w - 1) * p->dilation_w < p->in_w;
}

/* The taps of the pixel to the right; those that fill up have weight 0 and stay where they are. */
BITSHIP_INLINE void move(const struct bitship_window *p, const int8_t **tap) {
    const ptrdiff_t by = (ptrdiff_t)p->stride_w * p->in_c;
    for (int32_t t = 0; t < p->kernel_h * p->kernel_w; t++) {
        tap[t] += by;
    }
}

/* acc[64] of the channels from c on, of which `mask` exist. */
BITSHIP_INLINE BITSHIP_VNNI void chunk_quads(const int8_t *const *tap, int32_t step, ptrdiff_t c,
                                             __mmask64 mask, const int8_t *w, const int32_t *bias,
                                             int32_t *acc) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i s[4];
    BITSHIP_UNROLL for (int32_t i = 0; i < 4; i++) { s[i] = _mm512_setzero_si512(); }
    for (int32_t t = 0; t < step; t += 4, w += 4 * 64) {
        __m512i x[4], lo[2], hi[2];
        BITSHIP_UNROLL for (int32_t i = 0; i < 4; i++) {
            x[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, tap[t + i] + c), flip);
        }
        BITSHIP_UNROLL for (int32_t i = 0; i < 2; i++) {
            lo[i] = _mm512_unpacklo_epi8(x[2 * i], x[2 * i + 1]);
            hi[i] = _mm512_unpackhi_epi8(x[2 * i], x[2 * i + 1]);
        }
        s[0] = _mm512_dpbusd_epi32(s[0], _mm512_unpacklo_epi16(lo[0], lo[1]), _mm512_loadu_si512(w));
        s[1] = _mm512_dpbusd_epi32(s[1], _mm512_unpackhi_epi16(lo[0], lo[1]), _mm512_loadu_si512(w + 64));
        s[2] = _mm512_dpbusd_epi32(s[2], _mm512_unpacklo_epi16(hi[0], hi[1]), _mm512_loadu_si512(w + 128));
        s[3] = _mm512_dpbusd_epi32(s[3], _mm512_unpackhi_epi16(hi[0], hi[1]), _mm512_loadu_si512(w + 192));
    }
    /* Transpose the lanes of 4 channels, so that every register has 16 neighbours. */
    const __m512i a = _mm512_shuffle_i32x4(s[0], s[1], 0x44), b = _mm512_shuffle_i32x4(s[2], s[3], 0x44),
                  d = _mm512_shuffle_i32x4(s[0], s[1], 0xEE), e = _mm512_shuffle_i32x4(s[2], s[3], 0xEE);
    const __m512i out[4] = {_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD),
                            _mm512_shuffle_i32x4(d, e, 0x88), _mm512_shuffle_i32x4(d, e, 0xDD)};
    BITSHIP_UNROLL for (int32_t i = 0; i < 4; i++) {
        _mm512_storeu_si512(acc + i * PANEL, _mm512_add_epi32(out[i], _mm512_loadu_si512(bias + i * PANEL)));
    }
}

BITSHIP_INLINE BITSHIP_AVX2 __m256i load_16(const int8_t *from, int32_t n) {
    int8_t some[PANEL] = {0};
    if (n < PANEL) {
        memcpy(some, from, (size_t)n);
        from = some;
    }
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
}

/* acc[16] of the channels from c on, of which n exist. */
BITSHIP_INLINE BITSHIP_AVX2 void chunk_pairs(const int8_t *const *tap, int32_t step, ptrdiff_t c, int32_t n,
                                             const int16_t *w, const int32_t *bias, int32_t *acc) {
    __m256i lo = _mm256_setzero_si256(), hi = lo;
    for (int32_t t = 0; t < step; t += 2, w += 2 * PANEL) {
        const __m256i x = load_16(tap[t] + c, n), y = load_16(tap[t + 1] + c, n);
        const __m256i v = _mm256_loadu_si256((const __m256i *)w),
                      u = _mm256_loadu_si256((const __m256i *)(w + 16));
        lo = _mm256_add_epi32(lo, _mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), v));
        hi = _mm256_add_epi32(hi, _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), u));
    }
    const __m256i a = _mm256_permute2x128_si256(lo, hi, 0x20), b = _mm256_permute2x128_si256(lo, hi, 0x31);
    _mm256_storeu_si256((__m256i *)acc, _mm256_add_epi32(a, _mm256_loadu_si256((const __m256i *)bias)));
    _mm256_storeu_si256((__m256i *)(acc + 8),
                        _mm256_add_epi32(b, _mm256_loadu_si256((const __m256i *)(bias + 8))));
}

static BITSHIP_VNNI void line_quads(const struct bitship_window *p, const struct packed *h,
                                    const int8_t *image, int32_t y, const int8_t *row, ptrdiff_t at,
                                    void *out) {
    const int32_t dtype = bitship_finish_dtype(p->requant);
    const int8_t *tap[MOST_TAPS];
    int32_t acc[4 * PANEL];
    for (int32_t x = 0; x < p->out_w; x++, at += p->out_c) {
        if (moves(p, y, x)) {
            move(p, tap);
        } else {
            point(p, image, y, x, h->step, row, tap);
        }
        for (int32_t c = 0; c < p->out_c; c += 4 * PANEL) {
            const int32_t n = bitship_min(4 * PANEL, p->out_c - c);
            const __mmask64 mask = UINT64_MAX >> (4 * PANEL - n);
            chunk_quads(tap, h->step, c, mask, packed_weights(h) + (ptrdiff_t)c * h->step,
                        packed_table(h, BIAS) + c, acc);
            for (int32_t i = 0; i < n; i += PANEL) {
                finish_panel_512(p->requant, h, c + i, bitship_min(PANEL, n - i), 1, acc + i, 0,
                                 bitship_at_out(out, dtype, at + c + i), 0);
            }
        }
    }
}

static BITSHIP_AVX2 void line_pairs(const struct bitship_window *p, const struct packed *h,
                                    const int8_t *image, int32_t y, const int8_t *row, ptrdiff_t at,
                                    void *out) {
    const int32_t dtype = bitship_finish_dtype(p->requant);
    const int8_t *tap[MOST_TAPS];
    int32_t acc[PANEL];
    for (int32_t x = 0; x < p->out_w; x++, at += p->out_c) {
        if (moves(p, y, x)) {
            move(p, tap);
        } else {
            point(p, image, y, x, h->step, row, tap);
        }
        for (int32_t c = 0; c < p->out_c; c += PANEL) {
            const int32_t n = bitship_min(PANEL, p->out_c - c);
            const int16_t *w = (const int16_t *)packed_weights(h) + (ptrdiff_t)c * h->step;
            if (n == PANEL) {
                chunk_pairs(tap, h->step, c, PANEL, w, packed_table(h, BIAS) + c, acc);
            } else {
                chunk_pairs(tap, h->step, c, n, w, packed_table(h, BIAS) + c, acc);
            }
            finish_panel_256(p->requant, h, c, n, 1, acc, 0, bitship_at_out(out, dtype, at + c), 0);
        }
    }
}

int bitship_host_depthwise_conv2d(const struct bitship_window *p, const void *x, const void *packed,
                                  void *scratch, int32_t scratch_bytes, void *out) {
    if (p == NULL || x == NULL || packed == NULL || scratch == NULL || out == NULL) {
        return BITSHIP_ERROR_ARGUMENT;
    }
    const struct packed *h = (const struct packed *)packed;
    const int32_t level = h->quads ? 2 : 1;
    if (!usable(level, p) || h->quads != packed_quads(level, p)) {
        return BITSHIP_ERROR_UNSUPPORTED;
    }
    if (scratch_bytes < p->in_c) {
        return BITSHIP_ERROR_SCRATCH;
    }
    const int8_t *row = (const int8_t *)scratch, *image = (const int8_t *)x;
    ptrdiff_t at = 0;
    memset(scratch, p->input_zero_point, (size_t)p->in_c);
    for (int32_t b = 0; b < p->batch; b++) {
        for (int32_t y = 0; y < p->out_h; y++) {
            if (h->quads) {
                line_quads(p, h, image, y, row, at, out);
            } else {
                line_pairs(p, h, image, y, row, at, out);
            }
            at += (ptrdiff_t)p->out_w * p->out_c;
        }
        image += (ptrdiff_t)p->in_h * p->in_w * p->in_c;
    }
    return BITSHIP_OK;
}

#else

int bitship_host_depthwise_conv2d(const struct bitship_window *p, const void *x, const void *packed,
                                  void *scratch, int32_t scratch_bytes, void *out) {
    (void)p, (void)x, (void)packed, (void)scratch, (void)scratch_bytes, (void)out;
    return BITSHIP_ERROR_UNSUPPORTED;
}

#endif
