/* DWT CYCCNT of a Cortex-M3 or larger: cycles of the core. 32 bits, extended at every reading: one wrap
 * between two readings is noticed. */
#include "port.h"

#define DEMCR (*(volatile uint32_t *)0xE000EDFCu)
#define DWT_CTRL (*(volatile uint32_t *)0xE0001000u)
#define DWT_CYCCNT (*(volatile uint32_t *)0xE0001004u)
#define DWT_LAR (*(volatile uint32_t *)0xE0001FB0u)

static uint32_t last, wraps;

void port_ticks_start(void) {
    DEMCR |= 1u << 24;     /* TRCENA: power to the unit */
    DWT_LAR = 0xC5ACCE55u; /* the Cortex-M7's lock; others ignore it */
    DWT_CYCCNT = 0;
    DWT_CTRL |= 1u;
    last = wraps = 0;
}

uint64_t port_ticks(void) {
    const uint32_t now = DWT_CYCCNT;
    wraps += now < last;
    last = now;
    return ((uint64_t)wraps << 32) + now;
}
