/* reduce_sum of int8 along neighbouring axes: the innermost are added across a vector, others side by side.
 */
#include "mve.h"

/* x[0] + ... + x[n - 1] */
static inline int32_t sum_of(const int8_t *x, int32_t n) {
#if BITSHIP_MVE
    register int32_t sum __asm__("r2") = 0;
    __asm__ volatile(
        "dlstp.8 lr, %2\n"
        "1: vldrb.u8 q0, [%1], #16\n"
        "vaddva.s8 %0, q0\n"
        "letp lr, 1b"
        : "+r"(sum), "+r"(x)
        : "r"(n)
        : "lr", "q0", "memory");
    return sum;
#else
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
#endif
}

/* sums[c] of four columns of n rows, `pitch` bytes apart; `lanes` of them are there. */
static inline void columns_of(const int8_t *x, int32_t n, int32_t pitch, int32_t lanes, int32_t *sums) {
#if BITSHIP_MVE
    __asm__ volatile(
        "vctp.32 %3\n"
        "vmov.i32 q0, #0\n"
        "dls lr, %1\n"
        "1: vpst\n"
        "vldrbt.s32 q1, [%0]\n"
        "add %0, %0, %2\n"
        "vadd.i32 q0, q0, q1\n"
        "le lr, 1b\n"
        "vstrw.32 q0, [%4]"
        : "+l"(x)
        : "r"(n), "r"(pitch), "r"(lanes), "r"(sums)
        : "lr", "q0", "q1", "memory");
#else
    for (int32_t c = 0; c < 4; c++) {
        sums[c] = 0;
        for (int32_t i = 0; c < lanes && i < n; i++) {
            sums[c] += x[i * pitch + c];
        }
    }
#endif
}

int bitship_mve_reduce_sum(const struct bitship_mve_reduce *p, const int8_t *x, int8_t *out) {
    const int32_t entry[5] = {p->bias, p->multiplier, p->shift, p->left, p->below};
    const int8_t clamp[32] = {[0] = (int8_t)p->qmin, [16] = (int8_t)p->qmax};
    for (int32_t o = 0; o < p->outer; o++, x += (ptrdiff_t)p->extent * p->inner) {
        for (int32_t c = 0; c < p->inner; c += 4) {
            const int32_t n = p->inner - c < 4 ? p->inner - c : 4;
            int32_t sums[4];
            if (p->inner == 1) {
                sums[0] = sum_of(x, p->extent);
            } else {
                columns_of(x + c, p->extent, p->inner, n, sums);
            }
            for (int32_t i = 0; i < n; i++) {
                *out++ = bitship_mve_narrow(bitship_mve_round(sums[i], entry, p->rounding),
                                            p->output_zero_point, clamp);
            }
        }
    }
    return BITSHIP_OK;
}
