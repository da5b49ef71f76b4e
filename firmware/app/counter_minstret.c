/* minstret of a RISC-V core: instructions retired, 64 bits in two halves. */
#include "port.h"

void port_ticks_start(void) {}

uint64_t port_ticks(void) {
    uint32_t high, low, again;
    do {
        __asm__ volatile(
            ".option push\n .option arch, +zicsr\n"
            "csrr %0, minstreth\n csrr %1, minstret\n csrr %2, minstreth\n .option pop"
            : "=&r"(high), "=&r"(low), "=r"(again));
    } while (high != again);
    return ((uint64_t)high << 32) + low;
}
