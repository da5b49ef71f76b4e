/* The caches of a Cortex-M7, as they are after a reset: off, their contents unknown. */
#ifndef BITSHIP_CACHES_H
#define BITSHIP_CACHES_H

#include <stdint.h>

#define CACHES_REGISTER(address) (*(volatile uint32_t *)(address))

/* Both caches are emptied and switched on. Nothing else than the core writes memory, so nothing need be kept
 * coherent. */
static inline void caches_start(void) {
    CACHES_REGISTER(0xE000ED84u) = 0; /* CSSELR: the first level's data cache */
    __asm__ volatile("dsb" ::: "memory");
    const uint32_t size = CACHES_REGISTER(0xE000ED80u); /* CCSIDR */
    const uint32_t sets = size >> 13 & 0x7FFFu, ways = size >> 3 & 0x3FFu;
    for (uint32_t set = 0; set <= sets; set++) {
        for (uint32_t way = 0; way <= ways; way++) {
            CACHES_REGISTER(0xE000EF60u) = way << 30 | set << 5; /* DCISW: four ways, lines of 32 bytes */
        }
    }
    CACHES_REGISTER(0xE000EF50u) = 0; /* ICIALLU */
    __asm__ volatile("dsb\n isb" ::: "memory");
    CACHES_REGISTER(0xE000ED14u) |= 1u << 16 | 1u << 17; /* CCR: DC, IC */
    __asm__ volatile("dsb\n isb" ::: "memory");
}

#endif
