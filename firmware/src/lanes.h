/* What the kernels share: rows of int32 lanes, loaded from and stored to any dtype, and the rescale of a row.
 *
 * A kernel works on blocks of at most BITSHIP_LANES channels: widen to int32, compute, rescale, narrow. The
 * inner loops are plain C over contiguous lanes, which a vectorising compiler turns into SIMD.
 */
#ifndef BITSHIP_LANES_H
#define BITSHIP_LANES_H

#include "bitship/kernels.h"

#include <stddef.h>

/* Host builds get an AVX2 copy of the marked functions, chosen by the loader; the plain copy runs on any
 * x86-64. */
#if defined(BITSHIP_CLONES)
/* given by the build: -DBITSHIP_CLONES= leaves the plain copies alone */
#elif defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) &&                \
    !defined(__clang__)
#define BITSHIP_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define BITSHIP_CLONES
#endif

/* Lanes of a block: RAM on the stack is 4 bytes each, a few blocks deep. A microcontroller's scalar core
 * prefers branches and registers (BITSHIP_SCALAR) where a vectorising compiler wants straight lines over
 * memory. */
#if !defined(BITSHIP_SCALAR)
#if defined(__arm__) || defined(__riscv)
#define BITSHIP_SCALAR 1
#else
#define BITSHIP_SCALAR 0
#endif
#endif
#define BITSHIP_LANES (BITSHIP_SCALAR ? 16 : 64)

/* Four elements per step of a loop that a scalar core runs: a vectorising compiler decides by itself, and a
 * core with MVE has loops of one instruction. */
#if BITSHIP_SCALAR && defined(__GNUC__) && !defined(__clang__) && !defined(__ARM_FEATURE_MVE)
#define BITSHIP_UNROLL_4 _Pragma("GCC unroll 4")
#else
#define BITSHIP_UNROLL_4
#endif

/* A loop of its own function: inlined, it would share 13 registers with its caller. */
#if BITSHIP_SCALAR && defined(__GNUC__)
#define BITSHIP_APART __attribute__((noinline))
#else
#define BITSHIP_APART
#endif

static inline int32_t bitship_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t bitship_max(int32_t a, int32_t b) { return a > b ? a : b; }

/* The largest of n int8. */
static inline int32_t bitship_largest(const int8_t *x, int32_t n) {
    int8_t most = x[0];
    BITSHIP_UNROLL_4 for (int32_t i = 1; i < n; i++) { most = x[i] > most ? x[i] : most; }
    return most;
}

/* Bytes of one element, or 0 for an unknown dtype. */
static inline int32_t bitship_item_bytes(int32_t dtype) {
    switch (dtype) {
    case BITSHIP_BOOL:
    case BITSHIP_INT8:
    case BITSHIP_UINT8:
        return 1;
    case BITSHIP_INT16:
        return 2;
    case BITSHIP_INT32:
        return 4;
    default:
        return 0;
    }
}

/* int8, int16 or int32. */
static inline int bitship_is_number(int32_t dtype) {
    return dtype == BITSHIP_INT8 || dtype == BITSHIP_INT16 || dtype == BITSHIP_INT32;
}

/* Address of element `index` of a tensor. */
static inline const void *bitship_at(const void *x, int32_t dtype, ptrdiff_t index) {
    return (const uint8_t *)x + index * bitship_item_bytes(dtype);
}
static inline void *bitship_at_out(void *x, int32_t dtype, ptrdiff_t index) {
    return (uint8_t *)x + index * bitship_item_bytes(dtype);
}

/* lanes[i] = x[i * step] for i < n; step 0 repeats one element. */
void bitship_load(const void *x, int32_t dtype, int32_t step, int32_t n, int32_t *lanes);

/* out[i] = lanes[i], low bits; to bool it is lanes[i] != 0. */
void bitship_store(const int32_t *lanes, int32_t n, int32_t dtype, void *out);

/* lanes[i] = rescaled lanes[i]; the first lane is channel `channel` of a per-channel rescale. */
void bitship_rescale_lanes(const struct bitship_rescale *r, int32_t channel, int32_t n, int32_t *lanes);

/* out[i] = rescaled lanes[i], in one pass over scalars; for epilogues (input_zero_point and pre_shift are 0)
 * to int8 whose output_zero_point lies within 2^30 of 0. */
void bitship_rescale_to_int8(const struct bitship_rescale *r, int32_t channel, int32_t n,
                             const int32_t *lanes, int8_t *out);

/* Rescale (unless r is NULL: int32 as it is) and store n lanes. */
void bitship_finish(const struct bitship_rescale *r, int32_t channel, int32_t n, int32_t *lanes, void *out);

/* Dtype an accumulating op stores. */
static inline int32_t bitship_finish_dtype(const struct bitship_rescale *r) {
    return r == NULL ? (int32_t)BITSHIP_INT32 : r->dtype;
}

/* BITSHIP_OK when r is NULL, or well formed for `channels` channels. */
int bitship_check_rescale(const struct bitship_rescale *r, int32_t channels);

/* Step an index over `shape`, last axis fastest, keeping one element offset per operand; 0 when it wrapped
 * round. */
int bitship_next(const int32_t *shape, int32_t rank, int32_t *index, const int32_t *step, ptrdiff_t *offset);

#endif
