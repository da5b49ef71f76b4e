/* How much of the stack was ever in use: a pattern below the stack pointer, and where it ends later. */
#include "port.h"

extern uint32_t __stack_limit[], __stack_top[];

#define PATTERN 0xB175417Bu

void port_stack_paint(void) {
    const uint32_t *here = (const uint32_t *)__builtin_frame_address(0);
    for (uint32_t *word = __stack_limit; word < here - 16; word++) {
        *(volatile uint32_t *)word = PATTERN;
    }
}

int32_t port_stack_bytes(void) {
    const uint32_t bytes = (uint32_t)(__stack_top - __stack_limit) * 4;
    uint32_t free = 0;
    while (free < bytes && ((const volatile uint32_t *)__stack_limit)[free / 4] == PATTERN) {
        free += 4;
    }
    return (int32_t)(bytes - free);
}
