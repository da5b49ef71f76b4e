/* COUNTER of an Arm MPS board's FPGAIO, 32 bits; CLK1HZ, 8 bytes before it, tells its wraps. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_COUNTER + (uint32_t)(offset)))

void port_ticks_start(void) {}

uint64_t port_ticks(void) {
    const uint32_t low = REGISTER(0), seconds = REGISTER(-8);
    const uint64_t about = (uint64_t)seconds * BITSHIP_COUNTER_HZ + BITSHIP_COUNTER_HZ / 2;
    const uint64_t wraps =
        (about + ((uint64_t)1 << 31) - low) >> 32; /* to nearest: a second is far below a wrap */
    return (wraps << 32) + low;
}
