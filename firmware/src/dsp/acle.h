/* The instructions of Arm's DSP extension that the kernels of this folder use, each with its meaning in C.
 *
 * A core with the extension gets the instruction; any other processor gets the C, so that the same kernels
 * run, and are tested, on a host. Sums wrap modulo 2^32: only totals are proven to fit.
 */
#ifndef BITSHIP_DSP_ACLE_H
#define BITSHIP_DSP_ACLE_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && defined(__GNUC__)
#define BITSHIP_DSP_ASM 1
#else
#define BITSHIP_DSP_ASM 0
#endif

/* Four bytes from any address. */
static inline uint32_t bitship_word(const void *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

/* Low and high halfword as numbers, and two numbers as a word. */
static inline int32_t bitship_low(uint32_t pair) { return (int16_t)(pair & 0xffffu); }
static inline int32_t bitship_high(uint32_t pair) { return (int16_t)(pair >> 16); }
static inline uint32_t bitship_pair(int32_t low, int32_t high) {
    return ((uint32_t)low & 0xffffu) | (uint32_t)high << 16;
}

#if BITSHIP_DSP_ASM

static inline uint32_t bitship_sxtb16(uint32_t x) {
    uint32_t y;
    __asm__("sxtb16 %0, %1" : "=r"(y) : "r"(x));
    return y;
}
static inline uint32_t bitship_sxtb16_odd(uint32_t x) {
    uint32_t y;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x));
    return y;
}
static inline uint32_t bitship_sxtab16(uint32_t sum, uint32_t x) {
    uint32_t y;
    __asm__("sxtab16 %0, %1, %2" : "=r"(y) : "r"(sum), "r"(x));
    return y;
}
static inline uint32_t bitship_sxtab16_odd(uint32_t sum, uint32_t x) {
    uint32_t y;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(y) : "r"(sum), "r"(x));
    return y;
}
static inline int32_t bitship_smmla(int32_t a, int32_t b, int32_t c) {
    int32_t y;
    __asm__("smmla %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
static inline int32_t bitship_smmlar(int32_t a, int32_t b, int32_t c) {
    int32_t y;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
static inline int32_t bitship_ssat8(int32_t x) {
    int32_t y;
    __asm__("ssat %0, #8, %1" : "=r"(y) : "r"(x));
    return y;
}
static inline int32_t bitship_ssat16(int32_t x) {
    int32_t y;
    __asm__("ssat %0, #16, %1" : "=r"(y) : "r"(x));
    return y;
}
static inline uint32_t bitship_max8(uint32_t a, uint32_t b) {
    uint32_t y; /* one statement: the comparison's flags must live until they select */
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(y) : "r"(a), "r"(b));
    return y;
}

#else

/* Bytes 0 and 2, or 1 and 3, as two numbers. */
static inline uint32_t bitship_sxtb16(uint32_t x) {
    return bitship_pair((int8_t)(x & 0xffu), (int8_t)(x >> 16 & 0xffu));
}
static inline uint32_t bitship_sxtb16_odd(uint32_t x) { return bitship_sxtb16(x >> 8); }

/* The same, added to two numbers modulo 2^16. */
static inline uint32_t bitship_sxtab16(uint32_t sum, uint32_t x) {
    return bitship_pair(bitship_low(sum) + (int8_t)(x & 0xffu),
                        bitship_high(sum) + (int8_t)(x >> 16 & 0xffu));
}
static inline uint32_t bitship_sxtab16_odd(uint32_t sum, uint32_t x) { return bitship_sxtab16(sum, x >> 8); }

/* c + the upper word of a * b, the product rounded down, or half up. */
static inline int32_t bitship_smmla(int32_t a, int32_t b, int32_t c) {
    return (int32_t)((uint32_t)(((int64_t)a * b) >> 32) + (uint32_t)c);
}
static inline int32_t bitship_smmlar(int32_t a, int32_t b, int32_t c) {
    return (int32_t)((uint32_t)(((int64_t)a * b + ((int64_t)1 << 31)) >> 32) + (uint32_t)c);
}

/* x in [-128, 127]. */
static inline int32_t bitship_ssat8(int32_t x) { return x < -128 ? -128 : x > 127 ? 127 : x; }

/* x in [-32768, 32767]. */
static inline int32_t bitship_ssat16(int32_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : x; }

/* The larger of each of four int8. */
static inline uint32_t bitship_max8(uint32_t a, uint32_t b) {
    uint32_t y = 0;
    for (int i = 0; i < 32; i += 8) {
        const int8_t p = (int8_t)(a >> i & 0xffu), q = (int8_t)(b >> i & 0xffu);
        y |= (uint32_t)(uint8_t)(p > q ? p : q) << i;
    }
    return y;
}

#endif

/* acc + both products of two pairs, modulo 2^32. */
static inline int32_t bitship_smlad(uint32_t a, uint32_t b, int32_t acc) {
#if BITSHIP_DSP_ASM
    int32_t y;
    __asm__("smlad %0, %1, %2, %3" : "=r"(y) : "r"(a), "r"(b), "r"(acc));
    return y;
#else
    const uint32_t low = (uint32_t)(bitship_low(a) * bitship_low(b));
    return (int32_t)((uint32_t)acc + low + (uint32_t)(bitship_high(a) * bitship_high(b)));
#endif
}

#endif
