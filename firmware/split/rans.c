/* rANS: symbols are pushed last to first onto a state of 32 bits, whose low bytes are emitted as it grows. */
#include "rans.h"

#include <stddef.h>

#define ENTRIES 33
#define ESCAPE 31u
#define LOWEST 0x800000u /* 2^23: between two symbols the state is in LOWEST .. 2^31 - 1 */

/* Cores without a divider (Armv6-M, RV32 without M): 19 steps of shift and subtract. */
#if defined(__ARM_ARCH_6M__) || (defined(__riscv) && !defined(__riscv_div))
#define BITSHIP_RANS_NO_DIVIDER
#endif

#if defined(BITSHIP_RANS_NO_DIVIDER)
/* (state / frequency) << 12 + state % frequency, for state < frequency << 19. */
static uint32_t spread(uint32_t state, uint32_t frequency) {
    uint32_t quotient = 0;
    uint32_t part = frequency << 18;
    for (int i = 0; i < 19; i++) {
        quotient <<= 1;
        if (state >= part) {
            state -= part;
            quotient++;
        }
        part >>= 1;
    }
    return (quotient << 12) + state;
}
#else
static inline uint32_t spread(uint32_t state, uint32_t frequency) {
    const uint32_t quotient = state / frequency;
    return state + quotient * (4096u - frequency);
}
#endif

int32_t bitship_rans_check(const struct bitship_rans_tables *tables) {
    if (tables == NULL || tables->offset == NULL || tables->cumulative == NULL || tables->channels < 1) {
        return BITSHIP_RANS_ARGUMENT;
    }
    const uint16_t *row = tables->cumulative;
    for (int32_t c = 0; c < tables->channels; c++, row += ENTRIES) {
        if (row[0] != 0 || row[ENTRIES - 1] != 4096) {
            return BITSHIP_RANS_TABLE;
        }
        for (int i = 1; i < ENTRIES; i++) {
            if (row[i] <= row[i - 1]) {
                return BITSHIP_RANS_TABLE;
            }
        }
    }
    return BITSHIP_RANS_OK;
}

int32_t bitship_rans_encode(const struct bitship_rans_tables *tables, const int8_t *symbols, int32_t pixels,
                            uint8_t *out, int32_t capacity) {
    if (tables == NULL || symbols == NULL || out == NULL || pixels < 1 || tables->channels < 1) {
        return BITSHIP_RANS_ARGUMENT;
    }
    uint32_t state = LOWEST;
    int32_t free = capacity;
    const int8_t *from = symbols + tables->channels * pixels;
    const uint16_t *row = tables->cumulative + tables->channels * ENTRIES;
    for (int32_t c = tables->channels; c-- > 0;) {
        const int32_t offset = tables->offset[c];
        row -= ENTRIES;
        for (int32_t n = pixels; n > 0; n--) {
            const int32_t symbol = *--from;
            uint32_t code = (uint32_t)(symbol - offset);
            if (free < 7) {
                return BITSHIP_RANS_SPACE;
            }
            if (code >= ESCAPE) {
                out[--free] = (uint8_t)state; /* the state is never below LOWEST here: one byte, always */
                state = (state & ~255u) | (uint8_t)symbol;
                code = ESCAPE;
            }
            const uint32_t start = row[code];
            const uint32_t frequency = row[code + 1] - start;
            while (state >= frequency << 19) {
                out[--free] = (uint8_t)state;
                state >>= 8;
            }
            state = spread(state, frequency) + start;
        }
    }
    if (free < 4) {
        return BITSHIP_RANS_SPACE; /* a buffer of fewer than four bytes */
    }
    for (int i = 0; i < 4; i++) {
        out[--free] = (uint8_t)(state >> 24);
        state <<= 8;
    }
    return capacity - free;
}

int32_t bitship_rans_decode(const struct bitship_rans_tables *tables, const uint8_t *stream, int32_t bytes,
                            int8_t *symbols, int32_t pixels) {
    if (tables == NULL || stream == NULL || symbols == NULL || pixels < 1 || tables->channels < 1) {
        return BITSHIP_RANS_ARGUMENT;
    }
    if (bytes < 4) {
        return BITSHIP_RANS_SHORT;
    }
    const uint8_t *const end = stream + bytes;
    uint32_t state = 0;
    for (int i = 0; i < 4; i++) {
        state |= (uint32_t)*stream++ << 8 * i;
    }
    if (state < LOWEST || state >> 31 != 0) {
        return BITSHIP_RANS_STATE;
    }
    const uint16_t *row = tables->cumulative;
    for (int32_t c = 0; c < tables->channels; c++, row += ENTRIES) {
        const int32_t offset = tables->offset[c];
        for (int32_t n = pixels; n > 0; n--) {
            const uint32_t part = state & 4095u;
            uint32_t code = 0;
            for (uint32_t step = 16; step != 0; step >>= 1) {
                code += row[code + step] <= part ? step : 0;
            }
            int32_t symbol = offset + (int32_t)code;
            state = (state >> 12) * (uint32_t)(row[code + 1] - row[code]) + part - row[code];
            while (state < LOWEST) {
                if (stream == end) {
                    return BITSHIP_RANS_END;
                }
                state = state << 8 | *stream++;
            }
            if (code == ESCAPE) {
                if (stream == end) {
                    return BITSHIP_RANS_END;
                }
                symbol = (int8_t)(state & 255u);
                state = (state & ~255u) | *stream++;
                if ((uint32_t)(symbol - offset) < ESCAPE) {
                    return BITSHIP_RANS_ESCAPE;
                }
            }
            if (symbol > INT8_MAX) { /* an offset near the top: a code that stands for no symbol */
                return BITSHIP_RANS_ESCAPE;
            }
            *symbols++ = (int8_t)symbol;
        }
    }
    if (state != LOWEST) {
        return BITSHIP_RANS_FINAL;
    }
    return stream == end ? BITSHIP_RANS_OK : BITSHIP_RANS_LEFT_OVER;
}

int32_t bitship_rans_symbols(const int8_t *codes, int32_t pixels, int32_t channels, int32_t zero_point,
                             int32_t shift, int8_t *symbols) {
    if (codes == NULL || symbols == NULL || pixels < 1 || channels < 1 || shift < 0 || shift > 7) {
        return BITSHIP_RANS_ARGUMENT;
    }
    const int32_t add =
        (1 << shift >> 1) - zero_point + (256 << shift); /* never negative: shifts are exact */
    for (int32_t c = 0; c < channels; c++) {
        for (int32_t p = 0; p < pixels; p++) {
            int32_t symbol = ((codes[p * channels + c] + add) >> shift) - 256;
            symbol = symbol > INT8_MAX ? INT8_MAX : symbol;
            *symbols++ = (int8_t)(symbol < INT8_MIN ? INT8_MIN : symbol);
        }
    }
    return BITSHIP_RANS_OK;
}
