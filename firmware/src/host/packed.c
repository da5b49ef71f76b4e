/* What the packed convolutions prepare alike: the level of this processor, the epilogue's tables. */
#include "packed.h"

int32_t bitship_host_level(void) {
#if BITSHIP_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) {
        return 0;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
        return 2;
    }
    return 1;
#else
    return 0;
#endif
}

/* Fused with the sums: int8, a zero point that leaves room, no left shift of a single rounding. */
static int32_t choose(const struct bitship_rescale *r) {
    if (r == NULL || r->dtype != BITSHIP_INT8 || r->input_zero_point != 0 || r->pre_shift != 0 ||
        r->output_zero_point <= -(1 << 30) || r->output_zero_point >= 1 << 30 || r->qmin < -128 ||
        r->qmax > 127) {
        return FINISH;
    }
    for (int32_t i = 0; i < r->count && r->rounding == BITSHIP_SINGLE; i++) {
        if (r->shift[i] > 0) {
            return FINISH;
        }
    }
    return r->rounding == BITSHIP_DOUBLE ? DOUBLE_INT8 : SINGLE_INT8;
}

void bitship_host_tables(const struct bitship_window *p, struct packed *h) {
    const struct bitship_rescale *r = p->requant;
    int32_t *m = (int32_t *)(h + 1) + MULTIPLIER * (ptrdiff_t)h->channels;
    int32_t *left = m + h->channels, *right = left + h->channels;
    h->epilogue = choose(r);
    for (int32_t i = 0; i < h->channels; i++) {
        m[i] = 0;
        left[i] = 0;
        right[i] = h->epilogue == SINGLE_INT8 ? 31 : 0;
        if (h->epilogue == FINISH || i >= p->out_c) {
            continue;
        }
        const int32_t from = r->count > 1 ? i : 0, shift = r->shift[from];
        m[i] = r->multiplier[from];
        if (h->epilogue == SINGLE_INT8) {
            right[i] = 31 - shift;
        } else {
            left[i] = bitship_max(shift, 0);
            right[i] = bitship_max(-shift, 0);
        }
    }
    if (h->epilogue != FINISH) {
        h->lowest = r->qmin - r->output_zero_point;
        h->highest = r->qmax - r->output_zero_point;
    }
}
