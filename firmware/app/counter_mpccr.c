/* The ESP32-C3's own counter of the core's cycles; it has no mcycle. 32 bits, extended at every reading: one
 * wrap between two readings is noticed. */
#include "port.h"

static uint32_t last, wraps;

void port_ticks_start(void) {
    __asm__ volatile(
        ".option push\n .option arch, +zicsr\n"
        "csrwi 0x7E0, 1\n csrwi 0x7E1, 1\n csrwi 0x7E2, 0\n .option pop"); /* cycles, running, from 0 */
    last = wraps = 0;
}

uint64_t port_ticks(void) {
    uint32_t now;
    __asm__ volatile(".option push\n .option arch, +zicsr\n csrr %0, 0x7E2\n .option pop" : "=r"(now));
    wraps += now < last;
    last = now;
    return ((uint64_t)wraps << 32) + now;
}
