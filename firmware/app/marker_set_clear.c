/* A pin with a register that sets and one that clears; BITSHIP_MARKER is the first. The second is the next
 * one, on the RP2350 the next but one. The target's port.c makes the pin an output. */
#include "port.h"

#define RP2350_SIO 0xD0000018u
#define SET (*(volatile uint32_t *)BITSHIP_MARKER)
#define CLEAR (*(volatile uint32_t *)(BITSHIP_MARKER + (BITSHIP_MARKER == RP2350_SIO ? 8u : 4u)))

void port_marker_start(void) { port_marker(1); }

void port_marker(int level) {
    if (level) {
        SET = 1u << BITSHIP_MARKER_BIT;
    } else {
        CLEAR = 1u << BITSHIP_MARKER_BIT;
    }
}
