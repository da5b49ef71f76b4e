/* A TIMER of the nRF51: 16 MHz, read by capturing into CC[0]; one wrap of its 32 bits between two readings is
 * noticed. */
#include "port.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BITSHIP_COUNTER + (uint32_t)(offset)))

static uint32_t last, wraps;

void port_ticks_start(void) {
    REGISTER(0x004) = 1; /* STOP */
    REGISTER(0x504) = 0; /* MODE: timer */
    REGISTER(0x508) = 3; /* BITMODE: 32 */
    REGISTER(0x510) = 0; /* PRESCALER */
    REGISTER(0x00C) = 1; /* CLEAR */
    REGISTER(0x000) = 1; /* START */
    last = wraps = 0;
}

uint64_t port_ticks(void) {
    REGISTER(0x040) = 1; /* CAPTURE[0] */
    const uint32_t now = REGISTER(0x540);
    wraps += now < last;
    last = now;
    return ((uint64_t)wraps << 32) + now;
}
