/* Moving the pixels under a kernel into a panel of four (block.h), 16 bytes at a time. */
#ifndef BITSHIP_MVE_GATHER_H
#define BITSHIP_MVE_GATHER_H

#include "mve.h"

/* `rows` rows of `row` bytes, `pitch` bytes apart, into one pixel's part of a panel: every 16 bytes 64
 * further on. Where there are several, a row is whole vectors. */
static inline void bitship_mve_spread_rows(int8_t *to, const int8_t *from, int32_t rows, int32_t row,
                                           int32_t pitch) {
#if BITSHIP_MVE
    if (row == 48) {
        __asm__ volatile(
            "dls lr, %2\n"
            "1: vldrb.u8 q0, [%1]\n"
            "vldrb.u8 q1, [%1, #16]\n"
            "vldrb.u8 q2, [%1, #32]\n"
            "add %1, %1, %3\n"
            "vstrb.8 q0, [%0], #64\n"
            "vstrb.8 q1, [%0], #64\n"
            "vstrb.8 q2, [%0], #64\n"
            "le lr, 1b"
            : "+r"(to), "+r"(from)
            : "r"(rows), "r"(pitch)
            : "lr", "q0", "q1", "q2", "memory");
        return;
    }
    __asm__ volatile(
        "1: dlstp.8 lr, %3\n"
        "2: vldrb.u8 q0, [%1], #16\n"
        "vstrb.8 q0, [%0], #64\n"
        "letp lr, 2b\n"
        "add %1, %1, %4\n"
        "subs %2, %2, #1\n"
        "bne 1b"
        : "+r"(to), "+r"(from), "+r"(rows)
        : "r"(row), "r"(pitch - (row + 15) / 16 * 16)
        : "lr", "q0", "cc", "memory");
#else
    for (; rows > 0; rows--, from += pitch) {
        for (int32_t i = 0; i < row; i++) {
            to[i / 16 * 64 + i % 16] = from[i];
        }
        to += row * 4;
    }
#endif
}

/* The same rows one behind the other; up to 15 bytes behind the last may be written. */
static inline void bitship_mve_pack_rows(int8_t *to, const int8_t *from, int32_t rows, int32_t row,
                                         int32_t pitch) {
#if BITSHIP_MVE
    if (row <= 16) {
        __asm__ volatile(
            "vctp.8 %3\n"
            "dls lr, %2\n"
            "1: vpst\n"
            "vldrbt.u8 q0, [%1]\n"
            "vstrb.8 q0, [%0]\n"
            "add %1, %1, %4\n"
            "add %0, %0, %3\n"
            "le lr, 1b"
            : "+r"(to), "+r"(from)
            : "r"(rows), "r"(row), "r"(pitch)
            : "lr", "q0", "memory");
        return;
    }
    const int32_t whole = (row + 15) / 16 * 16;
    __asm__ volatile(
        "1: dlstp.8 lr, %3\n"
        "2: vldrb.u8 q0, [%1], #16\n"
        "vstrb.8 q0, [%0], #16\n"
        "letp lr, 2b\n"
        "add %1, %1, %4\n"
        "add %0, %0, %5\n"
        "subs %2, %2, #1\n"
        "bne 1b"
        : "+r"(to), "+r"(from), "+r"(rows)
        : "r"(row), "r"(pitch - whole), "r"(row - whole)
        : "lr", "q0", "cc", "memory");
#else
    for (; rows > 0; rows--, from += pitch, to += row) {
        memcpy(to, from, (size_t)row);
    }
#endif
}

#endif
