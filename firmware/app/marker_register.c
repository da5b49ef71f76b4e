/* A marker line that is a bit of a register other bits of which are left alone: an MPS board's LED0. */
#include "port.h"

#define LINES (*(volatile uint32_t *)BITSHIP_MARKER)
#define BIT (1u << BITSHIP_MARKER_BIT)

void port_marker_start(void) { LINES |= BIT; }

void port_marker(int level) { LINES = level ? LINES | BIT : LINES & ~BIT; }
