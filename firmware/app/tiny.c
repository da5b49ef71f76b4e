#include "tiny.h"

#include "model.h"
#include "text.h"
#include "work.h"

#define MICROS 1000000

#if SERIAL_INPUT == TINY_FLOAT
/* A single as a multiple of 2^-16, to nearest, within +-4096; so are infinities, and what is no number. */
static int64_t fixed(const uint8_t *from) {
    const uint32_t bits =
        from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
    const int exponent = (int)(bits >> 23 & 255u) - 134; /* the mantissa times 2^(exponent) is in 2^-16 */
    int64_t value = (int64_t)(bits & 0x7FFFFFu) | 0x800000;
    if (exponent < -24) {
        value = 0;
    } else if (exponent > 5) {
        value = (int64_t)1 << 28;
    } else if (exponent < 0) {
        value = (value + ((int64_t)1 << (-exponent - 1))) >> -exponent;
    } else {
        value <<= exponent;
    }
    value = value > (int64_t)1 << 28 ? (int64_t)1 << 28 : value;
    return bits >> 31 ? -value : value;
}

void tiny_convert(const uint8_t *from, void *to) {
    int8_t *q = (int8_t *)to;
    for (int32_t i = 0; i < MODEL_INPUT_0_BYTES; i++) {
        /* x / scale, halves away from 0; SERIAL_INPUT_INVERSE is 2^24 / scale */
        const int64_t x = fixed(from + 4 * i) * SERIAL_INPUT_INVERSE;
        const int64_t half = (int64_t)1 << 39;
        int64_t value = x < 0 ? -((half - x) >> 40) : (x + half) >> 40;
        value += SERIAL_INPUT_ZERO;
        q[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}
#else
void tiny_convert(const uint8_t *from, void *to) {
    uint8_t *q = (uint8_t *)to;
    for (int32_t i = 0; i < MODEL_INPUT_0_BYTES; i++) {
        q[i] = SERIAL_INPUT == TINY_UNSIGNED ? (uint8_t)(from[i] ^ 0x80u) : from[i];
    }
}
#endif

static void put_micros(int64_t value) {
    uint32_t fraction;
    if (value < 0) {
        put_text("-");
        value = -value;
    }
    put_number(text_divide((uint64_t)value, MICROS, &fraction));
    put_text(".");
    for (uint32_t place = MICROS / 10; place > fraction && place > 1; place /= 10) {
        put_text("0");
    }
    put_number(fraction);
}

#if SERIAL_SCORE
/* In 2^-16: the mean over all elements of (output - input)^2. */
static void put_score(void) {
    uint64_t sum = 0;
    uint32_t rest;
    const int8_t *q = (const int8_t *)model_output(0);
    for (int32_t i = 0; i < MODEL_OUTPUT_0_BYTES; i++) {
        const int64_t y = ((int64_t)(q[i] - SERIAL_ZERO) * SERIAL_SCALE) >> (SERIAL_SHIFT - 16);
        const int64_t d = y - fixed(work_input + 4 * i);
        sum += (uint64_t)(d * d) >> 16;
    }
    const uint64_t mean = text_divide(sum, MODEL_OUTPUT_0_BYTES, &rest);
    put_micros((int64_t)((mean * MICROS) >> 16));
}
#endif

void tiny_results(void) {
    put_text("m-results-[");
#if SERIAL_SCORE
    put_score();
#else
    const void *output = model_output(0);
    for (int32_t i = 0; i < SERIAL_RESULTS; i++) {
        const int64_t q = (int64_t)((const SERIAL_RESULT *)output)[i] - SERIAL_ZERO;
        const int64_t half = (int64_t)1
                             << (SERIAL_SHIFT - 1); /* SERIAL_SCALE / 2^SERIAL_SHIFT is in millionths */
        if (i > 0) {
            put_text(",");
        }
        put_micros((q * SERIAL_SCALE + half) >> SERIAL_SHIFT);
    }
#endif
    put_line("]");
}
