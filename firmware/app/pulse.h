/* Time, and the marker that shows it to a power meter. */
#ifndef BITSHIP_PULSE_H
#define BITSHIP_PULSE_H

#include <stdint.h>

uint64_t microseconds(uint64_t ticks);

/* The marker line low, and high again. */
void pulse(void);

#endif
