/* How much of the arena a run writes: a pattern before, and where it ends after. */
#ifndef BITSHIP_ARENA_H
#define BITSHIP_ARENA_H

#include <stdint.h>

void arena_paint(void);

/* One past the last byte of the arena that does not hold the paint any more. */
int32_t arena_used(void);

#endif
