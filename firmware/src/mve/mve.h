/* What the MVE kernels share: Armv8.1-M vectors of 16 bytes, the roundings of an epilogue, moving bytes.
 *
 * Inner loops are written instruction by instruction: the compiler neither forms tail-predicated loops nor
 * keeps sums in the even registers that VMLADAVA needs. Elsewhere the same blocks are plain C, the same bits:
 * what a device runs is laid out, padded and walked as here.
 */
#ifndef BITSHIP_MVE_H
#define BITSHIP_MVE_H

#include "bitship/kernels.h"

#include <stddef.h>
#include <string.h>

#if defined(__ARM_FEATURE_MVE)
#define BITSHIP_MVE 1
#else
#define BITSHIP_MVE 0
#endif

#define BITSHIP_MVE_BYTES 16

/* Words of an epilogue's entry for one channel: bias, multiplier, shift (negative: right), and for the
 * general roundings a left shift and what to add below zero. */
#define BITSHIP_MVE_ENTRY(rounding) ((rounding) >= BITSHIP_MVE_SINGLE_ANY ? 5 : 3)

static inline int32_t bitship_mve_min(int32_t a, int32_t b) { return a < b ? a : b; }

/* Copy n bytes, 16 at a time. */
static inline void bitship_mve_copy(int8_t *to, const int8_t *from, int32_t n) {
#if BITSHIP_MVE
    __asm__ volatile(
        "wlstp.8 lr, %2, 2f\n"
        "1: vldrb.u8 q0, [%1], #16\n"
        "vstrb.8 q0, [%0], #16\n"
        "letp lr, 1b\n"
        "2:"
        : "+r"(to), "+r"(from)
        : "r"(n)
        : "lr", "q0", "memory");
#else
    memcpy(to, from, (size_t)n);
#endif
}

/* n bytes of one value. */
static inline void bitship_mve_fill(int8_t *to, int32_t value, int32_t n) {
#if BITSHIP_MVE
    __asm__ volatile(
        "vdup.8 q0, %1\n"
        "wlstp.8 lr, %2, 2f\n"
        "1: vstrb.8 q0, [%0], #16\n"
        "letp lr, 1b\n"
        "2:"
        : "+r"(to)
        : "r"(value), "r"(n)
        : "lr", "q0", "memory");
#else
    memset(to, value, (size_t)n);
#endif
}

/* qmin and qmax as the vectors that an epilogue clamps with, in 32 bytes; NULL where int8 says it all. */
static inline const int8_t *bitship_mve_clamp(int32_t qmin, int32_t qmax, int8_t *room) {
    if (qmin == -128 && qmax == 127) {
        return NULL;
    }
    bitship_mve_fill(room, qmin, BITSHIP_MVE_BYTES);
    bitship_mve_fill(room + BITSHIP_MVE_BYTES, qmax, BITSHIP_MVE_BYTES);
    return room;
}

/* The epilogue of one sum, as the vector instructions have it. */
static inline int32_t bitship_mve_round(int32_t sum, const int32_t *entry, int32_t rounding) {
    int64_t v = (int32_t)((uint32_t)sum + (uint32_t)entry[0]);
    if (rounding >= BITSHIP_MVE_SINGLE_ANY) {
        v *= (int64_t)1 << entry[3];
        v = v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v;
    }
    const int single = rounding == BITSHIP_MVE_SINGLE || rounding == BITSHIP_MVE_SINGLE_ANY;
    v = (v * entry[1] + (single ? 0 : (int64_t)1 << 30)) >> 31;
    if (v < 0 && (rounding == BITSHIP_MVE_DOUBLE || (rounding == BITSHIP_MVE_DOUBLE_ANY && entry[4] != 0))) {
        v--;
    }
    const int32_t right = -entry[2];
    return (int32_t)(right > 0 ? (v + ((int64_t)1 << (right - 1))) >> right : v);
}

static inline int8_t bitship_mve_narrow(int32_t y, int32_t zero_point, const int8_t *clamp) {
    const int64_t lo = clamp != NULL ? clamp[0] : -128, hi = clamp != NULL ? clamp[16] : 127;
    const int64_t v = (int64_t)y + zero_point;
    return (int8_t)(v < lo ? lo : v > hi ? hi : v);
}

#endif
