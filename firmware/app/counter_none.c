/* A board without a counter: every reading is 0. */
#include "port.h"

void port_ticks_start(void) {}

uint64_t port_ticks(void) { return 0; }
