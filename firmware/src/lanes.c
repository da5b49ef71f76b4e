#include "lanes.h"

BITSHIP_CLONES
void bitship_load(const void *x, int32_t dtype, int32_t step, int32_t n, int32_t *lanes) {
    const int8_t *x8 = (const int8_t *)x;
    const uint8_t *u8 = (const uint8_t *)x;
    const int16_t *x16 = (const int16_t *)x;
    const int32_t *x32 = (const int32_t *)x;
    switch (dtype) {
    case BITSHIP_INT8:
        if (step == 1) {
            for (int32_t i = 0; i < n; i++) {
                lanes[i] = x8[i];
            }
        } else {
            for (int32_t i = 0; i < n; i++) {
                lanes[i] = x8[(ptrdiff_t)i * step];
            }
        }
        break;
    case BITSHIP_INT16:
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = x16[(ptrdiff_t)i * step];
        }
        break;
    case BITSHIP_INT32:
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = x32[(ptrdiff_t)i * step];
        }
        break;
    default: /* BITSHIP_UINT8, BITSHIP_BOOL */
        for (int32_t i = 0; i < n; i++) {
            lanes[i] = u8[(ptrdiff_t)i * step];
        }
        break;
    }
}

BITSHIP_CLONES
void bitship_store(const int32_t *lanes, int32_t n, int32_t dtype, void *out) {
    int8_t *o8 = (int8_t *)out;
    uint8_t *u8 = (uint8_t *)out;
    int16_t *o16 = (int16_t *)out;
    int32_t *o32 = (int32_t *)out;
    switch (dtype) {
    case BITSHIP_INT8:
        for (int32_t i = 0; i < n; i++) {
            o8[i] = (int8_t)lanes[i];
        }
        break;
    case BITSHIP_INT16:
        for (int32_t i = 0; i < n; i++) {
            o16[i] = (int16_t)lanes[i];
        }
        break;
    case BITSHIP_INT32:
        for (int32_t i = 0; i < n; i++) {
            o32[i] = lanes[i];
        }
        break;
    case BITSHIP_BOOL:
        for (int32_t i = 0; i < n; i++) {
            u8[i] = lanes[i] != 0;
        }
        break;
    default: /* BITSHIP_UINT8 */
        for (int32_t i = 0; i < n; i++) {
            u8[i] = (uint8_t)lanes[i];
        }
        break;
    }
}

void bitship_finish(const struct bitship_rescale *r, int32_t channel, int32_t n, int32_t *lanes, void *out) {
    if (r == NULL) {
        bitship_store(lanes, n, BITSHIP_INT32, out);
        return;
    }
    if (BITSHIP_SCALAR && r->dtype == BITSHIP_INT8 && r->pre_shift == 0 && r->input_zero_point == 0 &&
        r->output_zero_point > -(1 << 30) && r->output_zero_point < 1 << 30) {
        bitship_rescale_to_int8(r, channel, n, lanes, (int8_t *)out);
        return;
    }
    bitship_rescale_lanes(r, channel, n, lanes);
    bitship_store(lanes, n, r->dtype, out);
}

int bitship_next(const int32_t *shape, int32_t rank, int32_t *index, const int32_t *step, ptrdiff_t *offset) {
    for (int32_t axis = rank - 1; axis >= 0; axis--) {
        *offset += step[axis];
        if (++index[axis] < shape[axis]) {
            return 1;
        }
        *offset -= (ptrdiff_t)index[axis] * step[axis];
        index[axis] = 0;
    }
    return 0;
}
