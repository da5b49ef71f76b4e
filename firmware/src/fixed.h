/* The two roundings of a rescale on one value, straight lines that vectorise. */
#ifndef BITSHIP_FIXED_H
#define BITSHIP_FIXED_H

#include <stdint.h>

/* SINGLE for shift <= 0. The bias 2^62 makes the sum non-negative, so that an unsigned shift is exact: it is
 * a multiple of 2^down. The result is in int32; so is its sum with the zero point, saturating. */
static inline int32_t bitship_single(int32_t v, int32_t m, int32_t down) {
    uint64_t u = (uint64_t)((int64_t)v * m) + ((uint64_t)1 << 62) + ((uint64_t)1 << (down - 1));
    return (int32_t)((uint32_t)(u >> down) - (uint32_t)(((uint64_t)1 << 62) >> down));
}

/* DOUBLE: rounded high half of 2 * v * m, then a right shift rounding half away from zero. */
static inline int32_t bitship_twice(int32_t v, int32_t m, int32_t right) {
    int32_t high = (int32_t)(uint32_t)((uint64_t)((int64_t)v * m + ((int64_t)1 << 30)) >> 31);
    int32_t mask = (int32_t)(((uint32_t)1 << right) - 1);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

/* y + zero point in [qmin, qmax] without overflow: the clamp moves below the addition where it could. */
static inline int32_t bitship_place(int32_t y, int32_t lo, int32_t hi, int32_t zero_point) {
    y = y < lo ? lo : y;
    y = y > hi ? hi : y;
    return y + zero_point;
}

#endif
