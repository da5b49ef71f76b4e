/* Moving the pixels under a kernel into a panel of four (block.h), 16 bytes at a time. */
#ifndef BITSHIP_MVE_GATHER_H
#define BITSHIP_MVE_GATHER_H

#include "mve.h"

/* n bytes into one pixel's part of a panel: every 16 of them 64 further on. */
static inline void bitship_mve_spread(int8_t *to, const int8_t *from, int32_t n) {
#if BITSHIP_MVE
    __asm__ volatile(
        "dlstp.8 lr, %2\n"
        "1: vldrb.u8 q0, [%1], #16\n"
        "vstrb.8 q0, [%0], #64\n"
        "letp lr, 1b"
        : "+r"(to), "+r"(from)
        : "r"(n)
        : "lr", "q0", "memory");
#else
    for (int32_t i = 0; i < n; i++) {
        to[i / 16 * 64 + i % 16] = from[i];
    }
#endif
}

/* The same of `rows` rows of `row` bytes, whole vectors, `pitch` bytes apart. */
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
    for (; rows > 0; rows--, from += pitch, to += row * 4) {
        bitship_mve_spread(to, from, row);
    }
#endif
}

/* Rows of at most 16 bytes, each to a vector of its own; what is behind them in it is 0. */
static inline void bitship_mve_spread_short_rows(int8_t *to, const int8_t *from, int32_t rows, int32_t row,
                                                 int32_t pitch) {
#if BITSHIP_MVE
    __asm__ volatile(
        "vctp.8 %3\n"
        "dls lr, %2\n"
        "1: vpst\n"
        "vldrbt.u8 q0, [%1]\n"
        "add %1, %1, %4\n"
        "vstrb.8 q0, [%0], #64\n"
        "le lr, 1b"
        : "+r"(to), "+r"(from)
        : "r"(rows), "r"(row), "r"(pitch)
        : "lr", "q0", "memory");
#else
    for (; rows > 0; rows--, from += pitch, to += 64) {
        memset(to, 0, BITSHIP_MVE_BYTES);
        memcpy(to, from, (size_t)row);
    }
#endif
}

/* The same for four pixels `hop` bytes apart: a whole panel. */
static inline void bitship_mve_spread_short_rows_4(int8_t *panel, const int8_t *from, int32_t hop,
                                                   int32_t rows, int32_t row, int32_t pitch) {
#if BITSHIP_MVE
    const int8_t *b = from + hop, *c = b + hop, *d = c + hop;
    __asm__ volatile(
        "vctp.8 %6\n"
        "dls lr, %5\n"
        "1: vpstttt\n"
        "vldrbt.u8 q0, [%1]\n"
        "vldrbt.u8 q1, [%2]\n"
        "vldrbt.u8 q2, [%3]\n"
        "vldrbt.u8 q3, [%4]\n"
        "add %1, %1, %7\n"
        "add %2, %2, %7\n"
        "add %3, %3, %7\n"
        "add %4, %4, %7\n"
        "vstrb.8 q1, [%0, #16]\n"
        "vstrb.8 q2, [%0, #32]\n"
        "vstrb.8 q3, [%0, #48]\n"
        "vstrb.8 q0, [%0], #64\n"
        "le lr, 1b"
        : "+r"(panel), "+r"(from), "+r"(b), "+r"(c), "+r"(d)
        : "r"(rows), "r"(row), "r"(pitch)
        : "lr", "q0", "q1", "q2", "q3", "memory");
#else
    for (int32_t i = 0; i < 4; i++) {
        bitship_mve_spread_short_rows(panel + 16 * i, from + i * hop, rows, row, pitch);
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
