/* What the RP2040 and the RP2350 share: resets, the crystal, the PLL, the switch of the system's clock. */
#ifndef BITSHIP_RP2_H
#define BITSHIP_RP2_H

#include <stdint.h>

#define RP2_REGISTER(address) (*(volatile uint32_t *)(address))
#define RP2_CLEAR 0x3000u /* of the atomic aliases of every peripheral */

/* Where a chip has them. */
struct rp2 {
    uint32_t resets, clocks, oscillator, pll;
    uint32_t pll_reset; /* its bit in resets */
};

/* Take peripherals out of reset. */
static inline void rp2_release(const struct rp2 *chip, uint32_t bits) {
    RP2_REGISTER(chip->resets + RP2_CLEAR) = bits;
    while ((RP2_REGISTER(chip->resets + 8u) & bits) != bits) {
    }
}

/* The 12 MHz crystal is the reference, and the system's clock for now. */
static inline void rp2_crystal(const struct rp2 *chip) {
    RP2_REGISTER(chip->oscillator) = 0xAA0u;      /* 1 to 15 MHz */
    RP2_REGISTER(chip->oscillator + 0x0Cu) = 47u; /* about 1 ms */
    RP2_REGISTER(chip->oscillator) = 0xFABu << 12 | 0xAA0u;
    while ((RP2_REGISTER(chip->oscillator + 4u) & 1u << 31) == 0) {
    }
    RP2_REGISTER(chip->clocks + 0x3Cu) = 0; /* the system from the reference */
    while ((RP2_REGISTER(chip->clocks + 0x44u) & 1u) == 0) {
    }
    RP2_REGISTER(chip->clocks + 0x30u) = 2u; /* the reference from the crystal */
    while ((RP2_REGISTER(chip->clocks + 0x38u) & 4u) == 0) {
    }
}

/* The system at 12 MHz * 125 / divider / 2, peripherals from the crystal. */
static inline void rp2_system(const struct rp2 *chip, uint32_t divider) {
    rp2_release(chip, chip->pll_reset);
    RP2_REGISTER(chip->pll) = 1u;
    RP2_REGISTER(chip->pll + 8u) = 125u;
    RP2_REGISTER(chip->pll + 4u + RP2_CLEAR) = 1u | 1u << 5;
    while ((RP2_REGISTER(chip->pll) & 1u << 31) == 0) {
    }
    RP2_REGISTER(chip->pll + 0x0Cu) = divider << 16 | 2u << 12;
    RP2_REGISTER(chip->pll + 4u + RP2_CLEAR) = 1u << 3;
    RP2_REGISTER(chip->clocks + 0x3Cu) = 0;  /* auxiliary source: the PLL */
    RP2_REGISTER(chip->clocks + 0x3Cu) = 1u; /* from the auxiliary source */
    while ((RP2_REGISTER(chip->clocks + 0x44u) & 2u) == 0) {
    }
    RP2_REGISTER(chip->clocks + 0x48u) = 1u << 11 | 4u << 5;
}

#endif
