/* table: 16 codes looked up at once. */
#include "mve.h"

int bitship_mve_table(const struct bitship_mve_table *p, const int8_t *x, const int8_t *table, int8_t *out) {
#if BITSHIP_MVE
    int32_t n = p->size;
    __asm__ volatile(
        "dlstp.8 lr, %3\n"
        "1: vldrb.u8 q0, [%0], #16\n"
        "vldrb.u8 q1, [%2, q0]\n"
        "vstrb.8 q1, [%1], #16\n"
        "letp lr, 1b"
        : "+r"(x), "+r"(out)
        : "r"(table), "r"(n)
        : "lr", "q0", "q1", "memory");
#else
    for (int32_t i = 0; i < p->size; i++) {
        out[i] = table[(uint8_t)x[i]];
    }
#endif
    return BITSHIP_OK;
}
