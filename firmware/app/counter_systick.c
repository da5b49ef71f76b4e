/* SysTick of any Cortex-M: cycles of the core, 24 bits counting down; its exception counts the wraps, which a
 * core without DWT has no other way to notice. It runs for about 20 cycles in every 16,777,216. */
#include "port.h"

#define CSR (*(volatile uint32_t *)0xE000E010u)
#define RVR (*(volatile uint32_t *)0xE000E014u)
#define CVR (*(volatile uint32_t *)0xE000E018u)

#define TOP 0xFFFFFFu

static volatile uint32_t wraps;

void port_systick(void) { wraps++; }

void port_ticks_start(void) {
    CSR = 0;
    RVR = TOP;
    CVR = 0;
    wraps = 0;
    CSR = 7; /* on, with its exception, from the core's clock */
}

uint64_t port_ticks(void) {
    uint32_t before, value;
    do {
        before = wraps;
        value = CVR;
    } while (before != wraps);
    return ((uint64_t)before << 24) + (TOP - value);
}
