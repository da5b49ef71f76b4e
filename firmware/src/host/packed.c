/* What the packed kernels prepare alike: the level of this processor, the epilogue's tables. */
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

/* Fused with the sums: int8 or int16, a zero point that leaves room, no large left shift of a single
 * rounding. */
static int32_t choose(const struct bitship_rescale *r, int32_t most_left) {
    if (r == NULL || (r->dtype != BITSHIP_INT8 && r->dtype != BITSHIP_INT16) || r->input_zero_point != 0 ||
        r->pre_shift != 0 || r->output_zero_point <= -(1 << 30) || r->output_zero_point >= 1 << 30) {
        return FINISH;
    }
    const int32_t lowest = r->dtype == BITSHIP_INT8 ? INT8_MIN : INT16_MIN;
    if (r->qmin < lowest || r->qmax > -1 - lowest) {
        return FINISH;
    }
    for (int32_t i = 0; i < r->count && r->rounding == BITSHIP_SINGLE; i++) {
        if (r->shift[i] > most_left) {
            return FINISH;
        }
    }
    return r->rounding == BITSHIP_DOUBLE ? DOUBLE : SINGLE;
}

void bitship_host_tables(const struct bitship_rescale *r, int32_t channels, int32_t most_left,
                         struct packed *h) {
    int32_t *m = (int32_t *)(h + 1) + MULTIPLIER * (ptrdiff_t)h->channels;
    int32_t *left = m + h->channels, *right = left + h->channels;
    h->epilogue = choose(r, most_left);
    for (int32_t i = 0; i < h->channels; i++) {
        m[i] = 0;
        left[i] = 0;
        right[i] = h->epilogue == SINGLE ? 31 : 0;
        if (h->epilogue == FINISH || i >= channels) {
            continue;
        }
        const int32_t from = r->count > 1 ? i : 0, shift = r->shift[from];
        m[i] = r->multiplier[from];
        if (h->epilogue == SINGLE) {
            right[i] = 31 - shift;
        } else {
            left[i] = bitship_max(shift, 0);
            right[i] = bitship_max(-shift, 0);
        }
    }
    if (h->epilogue != FINISH) {
        h->lowest = r->qmin - r->output_zero_point;
        h->highest = r->qmax - r->output_zero_point;
        h->item = bitship_item_bytes(r->dtype);
    }
}
