/* mcycle of a RISC-V core: cycles, 64 bits in two halves. */
#include "port.h"

void port_ticks_start(void) {
    __asm__ volatile(
        ".option push\n .option arch, +zicsr\n csrci 0x320, 1\n .option pop"); /* mcountinhibit: let it run */
}

uint64_t port_ticks(void) {
    uint32_t high, low, again;
    do {
        __asm__ volatile(
            ".option push\n .option arch, +zicsr\n"
            "csrr %0, mcycleh\n csrr %1, mcycle\n csrr %2, mcycleh\n .option pop"
            : "=&r"(high), "=&r"(low), "=r"(again));
    } while (high != again);
    return ((uint64_t)high << 32) + low;
}
