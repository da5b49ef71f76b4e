/* A pin of an STM32; BITSHIP_MARKER is BSRR of its port. The target's port.c makes it an output. */
#include "port.h"

#define BSRR (*(volatile uint32_t *)BITSHIP_MARKER)

void port_marker_start(void) { port_marker(1); }

void port_marker(int level) { BSRR = 1u << (level ? BITSHIP_MARKER_BIT : BITSHIP_MARKER_BIT + 16u); }
